"""The source `data=hub`: a data set of the Hugging Face hub, or a local folder of its files, through `datasets`."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dialog_trainer.data.sources.parsing import Row, hold_out, parse_rows
from dialog_trainer.data.sources.protocol import RawDialogue
from dialog_trainer.data.sources.reading import digest_of_data_file
from dialog_trainer.data.sources.row_format import RowParser
from dialog_trainer.data.sources.splits import split_of
from dialog_trainer.errors import DataError, EmptySplitError
from dialog_trainer.files import sha256_of_texts

MAX_REASON = 500


class Hub:
    """A data set of dialogues. Rows are read one after the other, so that a bounded number downloads no more than it needs.

    `remedy` is what the error of a set that cannot be loaded advises.

    Args:
        id: `owner/name` on the hub, or a folder of its files.
        config: its configuration (subset), if it has several.
        revision: a branch, tag or commit; None: the default branch.
        splits: split -> its name in the data set, where that is another.
        columns, roles: see `RowParser`.
        shared: as in `Files`.
        validation_share: the fraction of the training dialogues that is held out where there is no validation split.
    """

    remedy = (
        "check data.id, data.config and data.revision; or pass a folder with a copy of its files as data.id; or use "
        "data=chitchat, which needs no hub"
    )

    def __init__(
        self,
        id: str,
        config: str | None = None,
        revision: str | None = None,
        splits: Mapping[str, str] | None = None,
        columns: Mapping[str, str | None] | None = None,
        roles: Mapping[str, Any] | None = None,
        validation_share: float = 0.05,
        shared: bool = False,
    ):
        self.id, self.config, self.revision = id, config, revision
        self.splits, self.validation_share = dict(splits or {}), validation_share
        self._mappings, self._shared = (dict(columns or {}), dict(roles or {})), shared
        self.parser = RowParser()

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        self.parser = RowParser(*self._mappings)
        rows = self._rows(self._find(split) or self._find_training())
        if split == "test" or self._find("validation") is not None:
            return parse_rows(rows, self.parser, self._shared)
        return hold_out(rows, self.parser, self.validation_share, split, self._shared)

    def digest(self, split: str) -> str:
        folder = Path(self.id)
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
        options = [
            self.id if not files else "",
            str(self.config),
            str(self.revision),
            split,
            str(self.validation_share),
        ]
        mapped = [json.dumps(mapping, sort_keys=True) for mapping in (self.splits, *self._mappings)]
        return sha256_of_texts("hub", *options, *mapped, *map(digest_of_data_file, files))

    def describe(self, split: str) -> str:
        version = ", ".join(text for text in (self.config, self.revision) if text)
        place = f"{self.id} ({version})" if version else self.id
        name = self._find(split)
        if name is None:
            return f"{self.validation_share:g} of {place}, split {self._find_training()}, held out by a hash of the dialogue"
        is_less = split == "train" and self._find("validation") is None
        return f"{place}, split {name}" + (
            f" without the {self.validation_share:g} that is held out" if is_less else ""
        )

    @cached_property
    def _names(self) -> list[str]:
        """The names of its splits."""
        import datasets

        # It warns, each time that the set is opened, of a README without metadata.
        logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
        try:
            names: list[str] = datasets.get_dataset_split_names(self.id, self.config, revision=self.revision)
        except Exception as error:  # the hub's client raises many classes; all mean that the data are not available
            raise self._unavailable(error) from None
        return names

    def _unavailable(self, error: Exception) -> DataError:
        reason = " ".join(str(error).split())[:MAX_REASON]
        return DataError(f"{self.id} could not be loaded ({type(error).__name__}: {reason}): {self.remedy}")

    def _find_training(self) -> str:
        name = self._find("train")
        assert name is not None
        return name

    def _find(self, split: str) -> str | None:
        """The name of a split in the data set; None if it is validation and must be held out. Raises `DataError`."""
        named = self.splits.get(split)
        if named is not None:
            if named not in self._names:
                near = difflib.get_close_matches(named, self._names, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise DataError(f"data.splits.{split}: {self.id} has no split {named!r}; {hint}It has {self._listed()}")
            return named
        found = [name for name in self._names if split_of(name) == split and name not in self.splits.values()]
        found = [split] if split in found else found
        if len(found) == 1:
            return found[0]
        if found or split != "validation":
            fault = f"several splits may be {split}" if found else f"there is no {split} split"
            raise (DataError if found else EmptySplitError)(
                f"{self.id}: {fault}; it has {self._listed()}: choose one with 'data.splits={{{split}: ...}}'"
            )
        return None

    def _listed(self) -> str:
        return ", ".join(self._names[:20]) or "none"

    def _rows(self, name: str) -> Iterator[Row]:
        import datasets

        try:
            rows = datasets.load_dataset(self.id, self.config, revision=self.revision, split=name, streaming=True)
            for index, row in enumerate(rows):
                yield str(index), f"split {name}, row {index}", row
        except DataError:
            raise
        except Exception as error:  # as above, and what damaged files raise
            raise self._unavailable(error) from None
