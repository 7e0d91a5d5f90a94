"""Early stopping: the best loss and score so far, and the validations since they last improved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class BestTracker:
    """The best validation results of a run. A step is a number of updates done.

    `bad_validations` counts validations in a row in which neither loss nor score improved. A validation before the mask
    schedule reached its final weights never counts as bad.
    """

    loss: float | None = None
    loss_step: int | None = None
    score: float | None = None
    score_step: int | None = None
    bad_validations: int = 0

    def update(self, step: int, loss: float, score: float, counts: bool) -> tuple[bool, bool]:
        """Adds a validation; returns whether its loss (lower is better) and its score (higher is better) are the best.

        `counts`: whether it counts as bad if neither improved.
        """
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

    def is_exhausted(self, patience: int) -> bool:
        """Whether to stop early: `patience` validations in a row did not improve."""
        return self.bad_validations >= patience

    def forget_loss(self, step: int) -> None:
        """For a resume at `step` whose losses cannot be compared with the best one: the next validation is the best."""
        self.loss, self.loss_step = None, step

    def forget_score(self, step: int) -> None:
        """As `forget_loss`, for the score."""
        self.score, self.score_step = None, step
