"""The batches of the next step, made while this one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from dialog_trainer.types import Batch


@contextmanager
def prefetch_batches(batches: Callable[[int], Iterable[Batch]]) -> Iterator[Callable[[int], list[Batch]]]:
    """Within the block, a function that gives `list(batches(step))` and begins with those of the step after it.

    `batches` is a pure function of the step, so that it does not matter when it is asked.
    """
    coming: dict[int, Future[list[Batch]]] = {}

    def of(step: int) -> list[Batch]:
        found = coming.pop(step, None)
        coming.clear()
        coming[step + 1] = maker.submit(lambda: list(batches(step + 1)))
        return list(batches(step)) if found is None else found.result()

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as maker:
        yield of
