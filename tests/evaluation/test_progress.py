"""Counts of a part, reported as counts of the total."""

import pytest
from helpers.progress import RecordingProgress

from dialog_trainer.evaluation.progress import SILENT, PartProgress


@pytest.mark.parametrize(("part", "total"), [(1, 3), (3, 10), (5, 5), (7, 3)])
def test_a_part_advances_to_the_total(part, total):
    progress = RecordingProgress()
    shard = PartProgress(progress, part, total)
    for _ in range(part):
        shard.advance(1)
    assert sum(progress.counts) == total
    assert min(progress.counts) > 0


def test_an_empty_part_advances_nothing():
    progress = RecordingProgress()
    PartProgress(progress, 0, 2).advance(0)
    assert progress.counts == []


def test_stages_and_stop_requests_pass_through():
    progress = RecordingProgress(stop=lambda progress: True)
    part = PartProgress(progress, 1, 2)
    part.start("loss", 4)
    assert progress.stages == [("loss", 4)]
    assert part.stop_requested() is True
    assert PartProgress(SILENT, 1, 2).stop_requested() is False
