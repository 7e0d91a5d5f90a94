"""Replies by the depth of their turn: the number of turns before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dialog_trainer.records import Reply

# The last depth of each bin but the open one.
_LAST = (1, 2, 3, 4, 6, 10)
BINS = ("1", "2", "3", "4", "5-6", "7-10", ">10")


def by_depth(replies: Sequence[Reply]) -> dict[str, np.ndarray]:
    """Of each bin, in order, the rising indices of its replies; none in a bin that has none.

    Where one role alone replies, only its depths are there: an assistant that speaks second has 1, 3, 5-6, 7-10 and >10.
    """
    bins = np.searchsorted(_LAST, [reply.turn_index for reply in replies])
    return {name: np.flatnonzero(bins == index) for index, name in enumerate(BINS)}
