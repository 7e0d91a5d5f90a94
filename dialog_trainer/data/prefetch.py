"""Prefetches the next step's batches in a background thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from dialog_trainer.types import Batch


@contextmanager
def prefetch_batches(batches: Callable[[int], Iterable[Batch]]) -> Iterator[Callable[[int], list[Batch]]]:
    """Yields a function that returns `list(batches(step))` and starts to prepare those of the step after it.

    `batches` must be a pure function of the step: it may be called early, in another thread, or twice. Its errors are
    raised when their step is asked for.
    """
    pending: dict[int, Future[list[Batch]]] = {}

    def get_batches(step: int) -> list[Batch]:
        prepared = pending.pop(step, None)
        pending.clear()
        pending[step + 1] = executor.submit(lambda: list(batches(step + 1)))
        return list(batches(step)) if prepared is None else prepared.result()

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as executor:
        yield get_batches
