"""Stop signals: while a process prepares, and as a request to a running one."""

import signal
import threading

import pytest

from dialog_trainer import signals
from dialog_trainer.signals import StopSignal

TERM, INT, HUP, USR1, USR2 = (getattr(signal, f"SIG{name}") for name in ("TERM", "INT", "HUP", "USR1", "USR2"))


def handlers():
    return tuple(map(signal.getsignal, (TERM, INT, HUP, USR1, USR2)))


@pytest.mark.parametrize(
    ("raised", "received", "exit_code"),
    [
        ((), None, 0), ((TERM,), TERM, 75), ((INT,), INT, 130), ((HUP,), HUP, 75), ((USR1,), USR1, 75),
        ((USR2,), USR2, 75), ((TERM, INT), TERM, 75), ((INT, HUP), INT, 130),
    ],
)  # fmt: skip
def test_first_signal_decides_the_exit_code(raised, received, exit_code):
    with StopSignal() as stop:
        for number in raised:
            signal.raise_signal(number)
        assert (stop.requested(), stop.received, stop.exit_code) == (bool(raised), received, exit_code)
    assert stop.exit_code == exit_code


def test_what_nohup_ignores_stays_ignored():
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (HUP, USR1)}
    try:
        with StopSignal() as stop:
            signal.raise_signal(HUP)
            signal.raise_signal(USR1)
            assert not stop.requested()
            signal.raise_signal(USR2)
            assert stop.requested()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_stop_while_preparing_is_raised_once(monkeypatch):
    monkeypatch.setattr(signals, "_requests", [])
    before = dict(zip((TERM, INT, HUP, USR1, USR2), handlers(), strict=True))
    try:
        signals.end_at_once_on_stop()
        signals.raise_on_stop()
        with pytest.raises(signals.StopRequest) as first:
            signal.raise_signal(USR1)
        signal.raise_signal(TERM)  # the clean-up goes on
        assert first.value.code == 75
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(INT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        assert handlers() == (stop._receive,) * 5
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
