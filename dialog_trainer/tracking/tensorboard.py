"""TensorBoard logger: writes the rows of `metrics.jsonl` as scalars into `<run>/tensorboard`.

Open it with `tensorboard --logdir outputs`. Needs the package tensorboard (extra `track`); nothing else of the package
imports this module.
"""

from __future__ import annotations

from pathlib import Path

from dialog_trainer.tracking.jsonl import Row, read_newest_rows

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ImportError(
        f"tensorboard is not installed ({error}): pip install tensorboard, or install the extra `track`"
    ) from None

# Columns of a row that are no values.
_KEYS = {"step", "epoch", "attempt", "split", "time_seconds"}
# A resume writes so many earlier steps again: a killed process may not have flushed its last ones.
OVERLAP_STEPS = 1000


class TensorBoardLogger:
    """Scalars with tags `<split>/<name>` (`train/train_loss`, `validation/ppl`) at their global step.

    The curves are those of the newest attempt of each step: a resumed run continues them, and what earlier attempts
    wrote from the resume point on disappears. A logger that is turned on at a resume shows the earlier steps too.
    """

    def __init__(self, run_directory: Path):
        self._folder, self._metrics = run_directory / "tensorboard", run_directory / "metrics.jsonl"
        self._writer: SummaryWriter | None = None

    def log(self, row: Row) -> None:
        if self._writer is None:
            self._writer = self._open(row)
        _write(self._writer, row)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self, first: Row) -> SummaryWriter:
        """An event file that starts with what earlier attempts left before row `first`."""
        begin = max(0, first["step"] - OVERLAP_STEPS) if any(self._folder.glob("events.*")) else 0
        # TensorBoard drops what older files hold from `purge_step` on.
        writer = SummaryWriter(str(self._folder), purge_step=begin)
        for split in ("train", "validation", "probe"):
            for row in read_newest_rows(self._metrics, split):
                if row["attempt"] < first["attempt"] and row["step"] >= begin:
                    _write(writer, row)
        return writer


def _write(writer: SummaryWriter, row: Row) -> None:
    for name, value in row.items():
        if name not in _KEYS and isinstance(value, (int, float)):
            writer.add_scalar(f"{row['split']}/{name}", value, row["step"])
