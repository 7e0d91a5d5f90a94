"""The records that travel between the stations, each with its contract.

Shapes: `T` tokens of one sequence, `N` tokens of a packed batch, `S` sequences in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Role(IntEnum):
    """Whose token it is. The token that ends a turn belongs to that turn."""

    SYSTEM = 0
    USER = 1
    ASSISTANT = 2
    END = 3  # the end-of-text token at the true end of a dialogue
    START = 4  # `[CLS]`


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. `role` is SYSTEM, USER or ASSISTANT; `text` is stripped and not empty."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """At least two turns. `id` is unique within its split."""

    id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A dialogue, or a part of one, as tokens: three `(T,)` lists of equal length.

    `roles[t]` is the `Role` of token `t`; `turns[t]` is the index of its turn in the whole dialogue
    (for `[CLS]` that of the turn that follows, for the end-of-text token that of the last turn).
    """

    ids: list[int]
    roles: list[int]
    turns: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences laid one after the other, nothing padded.

    `ids`, `roles`, `positions` `(N,)` int64, `weights` `(N,)` float32, `lengths` S ints that sum to N.
    `positions` restart at 0 with each sequence. `weights[i]` is the loss weight of predicting token `i`
    from the tokens before it in its own sequence; a sequence's first token has nothing before it and weight 0.
    """

    ids: torch.Tensor
    roles: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LossSum:
    """A sum and its weight, never a mean: parts add, the division happens once.

    `nats` is `Σ w·nll` (a scalar tensor, in the graph while training), `weight` is `Σ w`,
    `trained_tokens` the number of tokens with a weight above 0 and `tokens` the number of all tokens.
    """

    nats: torch.Tensor
    weight: float
    trained_tokens: int
    tokens: int

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(
            self.nats + other.nats,
            self.weight + other.weight,
            self.trained_tokens + other.trained_tokens,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What a reply is asked for: the turns before `turn_index` of one dialogue, and the gold reply.

    `ids` `(T,)` ends with the token that ends the last turn before the reply.
    """

    dialogue_id: str
    turn_index: int
    ids: list[int]
    history: tuple[str, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the model, cut at the end of its turn. `ended` says whether it ended by itself."""

    dialogue_id: str
    turn_index: int
    history: tuple[str, ...]
    reference: str
    text: str
    ended: bool
