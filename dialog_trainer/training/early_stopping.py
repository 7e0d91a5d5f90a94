"""The best loss and score so far, and when to stop for want of better ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class BestTracker:
    """What the validations have given so far. Steps are numbers of updates done.

    `bad_validations` counts those in a row in which neither the loss nor the score got better; only validations
    after the mask reached its final weights count.
    """

    loss: float | None = None
    loss_step: int | None = None
    score: float | None = None
    score_step: int | None = None
    bad_validations: int = 0

    def update(self, step: int, loss: float, score: float, counts: bool) -> tuple[bool, bool]:
        """Takes in a validation; returns whether the loss and whether the score is the best so far."""
        better_loss = self.loss is None or loss < self.loss
        better_score = self.score is None or score > self.score
        if better_loss:
            self.loss, self.loss_step = loss, step
        if better_score:
            self.score, self.score_step = score, step
        if better_loss or better_score:
            self.bad_validations = 0
        elif counts:
            self.bad_validations += 1
        return better_loss, better_score

    def forget_loss(self, step: int) -> None:
        """The best one is no longer there to compare with, or means something else: the next is the best anew."""
        self.loss, self.loss_step = None, step

    def forget_score(self, step: int) -> None:
        """As `forget_loss`."""
        self.score, self.score_step = None, step
