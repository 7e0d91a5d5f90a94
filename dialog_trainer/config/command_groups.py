"""Groups of options that say how a command works, and are no part of a run: those of a resume and of a sweep (-m)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainValidator

from dialog_trainer.config.fields import Count, Flag, Name, Positive, Record, Words, setting
from dialog_trainer.config.frozen import FrozenMapping


def _read_list(value: Any) -> tuple[FrozenMapping, ...]:
    entries = _read_tuple(value)
    if not all(
        isinstance(entry, Mapping) and entry and all(isinstance(key, str) for key in entry) for entry in entries
    ):
        raise ValueError("holds something that is no dict of options")
    return tuple(map(FrozenMapping, entries))


def _read_tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("is not a list")
    return tuple(value)


def _read_fork(value: Any) -> Any:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError("is none of them")


class ResumeConfig(Record):
    in_place: Flag = setting(
        "From an older checkpoint, as the best one: go on in the folder of the run and remove what came after. false: in a "
        "new folder <name>-from-<step>."
    )


class SweepConfig(Record):
    dry_run: Flag = setting("Show the jobs of the sweep, their data and what they cost, and stop there.")
    list: Annotated[
        tuple[FrozenMapping, ...],
        PlainValidator(_read_list),
        Words("a list of dicts, as [{optim.lr0: 1e-3, batch_size: 16}, {optim.lr0: 3e-3, batch_size: 64}]"),
    ] = setting("Options that belong together; each of these dicts is combined with all other swept values.")
    early_stopping: Flag = setting(
        "Let patience stop jobs early. false: all jobs make all their steps, so that they can be compared."
    )
    max_hours: Positive | None = setting(
        "Hours after which all jobs stop with a checkpoint; the same command goes on. null: no limit."
    )
    fork: Annotated[bool | Literal["auto"], PlainValidator(_read_fork), Words("auto, true or false")] = setting(
        "Train once what jobs share that differ in their mask schedule alone, up to the step at which they differ. auto: "
        "where that is at least a tenth of a job; true: also where it is less."
    )
    keep_at: Annotated[
        tuple[Count, ...], BeforeValidator(_read_tuple), Words("a list of whole numbers of at least 1")
    ] = setting("Of a job: updates after which it keeps, in branches/, what a run needs that forks from it there.")
    fork_from: Name | None = setting("Of a job: the branch of another run that it starts from. null: from the start.")


# Of a run that was saved before there were these options.
NO_SWEEP = {
    "dry_run": False, "list": (), "early_stopping": False, "max_hours": None, "fork": "auto", "keep_at": (), "fork_from": None,
}  # fmt: skip
