"""SIGTERM and Ctrl-C as a stop request."""

import signal
import threading

import pytest

from dialog_trainer.training.signals import StopSignal

TERM, INT = signal.SIGTERM, signal.SIGINT


def handlers():
    return signal.getsignal(TERM), signal.getsignal(INT)


@pytest.mark.parametrize(
    ("raised", "received", "exit_code"),
    [((), None, 0), ((TERM,), TERM, 75), ((INT,), INT, 130), ((TERM, INT), TERM, 75), ((INT, TERM), INT, 130)],
)
def test_first_signal_decides_the_exit_code(raised, received, exit_code):
    with StopSignal() as stop:
        for number in raised:
            signal.raise_signal(number)
        assert (stop.requested(), stop.received, stop.exit_code) == (bool(raised), received, exit_code)
    assert stop.exit_code == exit_code


@pytest.mark.parametrize(("raised", "exit_code"), [((TERM, TERM, TERM), 75), ((INT, TERM, INT), 130)])
def test_third_signal_ends_the_process(raised, exit_code):
    *first, third = raised
    before = handlers()
    with pytest.raises(SystemExit) as ended, StopSignal() as stop:  # noqa: PT012
        for number in first:
            signal.raise_signal(number)
        assert stop.requested()
        signal.raise_signal(third)
    assert ended.value.code == exit_code
    assert handlers() == before


def test_previous_handlers_come_back():
    before = handlers()
    with pytest.raises(ValueError, match="in the run"), StopSignal() as stop:  # noqa: PT012
        assert handlers() == (stop._receive, stop._receive)
        raise ValueError("in the run")
    assert handlers() == before


def test_other_threads_leave_the_handlers_alone():
    before, seen = handlers(), []

    def run():
        with StopSignal() as stop:
            seen.append((handlers(), stop.requested()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
