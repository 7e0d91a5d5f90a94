"""Logits -> the next token of each row: the likeliest, or one drawn by a number that belongs to the reply alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a reply is made.

    `greedy`: the likeliest token each time. `sample`: a draw from the softmax of the logits over `temperature` (> 0),
    of which only the fewest likeliest tokens with a mass of at least `top_p` (0 to 1) stay: Holtzman et al. 2020.
    `beam`: the likeliest of `beams` kept beginnings, its log-probability divided by its length (transformers'
    `num_beams`). What a kind does not name it does not read.
    """

    kind: Literal["greedy", "sample", "beam"] = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    beams: int = 1

    def text(self) -> str:
        """As `greedy`, `sample(temperature 0.7, top_p 0.9)`, `beam(4)`."""
        if self.kind == "sample":
            return f"sample(temperature {self.temperature:g}, top_p {self.top_p:g})"
        return f"beam({self.beams})" if self.kind == "beam" else "greedy"


GREEDY = Decoding()


def draw_uniforms(seeds: Sequence[int], count: int) -> torch.Tensor:
    """`(B, count)` numbers in [0, 1), float64: row i depends on `seeds[i]` (0 or more) alone, and begins alike whatever `count`."""
    return torch.from_numpy(np.stack([np.random.default_rng(seed).random(count) for seed in seeds]))


def choose_next_tokens(logits: torch.Tensor, decoding: Decoding, uniform: torch.Tensor | None) -> torch.Tensor:
    """`(B,)` ids from `logits` `(B, V)`; a sample is the inverse of the distribution function at `uniform` `(B,)`.

    The function sums in the order of the ids, not of the probabilities: two that are nearly equal may change places by
    rounding, and with them the sample.
    """
    if decoding.kind == "greedy":
        return logits.argmax(dim=-1)
    # On the CPU: a GPU sums in an order that may differ each time, and Apple's have no float64.
    probabilities = (logits.cpu().double() / decoding.temperature).softmax(dim=-1)
    if decoding.top_p < 1:
        probabilities = _nucleus(probabilities, decoding.top_p)
    sums = probabilities.cumsum(dim=-1)
    total = sums[:, -1]
    # Rounded up to the whole, where no token is left, the product must not be.
    target = torch.minimum(uniform.cpu() * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, target.unsqueeze(-1), right=True).squeeze(-1).to(logits.device)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """`(B, V)`, 0 for the tokens before which at least `top_p` lies; the likeliest always stays."""
    size = probabilities.shape[-1]
    for count in (1024, size):  # a full sort costs as much as the model; few tokens mostly hold the mass
        likeliest, ids = probabilities.topk(min(count, size), dim=-1)
        if likeliest.sum(dim=-1).min() >= top_p:
            break
    before = likeliest.cumsum(dim=-1) - likeliest
    before[:, 0] = -1.0
    return torch.zeros_like(probabilities).scatter(-1, ids, likeliest.where(before < top_p, 0.0))
