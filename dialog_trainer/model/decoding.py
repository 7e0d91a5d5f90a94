"""Contexts -> replies. A reply ends at `[SEP]` or the end-of-text token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedModel, TextStreamer

from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.model.packed import padded_attention


@torch.no_grad()
def greedy_replies(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, list[int], bool]]:
    """Yields `(index, ids, ended)` for each context, batch by batch; contexts of like length share a batch.

    `ids` `(≤ max_new_tokens,)` are without the token that ended the reply; `ended` says whether one did.
    `batch_tokens` bounds rows times (context + reply). Once `stopped()`, no further batch is started.
    """
    model.eval()
    ends = {vocabulary.sep_id, vocabulary.end_id}
    with padded_attention(model):
        for indices in _length_batches([len(context) for context in contexts], max_new_tokens, batch_tokens):
            if stopped():
                return
            rows, real = _left_padded([contexts[index] for index in indices], vocabulary.pad_id, model.device)
            output = model.generate(input_ids=rows, attention_mask=real, max_new_tokens=max_new_tokens, do_sample=False)
            for index, row in zip(indices, output[:, rows.shape[1] :].tolist(), strict=True):
                length = next((place for place, token in enumerate(row) if token in ends), len(row))
                yield index, row[:length], length < len(row)


@torch.no_grad()
def stream_reply(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    context: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    on_text: Callable[[str], None],
) -> str:
    """One reply, its text given to `on_text` in pieces as it comes. `temperature` 0 is greedy."""
    model.eval()
    rows, real = _left_padded([context], vocabulary.pad_id, model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    with padded_attention(model):
        output = model.generate(
            input_ids=rows,
            attention_mask=real,
            max_new_tokens=max_new_tokens,
            streamer=_Streamer(vocabulary, on_text),
            **(sampling or {"do_sample": False}),
        )
    return vocabulary.decode(output[0, rows.shape[1] :].tolist()).strip()


class _Streamer(TextStreamer):
    def __init__(self, vocabulary: Vocabulary, on_text: Callable[[str], None]):
        super().__init__(vocabulary.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.on_text(text)


def _length_batches(lengths: Sequence[int], max_new_tokens: int, batch_tokens: int) -> Iterator[list[int]]:
    """Indices by falling length, so that the first batch is the largest and memory trouble shows at once."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row_tokens = lengths[batch[0] if batch else index] + max_new_tokens
        if batch and (len(batch) + 1) * row_tokens > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _left_padded(
    contexts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, contexts))
    rows = torch.full((len(contexts), width), pad_id, dtype=torch.int64)
    real = torch.zeros_like(rows)
    for row, context in enumerate(contexts):
        rows[row, width - len(context) :] = torch.as_tensor(context, dtype=torch.int64)
        real[row, width - len(context) :] = 1
    return rows.to(device), real.to(device)
