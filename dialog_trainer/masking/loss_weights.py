"""The loss weight of every token of some sequences, at one point of the training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dialog_trainer.masking.schedules import MaskSchedule, RoleWeights
from dialog_trainer.types import Role, TurnSpans


@dataclass(frozen=True, slots=True)
class Mask:
    """A schedule, and how its weights become those of tokens. The mask of a step is a pure function of the step.

    `trained_role` is ASSISTANT, or USER for a simulator of users. `last_turn_only`: of each sequence only the last turn
    of that role (that the data do not weigh 0) carries weight, whatever the schedule says of the others. `normalize` names what the summed loss of a
    global batch is divided by:

    - `token`: the sum of the weights. At the switch fewer tokens share the gradient, so each of them counts for more.
    - `fixed`: the number of tokens, whatever their weights. At the switch a token keeps its weight in the gradient.
    - `turn`: as `token`, after the weight of each turn was divided by its number of tokens, so that every trained
      turn counts alike, short or long. An end-of-text token counts as one more token of the last turn.

    A worked example: `[CLS] u u [SEP] a [SEP] <end>`, each token of 2 nats, the user's turn weighed 0.5.

        token      [CLS]   u     u     [SEP]  a     [SEP]  <end>    weighted nats  divisor  loss
        token      0       0.5   0.5   0.5    1     1      1        9.0            4.5      2.0
        fixed      0       0.5   0.5   0.5    1     1      1        9.0            7        1.286
        turn       0       1/6   1/6   1/6    1/3   1/3    1/3      3.0            1.5      2.0

    With the user's turn weighed 0, an assistant's token has 1/3 of the gradient under `token` and `turn`, instead of
    1/4.5 and 1/4.5; under `fixed` it has 1/7 before and after.
    """

    schedule: MaskSchedule
    trained_role: Role = Role.ASSISTANT
    last_turn_only: bool = False
    normalize: str = "token"

    def at(self, progress: float) -> RoleWeights:
        """The weights of the roles themselves."""
        weights = self.schedule(progress)
        if self.last_turn_only:
            weights = RoleWeights(0.0, weights.assistant)
        if self.trained_role == Role.USER:
            weights = RoleWeights(weights.assistant, weights.user, weights.by_lot)
        return weights

    def span_weights(self, spans: TurnSpans, at: RoleWeights) -> np.ndarray:
        """The weight of the tokens of each run, `(R,)` float32, as yet undivided."""
        of_role = np.zeros(len(Role), dtype=np.float32)
        of_role[Role.USER], of_role[Role.ASSISTANT] = at.user, at.assistant
        roles = spans.roles
        if at.by_lot and at.user != at.assistant:
            roles = np.where(self._candidates(spans), self._drawn_roles(spans), roles)
        weights = of_role[roles] * spans.weights
        if self.last_turn_only:
            weights *= self._last_turns(spans)
        weights[spans.roles == Role.END] = 1.0
        return weights

    def tokens(self, spans: TurnSpans, at: RoleWeights) -> tuple[np.ndarray, float]:
        """The weight of each token, `(N,)` float32, and what the sequences add to the divisor of the loss."""
        weights = self.span_weights(spans, at)
        if self.normalize == "turn":
            weights = weights / _turn_sizes(spans).astype(np.float32)
        if self.normalize == "fixed":
            divisor = float(spans.lengths.sum())
        else:
            divisor = float((weights.astype(np.float64) * spans.lengths).sum())
        return np.repeat(weights, spans.lengths), divisor

    def trainable(self, spans: TurnSpans) -> np.ndarray:
        """Whether a sequence has anything that this mask is for, whatever the schedule: `(S,)` bool.

        That is a turn of the trained role that the data do not weigh 0, or an end.
        """
        wanted = self._candidates(spans) & (spans.roles == self.trained_role)
        wanted |= (spans.roles == Role.END) & (spans.lengths > 0)
        return np.add.reduceat(wanted, np.cumsum(spans.counts) - spans.counts) > 0

    def _candidates(self, spans: TurnSpans) -> np.ndarray:
        """The turns that can carry weight at all."""
        return np.isin(spans.roles, (Role.USER, Role.ASSISTANT)) & (spans.lengths > 0) & (spans.weights > 0)

    def _drawn_roles(self, spans: TurnSpans) -> np.ndarray:
        """The trained role for as many turns of each sequence as have it, drawn by a hash of dialogue and turn."""
        sequences = np.repeat(np.arange(len(spans.counts)), spans.counts)
        candidates = self._candidates(spans)
        wanted = np.bincount(sequences[candidates & (spans.roles == self.trained_role)], minlength=len(spans.counts))
        places = np.flatnonzero(candidates)
        of_sequence = sequences[places]
        hashes = _hashes(spans.dialogues[of_sequence], spans.turns[places])
        # One key to sort by, which is fast: the sequence, then the upper half of the hash.
        order = np.argsort(of_sequence.astype(np.uint64) << np.uint64(32) | hashes >> np.uint64(32), kind="stable")
        ranks = np.arange(len(places)) - np.searchsorted(of_sequence, of_sequence)
        other = Role.USER if self.trained_role == Role.ASSISTANT else Role.ASSISTANT
        drawn = np.full(len(spans.roles), int(other))
        drawn[places[order]] = np.where(ranks < wanted[of_sequence], int(self.trained_role), int(other))
        return drawn

    def _last_turns(self, spans: TurnSpans) -> np.ndarray:
        sequences = np.repeat(np.arange(len(spans.counts)), spans.counts)
        places = np.flatnonzero(self._candidates(spans) & (spans.roles == self.trained_role))
        last = np.zeros(len(spans.roles), dtype=bool)
        of_sequence = sequences[places]
        last[places[np.append(of_sequence[1:] != of_sequence[:-1], True)[: len(places)]]] = True
        return last


def _turn_sizes(spans: TurnSpans) -> np.ndarray:
    """The number of tokens of each run's turn, that of an end among those of the turn before it; at least 1."""
    turn = np.cumsum(spans.roles != Role.END) - 1
    return np.maximum(1, np.bincount(turn, weights=spans.lengths))[turn]


def _hashes(dialogues: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """A 64-bit number of each (dialogue, turn) that looks random: the finaliser of SplitMix64 (Steele et al. 2014)."""
    mixed = dialogues.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + turns.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
