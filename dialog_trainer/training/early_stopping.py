"""Early stopping: the best loss and score so far, and the validations since they last improved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class BestTracker:
    """The best validation results of a run. A step is a number of updates done.

    Of equal scores, as 0 where no reply has a match yet, the one with the lowest loss is the best; `score_ties` counts the
    others. `score_loss` is its loss: None in a run of an earlier version, whose first of equal scores stays the best.

    `bad_validations` counts validations in a row in which neither loss nor score improved. A validation before the mask
    schedule reached its final weights never counts as bad.
    """

    loss: float | None = None
    loss_step: int | None = None
    score: float | None = None
    score_step: int | None = None
    bad_validations: int = 0
    score_loss: float | None = None
    score_ties: int = 0

    def update(self, step: int, loss: float, score: float, counts: bool) -> tuple[bool, bool]:
        """Adds a validation; returns whether its loss (lower is better) and its score (higher is better) are the best.

        `counts`: whether it counts as bad if neither improved; an equal score is no improvement.
        """
        better_loss = self.loss is None or loss < self.loss
        higher = self.score is None or score > self.score
        better_score = higher or (score == self.score and self.score_loss is not None and loss < self.score_loss)
        self.score_ties = 0 if higher else self.score_ties + (score == self.score)
        if better_loss:
            self.loss, self.loss_step = loss, step
        if better_score:
            self.score, self.score_step, self.score_loss = score, step, loss
        if better_loss or higher:
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
        self.score, self.score_step, self.score_loss, self.score_ties = None, step, None, 0
