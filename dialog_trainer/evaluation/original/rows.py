"""Rows of the original program's rule: a generated row and its target row, both of `max_len` tokens.

A generated row is the first turn and the text that the model generates behind it, special tokens included. A target row
is the dialogue, cut or padded to the same length. Source: ljm565/multi-turn-chatbot-GPT2, whose rows are decoded and
tokenized again by `GPT2Tokenizer` of transformers 4.28.1: `decode_row` and `tokenize_row` do the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby

from transformers import PreTrainedModel

from dialog_trainer.data.chat_format import SeparatorFormat
from dialog_trainer.data.formatting import start_sequence
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.data.truncation import keep_start
from dialog_trainer.evaluation.progress import SILENT, Progress
from dialog_trainer.model.generation.generate import TokenRules, generate_batch
from dialog_trainer.model.generation.sampling import GREEDY
from dialog_trainer.types import Dialogue, Span, Turn


def format_prompt(dialogue: Dialogue, tokenizer: DialogueTokenizer, max_len: int) -> list[int]:
    """`[CLS]`, the first turn and its separator, at most `max_len - 1` tokens."""
    turns = _encode_turns(dialogue.turns[:1], tokenizer)
    return start_sequence(turns, tokenizer.special_tokens).ids[: max_len - 1]


def format_target_row(dialogue: Dialogue, tokenizer: DialogueTokenizer, max_len: int) -> list[int]:
    """The dialogue, cut at its end or padded to `max_len` tokens."""
    turns = _encode_turns(dialogue.turns, tokenizer)
    ids = keep_start(turns, tokenizer.special_tokens, max_len)[0].ids
    return ids + [tokenizer.pad_id] * (max_len - len(ids))


def generate_rows(
    dialogues: Sequence[Dialogue],
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    *,
    max_len: int,
    batch_tokens: int,
    progress: Progress = SILENT,
) -> list[list[int]] | None:
    """The generated row of each dialogue, in order; None on a stop request. `progress` counts rows.

    Decoding is greedy; no token ends a row and none is suppressed. Prompts of equal length share a batch, so that nothing
    is padded.
    """
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for index, dialogue in enumerate(dialogues):
        ids = format_prompt(dialogue, tokenizer, max_len)
        by_length[len(ids)].append((index, ids))
    rows: dict[int, list[int]] = {}
    size = max(1, batch_tokens // max_len)
    for length, prompts in sorted(by_length.items()):
        for first in range(0, len(prompts), size):
            if progress.stop_requested():
                return None
            batch = prompts[first : first + size]
            contexts = [ids for _, ids in batch]
            for row, new_ids, _ in generate_batch(
                model, contexts, decoding=GREEDY, seeds=(), rules=TokenRules(), max_new_tokens=max_len - length
            ):
                index, ids = batch[row]
                rows[index] = [*ids, *new_ids]
            progress.advance(len(batch))
    return [rows[index] for index in range(len(dialogues))]


def _encode_turns(turns: Sequence[Turn], tokenizer: DialogueTokenizer) -> list[Span]:
    chat_format = tokenizer.chat_format
    assert isinstance(chat_format, SeparatorFormat)  # the configuration is checked: these rows know no other
    return chat_format.encode_turns([turn.text for turn in turns], [turn.role for turn in turns])


def decode_row(ids: Sequence[int], tokenizer: DialogueTokenizer, clean_up: bool) -> str:
    """The text of a row.

    With `clean_up` the added tokens have a space on each side, and spaces before punctuation and "n't" are removed;
    without, the texts of the tokens follow each other, as runs before version 0.3 were scored.
    """
    if not clean_up:
        return _decode(ids, tokenizer)
    added = _added_ids(tokenizer)
    parts: list[str] = []
    for is_added, group in groupby(ids, key=added.__contains__):
        run = list(group)
        parts += [_decode([one], tokenizer) for one in run] if is_added else [_decode(run, tokenizer)]
    return str(tokenizer.hf_tokenizer.clean_up_tokenization(" ".join(parts)))


def tokenize_row(text: str, tokenizer: DialogueTokenizer, clean_up: bool) -> list[str]:
    """The tokens of a row's text; with `clean_up` spaces next to an added token belong to no token."""
    tokenize: Callable[[str], list[str]] = tokenizer.hf_tokenizer.tokenize
    if not clean_up:
        return tokenize(text)
    names = [re.escape(_decode([one], tokenizer)) for one in _added_ids(tokenizer)]
    parts = re.split(f"({'|'.join(names)})", text)
    tokens: list[str] = []
    for index, part in enumerate(parts):
        if index % 2:
            tokens.append(part)
        else:  # the text between two added tokens, or at an end of the row
            part = part.lstrip() if index else part
            tokens += tokenize(part.rstrip() if index < len(parts) - 1 else part)
    return tokens


def _decode(ids: Sequence[int], tokenizer: DialogueTokenizer) -> str:
    return str(tokenizer.hf_tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _added_ids(tokenizer: DialogueTokenizer) -> set[int]:
    """The tokens that the original adds to the vocabulary; the end of text is none of them."""
    return {tokenizer.special_tokens.start, tokenizer.special_tokens.separator, tokenizer.pad_id} - {tokenizer.end_id}
