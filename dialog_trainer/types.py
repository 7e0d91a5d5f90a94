"""The records that travel between the stations, each with its contract.

Shapes: `T` tokens of one sequence, `N` tokens of a packed batch, `S` sequences in a batch, `R` runs in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the configuration is checked before torch is imported
    import torch

# Turn indices of which the loss is kept apart: 0 to 10, and all that come later together.
NUM_TURN_BINS = 12


class Role(IntEnum):
    """Whose token it is. The token that ends a turn belongs to that turn."""

    SYSTEM = 0
    USER = 1
    ASSISTANT = 2
    END = 3  # the end-of-text token at the true end of a dialogue
    START = 4  # `[CLS]`


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. `role` is SYSTEM, USER or ASSISTANT; `text` is stripped and not empty.

    `weight`, finite and at least 0, multiplies the loss weight that the mask schedule gives to its tokens.
    `references` are the texts that the data accept in its place, where they name several.
    """

    role: Role
    text: str
    weight: float = 1.0
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialogue:
    """At least two turns. `id` is unique within its split."""

    id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens that structure a dialogue."""

    start: int  # [CLS]
    separator: int  # [SEP]
    end: int  # end of text
    pad: int  # fills a row


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
class TurnSpans:
    """Sequences as runs of tokens of one role and turn: all that a mask needs to know of them.

    `roles`, `turns`, `lengths`, `lost` (int64) and `weights` (float32) are `(R,)`: of each run its `Role`, the index
    of its turn in the dialogue, its number of tokens, those that truncation took from the turn, and the weight that
    the data give to the turn. `counts` `(S,)` is the number of runs of each sequence, the first of which is `[CLS]`;
    `dialogues` `(S,)` is the index of the dialogue of each sequence in its split.
    """

    roles: np.ndarray
    turns: np.ndarray
    lengths: np.ndarray
    lost: np.ndarray
    weights: np.ndarray
    counts: np.ndarray
    dialogues: np.ndarray

    @property
    def first_spans(self) -> np.ndarray:
        """Index `(S,)` of the first span of each sequence."""
        return np.cumsum(self.counts) - self.counts

    @property
    def sequences(self) -> np.ndarray:
        """Index `(R,)` of the sequence of each span."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def sum_by_sequence(self, values: np.ndarray) -> np.ndarray:
        """Sums `(S,)` over the spans of each sequence of `values` `(R,)`."""
        return np.add.reduceat(values, self.first_spans)


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences laid one after the other, nothing padded.

    `ids`, `roles`, `turns`, `positions` `(N,)` int64, `weights` `(N,)` float32, `lengths` S ints that sum to N.
    `positions` restart at 0 with each sequence. `weights[i]` is the loss weight of predicting token `i`
    from the tokens before it in its own sequence; a sequence's first token has nothing before it and weight 0.
    `divisor` is what the batch adds to the number by which the loss of a step is divided. `targets` `(M,)` are the places
    with a weight above 0, found here where they are not given.
    """

    ids: torch.Tensor
    roles: torch.Tensor
    turns: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    lengths: tuple[int, ...]
    divisor: float
    targets: torch.Tensor | None = None

    def __post_init__(self):
        if self.targets is None:
            object.__setattr__(self, "targets", self.weights.nonzero().squeeze(1))

    def weighted(self, weights: torch.Tensor) -> Batch:
        """The same tokens with other weights."""
        return replace(self, weights=weights, targets=None)


@dataclass(frozen=True, slots=True)
class LossSum:
    """Sums over a batch, never means: parts add, and the division, by the sum of the batches' divisors, happens once.

    `nats` is `Σ w·nll` (a scalar tensor, in the graph while training). `cells` `(2, 5, NUM_DEPTHS)`, outside the graph:
    `Σ nll`, whatever the weights, and the number of the tokens with a weight above 0, by role and by turn index (the
    last place: all later turns).
    """

    nats: torch.Tensor
    role_turn_sums: torch.Tensor


@dataclass(frozen=True, slots=True)
class Context:
    """What a reply is asked for: the turns before `turn_index` of one dialogue, and the gold reply.

    `ids` `(T,)` ends with the token that ends the last turn before the reply. `references` are the replies that the data
    accept, where they name several.
    """

    dialogue_id: str
    turn_index: int
    ids: list[int]
    history: tuple[str, ...]
    reference: str
    references: tuple[str, ...] = ()

    def answered(self, text: str, ended: bool) -> Reply:
        """`text` as the reply to it."""
        return Reply(self.dialogue_id, self.turn_index, self.history, self.reference, text, ended, self.references)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the model, cut at the end of its turn. `ended` says whether it ended by itself."""

    dialogue_id: str
    turn_index: int
    history: tuple[str, ...]
    reference: str
    text: str
    ended: bool
    references: tuple[str, ...] = ()

    def targets(self) -> tuple[str, ...]:
        """What the reply is scored against: at least one text."""
        return self.references or (self.reference,)


Say = Callable[[str], None]
