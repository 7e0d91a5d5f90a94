"""Loss weights of tokens: what a mask gives each token of some sequences at one point of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dialog_trainer.masking.schedules import MaskSchedule, RoleWeights
from dialog_trainer.types import Role, TurnSpans


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask schedule, and how the weights of roles become those of tokens. A pure function of progress.

    `trained_role` is ASSISTANT, or USER for a user simulator. With `last_turn_only` only the last turn of that role in
    each sequence carries weight, of those with a data weight above 0. `normalize` says what the summed loss of a global
    batch is divided by:

    - `token`: the sum of the weights. At the switch fewer tokens share the gradient, so each has more of it.
    - `fixed`: the number of tokens. At the switch a token keeps its part of the gradient.
    - `turn`: as `token`, after the weight of each token was divided by the number of tokens of its turn, so that all
      trained turns count alike. An end-of-text token belongs to the last turn.

    Example: `[CLS] u u [SEP] a [SEP] <end>`, each token with a loss of 2 nats, user weight 0.5.

        token      [CLS]   u     u     [SEP]  a     [SEP]  <end>    weighted nats  divisor  loss
        token      0       0.5   0.5   0.5    1     1      1        9.0            4.5      2.0
        fixed      0       0.5   0.5   0.5    1     1      1        9.0            7        1.286
        turn       0       1/6   1/6   1/6    1/3   1/3    1/3      3.0            1.5      2.0

    With user weight 0 an assistant token has 1/3 of the gradient under `token` and `turn` instead of 1/4.5; under
    `fixed` it has 1/7 before and after.
    """

    schedule: MaskSchedule
    trained_role: Role = Role.ASSISTANT
    last_turn_only: bool = False
    normalize: str = "token"

    def weigh_roles(self, progress: float) -> RoleWeights:
        """The weights of the roles at `progress`."""
        weights = self.schedule(progress)
        if self.last_turn_only:
            weights = RoleWeights(0.0, weights.assistant)
        if self.trained_role == Role.USER:
            weights = RoleWeights(weights.assistant, weights.user, weights.random_roles)
        return weights

    def weigh_spans(self, spans: TurnSpans, role_weights: RoleWeights) -> np.ndarray:
        """The weight of each token of a span, `(R,)` float32, before `normalize`."""
        by_role = np.zeros(len(Role), dtype=np.float32)
        by_role[Role.USER], by_role[Role.ASSISTANT] = role_weights.user, role_weights.assistant
        roles = spans.roles
        if role_weights.random_roles and role_weights.user != role_weights.assistant:
            roles = self.draw_roles(spans)
        weights: np.ndarray = by_role[roles] * spans.weights
        if self.last_turn_only:
            weights *= self._last_turns(spans)
        weights[spans.roles == Role.END] = 1.0
        return weights

    def weigh_tokens(self, spans: TurnSpans, role_weights: RoleWeights) -> tuple[np.ndarray, float]:
        """The weight of each token, `(N,)` float32, and what these sequences add to the divisor of the loss."""
        weights = self.weigh_spans(spans, role_weights)
        if self.normalize == "turn":
            weights = weights / _turn_lengths(spans).astype(np.float32)
        if self.normalize == "fixed":
            divisor = float(spans.lengths.sum())
        else:
            divisor = float((weights.astype(np.float64) * spans.lengths).sum())
        return np.repeat(weights, spans.lengths), divisor

    def find_trainable(self, spans: TurnSpans) -> np.ndarray:
        """Which sequences this mask can train under some schedule, `(S,)` bool: those with a turn of the trained role that
        has a data weight above 0, or with an end-of-text token."""
        trainable = _weighted_turns(spans) & (spans.roles == self.trained_role)
        trainable |= (spans.roles == Role.END) & (spans.lengths > 0)
        return spans.sum_by_sequence(trainable) > 0

    def draw_roles(self, spans: TurnSpans) -> np.ndarray:
        """The role that each span counts as, `(R,)`, under `random_roles`.

        In each sequence as many turns as the trained role has are drawn, and count as that role; the other turns count
        as the other role. A hash of (dialogue, turn) orders the turns, and the first ones are drawn: the draw does not
        depend on the step, the batch or the schedule. Turns without tokens or with data weight 0 are not drawn.

        Example: dialogue 3, `trained_role=ASSISTANT`. The assistant has one turn, so one turn is drawn: turn 0, which
        has the smallest hash.

            turn             0            1            2       end of text
            role             USER         ASSISTANT    USER    END
            hash / 2^64      0.03         0.97         0.60
            counts as        ASSISTANT    USER         USER    END
        """
        turns = np.flatnonzero(_weighted_turns(spans))
        sequences = spans.sequences[turns]
        hashes = _hash(spans.dialogues[sequences], spans.turns[turns])
        # Sorts the turns of each sequence by hash. One integer key, sequence then upper half of the hash, is fast.
        order = np.argsort(sequences.astype(np.uint64) << np.uint64(32) | hashes >> np.uint64(32), kind="stable")
        ranks = np.arange(len(turns)) - np.searchsorted(sequences, sequences)
        is_trained = spans.roles[turns] == self.trained_role
        to_draw = np.bincount(sequences[is_trained], minlength=len(spans.counts))
        other = Role.USER if self.trained_role == Role.ASSISTANT else Role.ASSISTANT
        roles = spans.roles.copy()
        roles[turns[order]] = np.where(ranks < to_draw[sequences], int(self.trained_role), int(other))
        return roles

    def _last_turns(self, spans: TurnSpans) -> np.ndarray:
        """Whether a span is the last weighted turn of the trained role in its sequence, `(R,)` bool."""
        turns = np.flatnonzero(_weighted_turns(spans) & (spans.roles == self.trained_role))
        sequences = spans.sequences[turns]
        is_last = np.zeros(len(spans.roles), dtype=bool)
        is_last[turns[np.diff(sequences, append=len(spans.counts)) > 0]] = True
        return is_last


def _weighted_turns(spans: TurnSpans) -> np.ndarray:
    """Whether a span is a turn that can carry weight, `(R,)` bool."""
    is_turn = (spans.roles == Role.USER) | (spans.roles == Role.ASSISTANT)
    weighted: np.ndarray = is_turn & (spans.lengths > 0) & (spans.weights > 0)
    return weighted


def _turn_lengths(spans: TurnSpans) -> np.ndarray:
    """The number of tokens of each span's turn, `(R,)`, at least 1. An end-of-text token belongs to the turn before it."""
    turns = np.cumsum(spans.roles != Role.END) - 1
    lengths: np.ndarray = np.maximum(1, np.bincount(turns, weights=spans.lengths))[turns]
    return lengths


def _hash(dialogues: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each (dialogue, turn): the finalizer of SplitMix64 (Steele, Lea & Flood 2014)."""
    mixed = dialogues.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + turns.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
