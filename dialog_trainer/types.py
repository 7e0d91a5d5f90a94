"""Records that rooms pass to each other, from a dialogue to its loss and its scored replies.

Shapes: `T` tokens of one sequence, `N` tokens of a packed batch, `S` sequences in it, `R` role spans in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the configuration is checked before torch is imported
    import torch

# Bins of the loss by turn index: one each for 0 to 10, and one for all later turns.
NUM_TURN_BINS = 12


Say = Callable[[str], None]


class Role(IntEnum):
    """The speaker of a token. The token that ends a turn belongs to that turn."""

    SYSTEM = 0
    USER = 1
    ASSISTANT = 2
    END = 3  # the end-of-text token at the true end of a dialogue
    FORMAT = 4  # what the chat format adds: `[CLS]`, headers of turns, turns repeated as context; never trained


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. `role` is SYSTEM, USER or ASSISTANT; `text` is stripped and not empty.

    `weight`, finite and at least 0, multiplies the loss weight that the mask schedule gives to its tokens.
    `references` are the texts accepted in its place, if the data name several. `label` is the role's name for a chat
    template where it is none of the three: "tool", "developer", "function".
    """

    role: Role
    text: str
    weight: float = 1.0
    references: tuple[str, ...] = ()
    label: str = ""


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
class TokenContract:
    """What a chat format promises about its tokens.

    `turn_ends` are the ids that may end the turns of a role (a role that is missing has no such token), `dialogue_end`
    the id at the end of each dialogue, `pad` the id that is never trained; None: there is none.
    """

    turn_ends: Mapping[Role, frozenset[int]]
    dialogue_end: int | None
    pad: int | None


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one role and turn: a turn with the token that ends it, what the format adds, or the end of text.

    `turn` is the index of the turn in the dialogue (for what the format adds that of the turn that follows, for the
    end-of-text token that of the last turn). `lost` counts the tokens that truncation took from it.
    """

    role: Role
    turn: int
    ids: tuple[int, ...]
    lost: int = 0


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A dialogue, or a part of one, as spans: what the format adds, as `[CLS]`, first, then turns and, at the end of the
    dialogue, the end of text where the format has one.

    A turn that truncation took completely, and the end of text likewise, is a span without tokens.
    """

    spans: tuple[Span, ...]

    @property
    def ids(self) -> list[int]:
        """All tokens, `(T,)`."""
        return [token for span in self.spans for token in span.ids]

    @property
    def roles(self) -> list[Role]:
        """The role of each token, `(T,)`."""
        return [span.role for span in self.spans for _ in span.ids]

    @property
    def turns(self) -> list[int]:
        """The turn index of each token, `(T,)`."""
        return [span.turn for span in self.spans for _ in span.ids]


@dataclass(frozen=True, slots=True)
class TurnSpans:
    """The spans of S sequences as arrays, without their ids: all that a mask needs to know.

    `roles`, `turns`, `lengths`, `lost` (int64) and `weights` (float32) are `(R,)`: the `Role` of each span, the index
    of its turn in the dialogue, its number of tokens, the number that truncation took from the turn, and the weight
    of the turn in the data. `counts` `(S,)` is the number of spans of each sequence, the first of which is FORMAT;
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
        firsts: np.ndarray = np.cumsum(self.counts) - self.counts
        return firsts

    @property
    def sequences(self) -> np.ndarray:
        """Index `(R,)` of the sequence of each span."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def sum_by_sequence(self, values: np.ndarray) -> np.ndarray:
        """Sums `(S,)` over the spans of each sequence of `values` `(R,)`."""
        sums: np.ndarray = np.add.reduceat(values, self.first_spans)
        return sums


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed sequences: one after the other, without padding.

    `ids`, `roles`, `turns`, `positions` `(N,)` int64, `weights` `(N,)` float32, `lengths` S ints that sum to N.
    `positions` restart at 0 with each sequence. `weights[i]` is the loss weight of predicting token `i` from the tokens
    before it in its own sequence; the first token of a sequence has weight 0. The loss of a step is divided by the sum
    of the `divisor` of its batches. `targets` `(M,)` int64 are the positions in the batch with a weight above 0,
    computed if not given.
    """

    ids: torch.Tensor
    roles: torch.Tensor
    turns: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    lengths: tuple[int, ...]
    divisor: float
    targets: torch.Tensor = None  # type: ignore[assignment]  # set by __post_init__

    def __post_init__(self) -> None:
        if self.targets is None:
            object.__setattr__(self, "targets", self.weights.nonzero().squeeze(1))

    def with_weights(self, weights: torch.Tensor) -> Batch:
        """The same tokens with other weights `(N,)`."""
        return replace(self, weights=weights, targets=None)  # type: ignore[arg-type]  # as above


@dataclass(frozen=True, slots=True)
class LossSum:
    """Sums over a batch, never means: micro-batches and ranks add, and the division by the divisors happens once.

    `nats` is `Σ w·nll` (a scalar tensor, in the graph while training). `role_turn_sums` `(2, 5, NUM_TURN_BINS)`, outside
    the graph, are `Σ nll`, unweighted, and the number of tokens, over the tokens with a weight above 0, by role and
    turn bin.
    """

    nats: torch.Tensor
    role_turn_sums: torch.Tensor


@dataclass(frozen=True, slots=True)
class Context:
    """The prompt of one reply: the turns before `turn_index` of a dialogue, and the gold reply.

    `ids` `(T,)` ends with the token that ends the last turn before the reply. `references` are the accepted replies, if
    the data name several.
    """

    dialogue_id: str
    turn_index: int
    ids: list[int]
    history: tuple[str, ...]
    reference: str
    references: tuple[str, ...] = ()

    def make_reply(self, text: str, ended: bool) -> Reply:
        """The record of `text` as the reply."""
        return Reply(self.dialogue_id, self.turn_index, self.history, self.reference, text, ended, self.references)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the model, cut at the end of its turn. `ended`: it was not cut off by a limit."""

    dialogue_id: str
    turn_index: int
    history: tuple[str, ...]
    reference: str
    text: str
    ended: bool
    references: tuple[str, ...] = ()

    def accepted_texts(self) -> tuple[str, ...]:
        """The texts that the reply is scored against, at least one."""
        return self.references or (self.reference,)
