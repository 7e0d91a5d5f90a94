"""Batched generation with a KV cache and shared-prefix prefill: each prefix is read once, finished rows leave the batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from dialog_trainer.model.generation.sampling import read_tokens

# Tokens of one prefill pass: a few hundred already make the matrix products efficient, more only enlarge activations.
PREFILL_TOKENS = 1024
# Rows are removed once so many of the batch have ended: each removal copies the cache.
MAX_LIVE_SHARE = 0.75

# The parameter of `forward` for a cache, which transformers 5.24 renamed.
_CACHE_NAMES = {"cache", "past_key_values"}

# `(logits (B, V), rows, step)` -> `(B,)` next tokens of the `rows` that are still in the batch.
Choose = Callable[[torch.Tensor, list[int], int], torch.Tensor]
# Called with a row and its new token, in order, as soon as the token is known.
OnToken = Callable[[int, int], None]
# `(row, ids, ended)`: the tokens of a reply without the one that ended it, and whether one did.
BatchReply = tuple[int, list[int], bool]


def supports_kv_cache(model: PreTrainedModel) -> bool:
    """Whether each layer caches the keys and values of all tokens, and positions can be passed: rows of a recurrent state
    or of a sliding window can be neither shared nor cut."""
    parameters = inspect.signature(model.forward).parameters
    if not {"position_ids", "logits_to_keep"} <= parameters.keys() or not _CACHE_NAMES & parameters.keys():
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _with_cache(model: PreTrainedModel, cache: Cache) -> dict[str, Any]:
    """The arguments by which this model takes a cache."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: cache, "use_cache": True}


def group_by_prefix(contexts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of contexts as chains of rising length, in which each context is a prefix of the next.

    Contexts `[1, 2]`, `[1]`, `[3]`, `[1, 2, 5]` make the chains `[1, 0, 3]` and `[2]`: two rows to read for four contexts.
    """
    chains: list[list[int]] = []
    for index in sorted(range(len(contexts)), key=lambda i: (list(contexts[i]), i)):
        last = contexts[chains[-1][-1]] if chains else None
        if last is not None and list(contexts[index][: len(last)]) == list(last):
            chains[-1].append(index)
        else:
            chains.append([index])
    return chains


def generate_with_cache(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    choose: Choose,
    ends: Sequence[int],
    max_new_tokens: int,
    on_token: OnToken,
) -> Iterator[BatchReply]:
    """Yields each reply of one batch as it ends: at a token of `ends`, or after `max_new_tokens`."""
    rows = list(range(len(contexts)))
    lengths = torch.tensor([len(context) for context in contexts], device=model.device) - 1
    layers = _prefill(model, contexts, max_new_tokens)
    cache = Cache(layers=list(layers))
    cached = _with_cache(model, cache)
    width = int(lengths.max())
    columns = torch.arange(width + max_new_tokens, device=model.device)
    attended = (columns >= width - lengths.unsqueeze(1)).to(torch.int64)  # 0 on the padding at the left
    tokens = torch.tensor([context[-1] for context in contexts], device=model.device)
    replies: list[list[int]] = [[] for _ in rows]
    ended: set[int] = set()
    for step in range(max_new_tokens):
        logits = model(
            input_ids=tokens.unsqueeze(1),
            attention_mask=attended[:, : cache.get_seq_length() + 1],
            position_ids=(lengths + step).unsqueeze(1),
            **cached,
        ).logits[:, -1]
        tokens = choose(logits, rows, step)
        for row, token in zip(rows, read_tokens(tokens), strict=True):
            if row in ended:
                continue
            if token not in ends:
                replies[row].append(token)
                on_token(row, token)
            if token in ends or step == max_new_tokens - 1:
                ended.add(row)
                yield row, replies[row], token in ends
        live = [index for index, row in enumerate(rows) if row not in ended]
        if not live:
            return
        if len(live) <= MAX_LIVE_SHARE * len(rows):
            rows = [rows[index] for index in live]
            indices = torch.tensor(live, device=model.device)
            lengths, tokens, attended = lengths[indices], tokens[indices], attended[indices]
            padding = int((attended == 0).sum(1).min())
            attended = attended[:, padding:]
            for layer in layers:
                layer.keep(indices, padding)


class _BufferedLayer(DynamicLayer):
    """Keys and values `(B, H, T, D)` in the first `T` columns of larger buffers, so that a new token copies nothing."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int):
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.lazy_initialization(keys, values)
        self._set(keys, values, used)

    def _set(self, keys: torch.Tensor, values: torch.Tensor, used: int) -> None:
        self._buffers = keys, values
        self.keys, self.values = keys[:, :, :used], values[:, :, :used]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.keys.shape[2]
        used = first + key_states.shape[2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, first:used] = states
        self._set(*self._buffers, used)
        return self.keys, self.values

    def keep(self, rows: torch.Tensor, padding: int) -> None:
        """Keeps the rows `(B,)` alone, without their first `padding` columns."""
        keys, values = (buffer[:, :, padding:].index_select(0, rows) for buffer in self._buffers)
        self._set(keys, values, self.keys.shape[2] - padding)


def _prefill(model: PreTrainedModel, contexts: Sequence[Sequence[int]], max_new_tokens: int) -> list[_BufferedLayer]:
    """The cache of all contexts but their last tokens, padded on the left, with room for `max_new_tokens`.

    Only the longest context of each chain is read, padded on the right, which no token of it can see.
    """
    chains = sorted(group_by_prefix(contexts), key=lambda chain: -len(contexts[chain[-1]]))
    width = max(map(len, contexts)) - 1
    buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
    chains_at_once = max(1, PREFILL_TOKENS // (width + 1))
    for first in range(0, len(chains), chains_at_once):
        part = chains[first : first + chains_at_once]
        longest = [torch.as_tensor(contexts[chain[-1]], dtype=torch.int64) for chain in part]
        ids = pad_sequence(longest, batch_first=True).to(model.device)
        cache = DynamicCache(config=model.config)
        # No token is masked: those of a context cannot see the padding. One logit is the fewest that can be asked for.
        model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1, **_with_cache(model, cache))
        layers = cast(list[Any], cache.layers)  # `DynamicLayer`s that hold tensors by now
        for index, (keys, values) in enumerate((layer.keys, layer.values) for layer in layers):
            if len(buffers) == index:
                keys_shape, values_shape = (
                    (len(contexts), states.shape[1], width + max_new_tokens, states.shape[3])
                    for states in (keys, values)
                )
                buffers.append((keys.new_zeros(keys_shape), values.new_zeros(values_shape)))
            for buffer, states in zip(buffers[index], (keys, values), strict=True):
                for chain, source in zip(part, states, strict=True):
                    for row in chain:
                        length = len(contexts[row]) - 1
                        buffer[row, :, width - length : width] = source[:, :length]
    return [_BufferedLayer(keys, values, width) for keys, values in buffers]
