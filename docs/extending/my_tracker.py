"""A tracker: validation rows as lines of a CSV file in the run's folder."""

import csv
from collections.abc import Mapping
from pathlib import Path


class CsvTracker:
    """Writes `step` and `keys` of each validation. It reads committed rows outside the step; if it raises, it is off.

    Args:
        run_directory: the folder of the run; passed because the parameter has this name.
        keys: the values to write, by their names in `metrics.jsonl`.
    """

    def __init__(self, run_directory: Path, keys: list[str]):
        self._keys = keys
        self._file = (Path(run_directory) / "validation.csv").open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    def log(self, row: Mapping[str, object]) -> None:
        """Takes one row of `metrics.jsonl`."""
        if row["split"] == "validation":
            self._writer.writerow([row["step"], *(row.get(key) for key in self._keys)])
            self._file.flush()

    def close(self) -> None:
        self._file.close()
