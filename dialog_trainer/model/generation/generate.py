"""Generates replies, batched or streamed: KV cache where the model has one, else, and for beam search, transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, PreTrainedModel

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.model.generation.kv_cache import (
    BatchReply,
    Choose,
    OnToken,
    generate_with_cache,
    group_by_prefix,
    supports_kv_cache,
)
from dialog_trainer.model.generation.sampling import (
    NOT_FINITE,
    Decoding,
    choose_next_tokens,
    draw_uniforms,
    read_tokens,
)
from dialog_trainer.model.packed_forward import padded_attention


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Ids that end a row, and ids that are never generated."""

    ends: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()

    @classmethod
    def for_replies(cls, tokenizer: DialogueTokenizer) -> TokenRules:
        """As the chat format has it; in the separator format `[SEP]` or the end of text, never `[CLS]` or padding."""
        return cls(tokenizer.chat_format.ends, tokenizer.chat_format.suppressed)


def generate(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    contexts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    seeds: Sequence[int],
    max_new_tokens: int,
    batch_tokens: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, list[int], bool]]:
    """Yields `(index, ids, ended)` for each context, batch by batch, the longest first.

    `ids` (at most `max_new_tokens`) exclude the token that ended the reply; `ended` says whether one did. A sample of
    `contexts[i]` depends on `seeds[i]` (0 or more) alone; other decodings ignore the seeds. `batch_tokens` bounds the
    rows of a batch (beam search has `beams` for each context) times the tokens of context and reply. No batch starts
    once `stopped()`. Except for rounding, a reply does not depend on the rest of its batch.
    """
    beams = decoding.beams if decoding.kind == "beam" else 1
    for batch in _split_into_batches(contexts, max_new_tokens, batch_tokens // beams):
        if stopped():
            return
        for row, ids, ended in generate_batch(
            model,
            [contexts[index] for index in batch],
            decoding=decoding,
            seeds=[seeds[index] for index in batch],
            rules=TokenRules.for_replies(tokenizer),
            max_new_tokens=max_new_tokens,
        ):
            yield batch[row], ids, ended


def stream_reply(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    context: Sequence[int],
    on_text: Callable[[str], None],
    *,
    decoding: Decoding,
    seed: int,
    max_new_tokens: int,
) -> str:
    """The reply to one context, its text passed to `on_text` in pieces as it is generated (beam search: at the end).

    The pieces add up to the reply. Decoding and `seed` as in `generate`.
    """
    text = _TextStream(tokenizer, on_text)
    replies = generate_batch(
        model,
        [context],
        decoding=decoding,
        seeds=[seed],
        rules=TokenRules.for_replies(tokenizer),
        max_new_tokens=max_new_tokens,
        on_token=lambda _, token: text.add(token),
    )
    for _ in replies:
        pass
    return text.shown


class _TextStream:
    """Passes the text of growing ids on in pieces of whole characters, without white space at either end.

    A character of several tokens is held back until it is complete, and white space until text follows it. Bytes that
    never make a character are left out.
    """

    def __init__(self, tokenizer: DialogueTokenizer, on_text: Callable[[str], None]):
        self.shown = ""
        self._tokenizer, self._on_text = tokenizer, on_text
        self._ids: list[int] = []

    def add(self, token: int) -> None:
        self._ids.append(token)
        # The tokenizer shows U+FFFD for a part of a character.
        text = self._tokenizer.decode(self._ids).replace("\ufffd", "").strip()
        piece = text[len(self.shown) :]
        if piece:
            self.shown += piece
            self._on_text(piece)


@torch.no_grad()
def generate_batch(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    seeds: Sequence[int],
    rules: TokenRules,
    max_new_tokens: int,
    on_token: OnToken = lambda row, token: None,
) -> Iterator[BatchReply]:
    """Yields `(row, ids, ended)` for each of `contexts`, all in one batch; the arguments as in `generate`.

    `on_token(row, token)` is called for each token of a reply as it is chosen, with beam search at the end.
    """
    model.train(False)
    uniforms = draw_uniforms(seeds, max_new_tokens) if decoding.kind == "sample" else None

    def choose(logits: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:
        logits[:, list(rules.suppressed)] = -torch.inf
        return choose_next_tokens(logits, decoding, None if uniforms is None else uniforms[rows, step])

    with padded_attention(model):
        if decoding.kind == "beam" or not supports_kv_cache(model):
            beams = decoding.beams if decoding.kind == "beam" else 1
            yield from _generate_by_transformers(model, contexts, choose, beams, rules, max_new_tokens, on_token)
        else:
            yield from generate_with_cache(
                model, contexts, choose=choose, ends=rules.ends, max_new_tokens=max_new_tokens, on_token=on_token
            )


def _generate_by_transformers(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    choose: Choose,
    beams: int,
    rules: TokenRules,
    max_new_tokens: int,
    on_token: OnToken,
) -> Iterator[BatchReply]:
    """Beam search, and models whose cache has no plain rows (recurrent states, sliding windows)."""
    padded = partial(pad_sequence, batch_first=True, padding_side="left")
    prompts = [torch.as_tensor(context, dtype=torch.int64, device=model.device) for context in contexts]
    inputs = padded(prompts)
    generator: Any = model  # transformers adds `generate` in a mixin that the base class does not name
    watch = _FiniteWatch()
    output = generator.generate(
        input_ids=inputs,
        attention_mask=padded([torch.ones_like(prompt) for prompt in prompts]),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=beams,
        eos_token_id=list(rules.ends) or None,
        pad_token_id=0,  # masked, as the padding of the inputs
        suppress_tokens=list(rules.suppressed) or None,
        logits_processor=[watch] if beams > 1 else [_ForcedChoice(choose, inputs.shape[1], rules.ends, on_token)],
    )
    watch.check()
    for row, ids in enumerate(output[:, inputs.shape[1] :].tolist()):
        length = next((index for index, token in enumerate(ids) if token in rules.ends), len(ids))
        if beams > 1:
            for token in ids[:length]:
                on_token(row, token)
        yield row, ids[:length], length < len(ids)


class _FiniteWatch(LogitsProcessor):
    """Notes on the device whether all scores of a beam search were finite."""

    def __init__(self) -> None:
        self._tokens = torch.zeros(1, dtype=torch.int64)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        finite = scores.amax(dim=-1).isfinite().all()
        self._tokens = self._tokens.to(scores.device).where(finite, NOT_FINITE)
        return scores

    def check(self) -> None:
        """Raises `ModelError`."""
        read_tokens(self._tokens)


class _ForcedChoice(LogitsProcessor):
    """Leaves transformers' greedy search only the token of `choose`."""

    def __init__(self, choose: Choose, prompt_tokens: int, ends: Sequence[int], on_token: OnToken):
        self._choose, self._prompt_tokens, self._ends, self._on_token = choose, prompt_tokens, ends, on_token
        self._ended: set[int] = set()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = self._choose(scores, list(range(len(scores))), input_ids.shape[1] - self._prompt_tokens)
        for row, token in enumerate(read_tokens(tokens)):
            if token in self._ends:
                self._ended.add(row)
            elif row not in self._ended:
                self._on_token(row, token)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens.unsqueeze(-1), 0.0)


def _split_into_batches(
    contexts: Sequence[Sequence[int]], max_new_tokens: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Indices by falling length of the longest context of a chain, chains together: a batch that does not fit in memory
    shows at once."""
    chains = sorted(group_by_prefix(contexts), key=lambda chain: (-len(contexts[chain[-1]]), chain))
    batch: list[int] = []
    width = 0
    for index in (index for chain in chains for index in reversed(chain)):
        width = max(width, len(contexts[index]))
        if batch and (len(batch) + 1) * (width + max_new_tokens) > batch_tokens:
            yield batch
            batch, width = [], len(contexts[index])
        batch.append(index)
    if batch:
        yield batch
