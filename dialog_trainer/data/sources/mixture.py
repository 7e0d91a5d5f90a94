"""The source `data=mixture`: several data sets in one run, each as often as its weight says."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Any

from dialog_trainer.data.sources.files import Files
from dialog_trainer.data.sources.hub import Hub
from dialog_trainer.data.sources.protocol import RawDialogue, hash_fraction
from dialog_trainer.data.sources.row_format import RowParser
from dialog_trainer.errors import DataError, EmptySplitError
from dialog_trainer.files import sha256_of_texts
from dialog_trainer.types import Turn

# Where `{assistant: Monica}` would make all speakers of another source users.
_NAME_ALL = "with several sources say the role of each name: 'data.roles={<name>: assistant, <name>: user}'"


class Mixture:
    """The dialogues of several sources, one after the other; those of the training split as many times as weighted.

    A weight of 2.5 gives each training dialogue twice, and half of them, chosen by a hash, a third time. Validation and test
    have each dialogue of each source once, whatever the weights: a source without such a split adds nothing to it.

    Args:
        sources: each a file, folder or pattern, as `Files` takes it, or the id of a data set of the hub.
        weights: one for each source; None: 1 for all.
        validation_share, columns, roles: as in `Files`, the same for all sources. A source whose rows lack what is mapped
            is read without it; it is an error where no source has it.
    """

    def __init__(
        self,
        sources: Sequence[str],
        weights: Sequence[float] | None = None,
        validation_share: float = 0.05,
        columns: Mapping[str, str | None] | None = None,
        roles: Mapping[str, Any] | None = None,
    ):
        same = {"validation_share": validation_share, "columns": columns, "roles": roles, "shared": True}
        ends = Counter(PurePath(place).name for place in sources)
        # An id of a dialogue begins with the source's name.
        self.names = [name if ends[name := PurePath(place).name] == 1 else place for place in sources]
        self.parts = [_open(place, same) for place in sources]
        self.weights = [1.0] * len(self.parts) if weights is None else [*map(float, weights)]
        # How many dialogues each source gave when it was read last, before those without text are dropped.
        self.by_source: dict[str, int] = {}
        self._parsers: list[RowParser] = []
        self.parser = self

    def dialogues(self, split: str) -> Iterator[RawDialogue]:
        self.by_source, self._parsers = {}, []
        for name, part, weight in self._parts_of(split):
            self.by_source[name] = 0
            # A small source may have no dialogue in the part that is held out.
            with suppress(EmptySplitError):
                for identifier, turns in part.dialogues(split):
                    for copy in range(_copies(weight, turns)):
                        self.by_source[name] += 1
                        yield f"{name}:{identifier}" + (f" copy {copy + 1}" if copy else ""), turns
            self._parsers.append(part.parser)
            if problem := part.parser.find_unused().get("people"):
                raise DataError(f"{name}: {problem}; {_NAME_ALL}")
        unused = [parser.find_unused() for parser in self._parsers]
        for key in set.intersection(*map(set, unused)):
            raise DataError(f"no source has what is mapped: {unused[0][key]}")

    def digest(self, split: str) -> str:
        parts = self._parts_of(split)
        return sha256_of_texts("mixture", *(f"{name} {weight} {part.digest(split)}" for name, part, weight in parts))

    def describe(self, split: str) -> str:
        return "; ".join(
            part.describe(split) + (f", {weight:g} times" if weight != 1 else "")
            for _, part, weight in self._parts_of(split)
        )

    def unread(self) -> dict[str, int]:
        """The keys of rows that were not read, over all sources."""
        return dict(sum((Counter(parser.unread()) for parser in self._parsers), Counter[str]()))

    @property
    def by_position(self) -> int:
        """The number of dialogues whose roles the data do not name."""
        return sum(parser.by_position for parser in self._parsers)

    def _parts_of(self, split: str) -> list[tuple[str, Files | Hub, float]]:
        """The sources that have this split, each with its name and weight. Raises `DataError` if none has."""
        found = []
        for name, part, weight in zip(self.names, self.parts, self.weights, strict=True):
            try:
                part.describe(split)
            except EmptySplitError:
                if split == "train":
                    raise
            else:
                found.append((name, part, weight if split == "train" else 1.0))
        if not found:
            raise DataError(f"no source has a {split} split: {', '.join(self.names)}")
        return found


def _copies(weight: float, turns: Sequence[Turn]) -> int:
    """How often a dialogue is given: the whole part of the weight, and once more for a share of the dialogues."""
    return int(weight) + (hash_fraction("copy", *(turn.text for turn in turns)) < weight % 1)


def _open(place: str, same: Mapping[str, Any]) -> Files | Hub:
    """Files where something is, or where a pattern is named; else a data set of the hub."""
    if os.path.lexists(place) or glob.has_magic(place):
        return Files(place, None, None, **same)
    return Hub(place, **same)
