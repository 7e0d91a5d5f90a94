"""Contexts -> replies, a token at a time, with the keys and values of what came before kept.

Contexts that begin alike are read once, and a row leaves the batch when its reply has ended.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

# Read in one forward pass: more than some hundred tokens make products no faster, and what lies between them larger.
READ_TOKENS = 1024


def supports_kv_cache(model: PreTrainedModel) -> bool:
    """Whether every layer keeps keys and values of all tokens, and the model can be told positions: a state that runs
    along the row, or a window of it, cannot be shared or cut."""
    if not {"position_ids", "past_key_values", "logits_to_keep"} <= set(inspect.signature(model.forward).parameters):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def group_by_prefix(contexts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of contexts, each chain by rising length: what comes earlier in a chain is the beginning of what comes later."""
    found: list[list[int]] = []
    for index in sorted(range(len(contexts)), key=lambda i: (list(contexts[i]), i)):
        last = contexts[found[-1][-1]] if found else None
        if last is not None and list(contexts[index][: len(last)]) == list(last):
            found[-1].append(index)
        else:
            found.append([index])
    return found


def generate_with_cache(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    choose: Callable[[torch.Tensor, list[int], int], torch.Tensor],
    ends: Sequence[int],
    max_new_tokens: int,
) -> Iterator[tuple[int, list[int], bool]]:
    """Yields `(row, ids, ended)` for each context as its reply ends, all in one batch.

    `choose(logits, rows, step)` gives the `(B,)` next tokens of the rows that are left, from `logits` `(B, V)`.
    """
    rows = list(range(len(contexts)))
    lengths = torch.tensor([len(context) for context in contexts], device=model.device) - 1
    cache = _read(model, contexts, max_new_tokens)
    width = int(lengths.max())
    columns = torch.arange(width + max_new_tokens, device=model.device)
    real = (columns >= width - lengths.unsqueeze(1)).to(torch.int64)
    tokens = torch.tensor([context[-1] for context in contexts], device=model.device)
    replies: list[list[int]] = [[] for _ in rows]
    done: set[int] = set()
    for step in range(max_new_tokens):
        logits = model(
            input_ids=tokens.unsqueeze(1),
            attention_mask=real[:, : cache.get_seq_length() + 1],
            position_ids=(lengths + step).unsqueeze(1),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        tokens = choose(logits, rows, step)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row in done:
                continue
            if token not in ends:
                replies[row].append(token)
            if token in ends or step == max_new_tokens - 1:
                done.add(row)
                yield row, replies[row], token in ends
        kept = [place for place, row in enumerate(rows) if row not in done]
        if not kept:
            return
        if len(kept) <= 0.75 * len(rows):  # each time costs a copy of the cache
            rows = [rows[place] for place in kept]
            places = torch.tensor(kept, device=model.device)
            lengths, tokens, real = lengths[places], tokens[places], real[places]
            padding = int((real == 0).sum(1).min())
            real = real[:, padding:]
            for layer in cache.layers:
                layer.keep(places, padding)


class _Layer(DynamicLayer):
    """Keys and values `(B, H, T, D)` in the front of buffers with room for the reply, so that growing copies nothing."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        self._hold(keys, values, used)

    def _hold(self, keys: torch.Tensor, values: torch.Tensor, used: int) -> None:
        self.buffers = keys, values
        self.keys, self.values = (buffer[:, :, :used] for buffer in self.buffers)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object):
        first = self.keys.shape[2]
        used = first + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, first:used] = states
        self._hold(*self.buffers, used)
        return self.keys, self.values

    def keep(self, places: torch.Tensor, padding: int) -> None:
        """Only the rows at `places` `(B,)`, without the first `padding` columns."""
        kept = (buffer[:, :, padding:].index_select(0, places) for buffer in self.buffers)
        self._hold(*kept, self.keys.shape[2] - padding)


def _read(model: PreTrainedModel, contexts: Sequence[Sequence[int]], room: int) -> Cache:
    """The cache of all contexts but for their last tokens, left-padded, with `room` for further tokens.

    Of each chain only the longest context is read, padded on the right, where no token of it can see.
    """
    alike = sorted(group_by_prefix(contexts), key=lambda chain: -len(contexts[chain[-1]]))
    width = max(map(len, contexts)) - 1
    buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows_at_once = max(1, READ_TOKENS // (width + 1))
    for first in range(0, len(alike), rows_at_once):
        part = alike[first : first + rows_at_once]
        longest = [torch.as_tensor(contexts[chain[-1]], dtype=torch.int64) for chain in part]
        ids = pad_sequence(longest, batch_first=True).to(model.device)
        read = DynamicCache(config=model.config)
        # No token is masked: none of a context can see what is to its right. The one logit asked for is not read.
        model(
            input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=read, use_cache=True, logits_to_keep=1
        )
        for index, layer in enumerate(read.layers):
            if len(buffers) == index:
                shape = (len(contexts), layer.keys.shape[1], width + room)
                buffers.append(tuple(s.new_zeros(*shape, s.shape[3]) for s in (layer.keys, layer.values)))
            for buffer, states in zip(buffers[index], (layer.keys, layer.values), strict=True):
                for source, chain in zip(states, part, strict=True):
                    for row in chain:
                        length = len(contexts[row]) - 1
                        buffer[row, :, width - length : width] = source[:, :length]
    return Cache(layers=[_Layer(keys, values, width) for keys, values in buffers])
