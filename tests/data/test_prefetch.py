import threading

import pytest

from dialog_trainer.data.prefetch import prefetch_batches


def test_each_step_gets_its_own_and_the_next_is_made_meanwhile():
    made, other_thread = [], threading.Event()

    def batches(step):
        made.append((step, threading.current_thread().name.startswith("batches")))
        if step == 4:
            other_thread.set()
        return iter([step, -step])

    with prefetch_batches(batches) as of:
        assert of(3) == [3, -3]
        assert other_thread.wait(10)  # nobody has asked for step 4
        assert of(4) == [4, -4]
        assert of(9) == [9, -9]  # not the one that was begun
        assert of(9) == [9, -9]
    assert sorted(set(made)) == [(3, False), (4, True), (5, True), (9, False), (10, True)]


def test_a_fault_comes_where_its_step_is_asked_for():
    def batches(step):
        if step == 1:
            raise OSError("the disk is gone")
        return [step]

    with prefetch_batches(batches) as of:
        assert of(0) == [0]
        with pytest.raises(OSError, match="the disk is gone"):
            of(1)
