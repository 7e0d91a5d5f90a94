"""Greedy and nucleus (top-p) sampling: picks the next token of each row from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dialog_trainer.errors import ModelError


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the tokens of a reply are chosen.

    `greedy`: the most probable token. `sample`: nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751): the softmax of
    the logits over `temperature` (> 0), restricted to the smallest set of tokens with a probability of at least `top_p`
    (0 to 1). `beam`: beam search of width `beams`, scored by log-probability over length (transformers' `num_beams`).
    A kind ignores the fields that it does not name.
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
# In place of a token id: to ask the device for more than the ids would cost a wait for each token.
NOT_FINITE = -1


def read_tokens(tokens: torch.Tensor) -> list[int]:
    """The ids of `choose_next_tokens`, on the host. Raises `ModelError` if a row had no finite logits."""
    ids: list[int] = tokens.tolist()
    if NOT_FINITE in ids:
        raise ModelError(
            "the model's output is not finite: its weights are damaged, or its training diverged; take another checkpoint "
            "(load_model_type=loss, or last), or train again with a smaller optim.lr0"
        )
    return ids


def draw_uniforms(seeds: Sequence[int], count: int) -> torch.Tensor:
    """`(B, count)` float64 in [0, 1). Row i depends on `seeds[i]` (0 or more) alone; a larger `count` only appends."""
    return torch.from_numpy(np.stack([np.random.default_rng(seed).random(count) for seed in seeds]))


def choose_next_tokens(logits: torch.Tensor, decoding: Decoding, uniforms: torch.Tensor | None) -> torch.Tensor:
    """`(B,)` token ids from `logits` `(B, V)`, `NOT_FINITE` for a row without finite ones; a sample inverts the cumulative distribution at `uniforms` `(B,)`.

    Probabilities 0.2, 0.5, 0.3 have the cumulative sums 0.2, 0.7, 1.0: the uniform 0.65 chooses token 1, 0.75 token 2.
    The sums run in the order of the ids, not of the probabilities: rounding may swap two nearly equal probabilities, and
    would change the sample with them. Raises `ValueError` where a sample has no `uniforms`.
    """
    if decoding.kind != "sample":
        tokens = logits.argmax(dim=-1)  # where there is a NaN, its index
        return tokens.where(logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).isfinite(), NOT_FINITE)
    if uniforms is None:
        raise ValueError("sampling needs a uniform number for each row")
    # On the CPU: the order of a GPU's sums can differ from call to call, and Apple's GPUs have no float64.
    probabilities = (logits.cpu().double() / decoding.temperature).softmax(dim=-1)
    if decoding.top_p < 1:
        probabilities = _restrict_to_nucleus(probabilities, decoding.top_p)
    sums = probabilities.cumsum(dim=-1)
    total = sums[:, -1]
    # Below the total, even where the product rounds up to it: no token lies beyond.
    target = torch.minimum(uniforms.cpu() * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(sums, target.unsqueeze(-1), right=True).squeeze(-1)
    return tokens.where(total.isfinite(), NOT_FINITE).to(logits.device)


def _restrict_to_nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """`(B, V)` with 0 for tokens whose more probable ones already reach `top_p`; the most probable token always stays."""
    size = probabilities.shape[-1]
    for count in (1024, size):  # a full sort costs as much as the model, and 1,024 tokens mostly suffice
        highest, ids = probabilities.topk(min(count, size), dim=-1)
        if highest.sum(dim=-1).min() >= top_p:
            break
    before = highest.cumsum(dim=-1) - highest
    before[:, 0] = -1.0
    return torch.zeros_like(probabilities).scatter(-1, ids, highest.where(before < top_p, 0.0))
