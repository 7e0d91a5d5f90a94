"""Chat formats: how the turns of a dialogue become tokens, the same for training, validation and chat.

`separator`   `[CLS] turn [SEP] turn [SEP] ... <end>`, the layout of the original program (this file)
`template`    the chat template of an instruct model (`template_format.py`)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from dialog_trainer.data.formatting import format_context, make_spans
from dialog_trainer.data.text_encoder import TextEncoder
from dialog_trainer.data.truncation import TRUNCATIONS
from dialog_trainer.types import Dialogue, Role, Span, SpecialTokens, TokenContract, TokenSequence, Turn

END_TOKEN = "<|endoftext|>"
# Ours: literal tokens, because not every program passes their names to a template. The marks of the assistant's tokens
# (turn, its end, and the end of the dialogue) are those of transformers' `return_assistant_tokens_mask`.
SEPARATOR_TEMPLATE = (
    "{{ %(start)s }}{%% for message in messages %%}"
    "{%% if message['content'] is string %%}{%% set text = message['content'] | trim %%}"
    "{%% else %%}{%% set text = message['content'] | map(attribute='text') | join(' ') | trim %%}{%% endif %%}"
    "{%% if message['role'] == 'assistant' %%}{%% generation %%}{{ text }}{{ %(separator)s }}{%% endgeneration %%}"
    "{%% else %%}{{ text }}{{ %(separator)s }}{%% endif %%}{%% endfor %%}"
    "{%% if not add_generation_prompt %%}{%% generation %%}{{ %(end)s }}{%% endgeneration %%}{%% endif %%}"
)


class ChatFormat(Protocol):
    """Lays dialogues out as tokens.

    Attributes:
        name: for messages, as `separator`.
        encoder: encodes the texts.
        notes: what had to be changed in the tokenizer, or is unusual, each as a line.
        template: the chat template (Jinja) that is saved with the model.
        ends: ids that end a reply.
        suppressed: ids that a reply never holds.
        contract: what holds for the tokens of each sequence.
        has_system: whether a dialogue may start with a system turn of its own.
        ended_roles: roles whose turns end with a token, so that generation knows where to stop.
    """

    name: str
    encoder: TextEncoder
    notes: tuple[str, ...]
    template: str
    ends: tuple[int, ...]
    suppressed: tuple[int, ...]
    contract: TokenContract
    has_system: bool
    ended_roles: frozenset[Role]

    def encode_dialogues(
        self, dialogues: Sequence[Dialogue], max_len: int, truncation: str
    ) -> list[list[TokenSequence]]:
        """The training sequences of each dialogue, of at most `max_len` tokens, by a policy of `TRUNCATIONS`.

        Raises `DataError` for a dialogue that the format cannot write.
        """

    def encode_contexts(self, turns: Sequence[Turn], indices: Sequence[int], max_tokens: int) -> list[list[int]]:
        """The prompt of the turn at each of `indices`, of at most `max_tokens` tokens: the turns before it, and what the
        format writes before its text.

        A prompt that is too long loses whole turns from the left; of a last turn that alone is too long, the end is kept.
        """

    def digest(self) -> str:
        """A hash that changes when the layout may change."""


# Makes the chat format of a tokenizer, to which it may add tokens.
MakeFormat = Callable[[PreTrainedTokenizerFast], ChatFormat]


class SeparatorFormat:
    """`[CLS] turn [SEP] turn [SEP] ... <end>`: roles alternate, and no token names them (the original program)."""

    name = "separator"
    has_system = False
    ended_roles = frozenset({Role.USER, Role.ASSISTANT})

    def __init__(self, hf_tokenizer: PreTrainedTokenizerFast):
        """Adds `[CLS]`, `[SEP]` and `[PAD]` to the tokenizer."""
        hf_tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"})
        self.notes = _set_apart_end_token(hf_tokenizer)
        self.encoder = TextEncoder(hf_tokenizer.backend_tokenizer.to_str())
        self.special_tokens = SpecialTokens(
            start=self.encoder.id_of("[CLS]"),
            separator=self.encoder.id_of("[SEP]"),
            end=self.encoder.id_of(hf_tokenizer.eos_token),
            pad=self.encoder.id_of("[PAD]"),
        )
        start, separator, end, pad = astuple(self.special_tokens)
        names = {"start": "[CLS]", "separator": "[SEP]", "end": hf_tokenizer.eos_token}
        self.template = SEPARATOR_TEMPLATE % {name: json.dumps(token) for name, token in names.items()}
        hf_tokenizer.chat_template = self.template
        self.ends: tuple[int, ...] = (separator, end)
        self.suppressed: tuple[int, ...] = (start, pad)
        ends = frozenset([separator])
        self.contract = TokenContract({Role.USER: ends, Role.ASSISTANT: ends}, dialogue_end=end, pad=pad)

    def encode_turns(self, texts: Sequence[str], roles: Sequence[int]) -> list[Span]:
        """The spans of consecutive turns, each ended by `[SEP]`."""
        return make_spans(self.encoder.encode(texts), roles, self.special_tokens.separator)

    def encode_dialogues(
        self, dialogues: Sequence[Dialogue], max_len: int, truncation: str
    ) -> list[list[TokenSequence]]:
        policy = TRUNCATIONS[truncation]
        ids = iter(self.encoder.encode([turn.text for dialogue in dialogues for turn in dialogue.turns]))
        return [
            policy(
                make_spans(
                    [next(ids) for _ in dialogue.turns],
                    [turn.role for turn in dialogue.turns],
                    self.special_tokens.separator,
                ),
                self.special_tokens,
                max_len,
            )
            for dialogue in dialogues
        ]

    def encode_contexts(self, turns: Sequence[Turn], indices: Sequence[int], max_tokens: int) -> list[list[int]]:
        before = turns[: max(indices, default=0)]
        spans = self.encode_turns([turn.text for turn in before], [turn.role for turn in before])
        return [format_context(spans[:index], self.special_tokens, max_tokens) for index in indices]

    def digest(self) -> str:
        return self.encoder.digest()


def _set_apart_end_token(hf_tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Gives a tokenizer whose end-of-text token is missing, or pads or starts a dialogue, one of its own; says so."""
    end = hf_tokenizer.eos_token
    if end == "[SEP]":
        return (
            "the tokenizer's end-of-text token is [SEP], which ends each turn too: the end of a dialogue is no sign of its own",
        )
    if end not in (None, "[PAD]", "[CLS]"):
        return ()
    hf_tokenizer.add_special_tokens({"eos_token": END_TOKEN})
    why = (
        "has no end-of-text token" if end is None else f"has {end} as its end-of-text token, which has another use here"
    )
    return (f"the tokenizer {why}: {END_TOKEN} is added, and ends a dialogue",)
