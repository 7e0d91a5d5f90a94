"""Contexts -> replies. A reply ends at `[SEP]` or the end-of-text token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, PreTrainedModel, TextStreamer

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.model.generation.kv_cache import generate_with_cache, group_by_prefix, supports_kv_cache
from dialog_trainer.model.generation.sampling import Decoding, choose_next_tokens, draw_uniforms
from dialog_trainer.model.packed_forward import padded_attention


@torch.no_grad()
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

    `ids` `(≤ max_new_tokens,)` are without the token that ended the reply; `ended` says whether one did. `seeds[i]`
    alone (0 or more) decides what is drawn for `contexts[i]`; only sampling reads them. `batch_tokens` bounds rows (of
    them `beams` for each context) times (context + reply). Once `stopped()`, no further batch is started.
    Rounding apart, a reply depends on nothing else in its batch.
    """
    model.eval()
    make = _generate_uncached if decoding.kind == "beam" or not supports_kv_cache(model) else _generate_cached
    copies = decoding.beams if decoding.kind == "beam" else 1
    with padded_attention(model):
        for indices in _batches(contexts, max_new_tokens, batch_tokens // copies):
            if stopped():
                return
            drawn = draw_uniforms([seeds[i] for i in indices], max_new_tokens) if decoding.kind == "sample" else None
            rows = [contexts[index] for index in indices]
            for row, ids, ended in make(model, tokenizer, rows, decoding, drawn, max_new_tokens):
                yield indices[row], ids, ended


def _generate_cached(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    contexts: Sequence[Sequence[int]],
    decoding: Decoding,
    drawn: torch.Tensor | None,
    max_new_tokens: int,
) -> Iterator[tuple[int, list[int], bool]]:
    def choose(logits: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:
        logits[:, [tokenizer.cls_id, tokenizer.pad_id]] = -torch.inf
        return choose_next_tokens(logits, decoding, None if drawn is None else drawn[rows, step])

    ends = (tokenizer.sep_id, tokenizer.end_id)
    return generate_with_cache(model, contexts, choose=choose, ends=ends, max_new_tokens=max_new_tokens)


def _generate_uncached(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    contexts: Sequence[Sequence[int]],
    decoding: Decoding,
    drawn: torch.Tensor | None,
    max_new_tokens: int,
) -> Iterator[tuple[int, list[int], bool]]:
    """By transformers' `generate`: beams, and models whose cache has no plain rows."""
    padded = partial(pad_sequence, batch_first=True, padding_side="left")
    ids = [torch.as_tensor(context, dtype=torch.int64) for context in contexts]
    rows = padded(ids, padding_value=tokenizer.pad_id).to(model.device)
    output = model.generate(
        input_ids=rows,
        attention_mask=padded([torch.ones_like(row) for row in ids]).to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=decoding.beams if decoding.kind == "beam" else 1,
        eos_token_id=[tokenizer.sep_id, tokenizer.end_id],
        pad_token_id=tokenizer.pad_id,
        suppress_tokens=[tokenizer.cls_id, tokenizer.pad_id],
        logits_processor=[] if drawn is None else [_Drawn(decoding, drawn, rows.shape[1])],
    )
    for row, ids in enumerate(output[:, rows.shape[1] :].tolist()):
        ends = (place for place, token in enumerate(ids) if token in (tokenizer.sep_id, tokenizer.end_id))
        length = next(ends, len(ids))
        yield row, ids[:length], length < len(ids)


class _Drawn(LogitsProcessor):
    """Leaves `generate` no choice but the token that was drawn."""

    def __init__(self, decoding: Decoding, drawn: torch.Tensor, width: int):
        self.decoding, self.drawn, self.width = decoding, drawn, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = choose_next_tokens(scores, self.decoding, self.drawn[:, input_ids.shape[1] - self.width])
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens.unsqueeze(-1), 0.0)


def _batches(contexts: Sequence[Sequence[int]], max_new_tokens: int, batch_tokens: int) -> Iterator[list[int]]:
    """Indices, contexts that begin alike together, by falling length of the longest of them: the first batch is the
    largest, so that memory trouble shows at once."""
    alike = sorted(group_by_prefix(contexts), key=lambda chain: (-len(contexts[chain[-1]]), chain))
    batch: list[int] = []
    width = 0
    for index in (index for chain in alike for index in reversed(chain)):
        width = max(width, len(contexts[index]))
        if batch and (len(batch) + 1) * (width + max_new_tokens) > batch_tokens:
            yield batch
            batch, width = [], len(contexts[index])
        batch.append(index)
    if batch:
        yield batch


@torch.no_grad()
def stream_reply(
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    context: Sequence[int],
    on_text: Callable[[str], None],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> str:
    """One reply, its text given to `on_text` in pieces as it comes. `temperature` 0 is greedy."""
    model.eval()
    rows = torch.tensor([list(context)], device=model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    with padded_attention(model):
        output = model.generate(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=max_new_tokens,
            streamer=_Streamer(tokenizer, on_text),
            **(sampling or {"do_sample": False}),
        )
    return tokenizer.decode(output[0, rows.shape[1] :].tolist()).strip()


class _Streamer(TextStreamer):
    def __init__(self, tokenizer: DialogueTokenizer, on_text: Callable[[str], None]):
        super().__init__(tokenizer.hf_tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.on_text(text)
