"""Prefetch: right batches, prepared early; errors at their step."""

import threading

import pytest

from dialog_trainer.data.prefetch import prefetch_batches


def test_the_next_step_is_prepared_in_the_background():
    made, other_thread = [], threading.Event()

    def batches(step):
        made.append((step, threading.current_thread().name.startswith("batches")))
        if step == 4:
            other_thread.set()
        return iter([step, -step])

    with prefetch_batches(batches) as get_batches:
        assert get_batches(3) == [3, -3]
        assert other_thread.wait(10)  # before step 4 is asked for
        assert get_batches(4) == [4, -4]
        assert get_batches(9) == [9, -9]  # not the prepared step
        assert get_batches(9) == [9, -9]
    assert sorted(set(made)) == [(3, False), (4, True), (5, True), (9, False), (10, True)]


def test_an_error_is_raised_at_its_step():
    def batches(step):
        if step == 1:
            raise OSError("the disk is gone")
        return [step]

    with prefetch_batches(batches) as get_batches:
        assert get_batches(0) == [0]
        with pytest.raises(OSError, match="the disk is gone"):
            get_batches(1)
