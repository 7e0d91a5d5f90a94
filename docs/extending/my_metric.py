"""A metric: the share of replies that ask a question."""

from collections.abc import Sequence

import numpy as np

from dialog_trainer.metrics.ratios import divide
from dialog_trainer.metrics.registry import Score
from dialog_trainer.types import Reply


def count_questions(replies: Sequence[Reply]) -> np.ndarray:
    """`(n, 2)`: whether a reply ends with a question mark, 1. Rows add up, so that intervals come for free."""
    return np.array([(reply.text.endswith("?"), 1) for reply in replies], dtype=np.float64).reshape(-1, 2)


question_rate = Score("question_rate", "question_rate[last character]", statistics=count_questions, value=divide)
