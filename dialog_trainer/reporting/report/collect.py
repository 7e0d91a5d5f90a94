"""Reads run folders into records: settings, losses, scores, how each run ended, what it cost, and where it ran."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import read_bounded
from dialog_trainer.metrics.registry import SCORES
from dialog_trainer.reporting.report.scored import ScoredSplit, read_scored_splits
from dialog_trainer.tracking.jsonl import Row
from dialog_trainer.tracking.row_summary import RowSummary, summarize_rows
from dialog_trainer.training.checkpoint_directory import locate
from dialog_trainer.training.saved_state import SavedState, read_state

MAX_LOG_BYTES = 2**26
# Of a run that is over, whose numbers can be compared.
FINISHED, STOPPED_EARLY = "finished", "stopped early"
_NODE = re.compile(rb"^== .{1,60}, rank 0 of \d{1,6}, process \d{1,10} on (.{1,200})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What `sweep.json` says about a run: `end` in a word or two, its `error` in a line, and what it cost."""

    end: str
    error: str | None = None
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run.

    `settings` by dotted key; `typed` are the options of its command line. `state` is that of its last checkpoint, None
    without one. `end` is "finished", "stopped early", or says what is missing. `notes`: what of its files cannot be read.
    """

    folder: Path
    settings: Mapping[str, Any]
    typed: tuple[str, ...]
    state: SavedState | None
    rows: RowSummary
    scored: tuple[ScoredSplit, ...]
    end: str
    error: str | None
    seconds: float
    tokens: int
    node: str
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def seed(self) -> int:
        seed: int = self.settings["seed"]
        return seed

    @property
    def is_complete(self) -> bool:
        return self.end in (FINISHED, STOPPED_EARLY)

    @property
    def steps_done(self) -> int:
        return self.state.step if self.state else 0

    @property
    def last_validation(self) -> Row:
        """The row of the last validation; an empty one without any."""
        return self.rows.validations[-1] if self.rows.validations else {}

    def environment(self) -> dict[str, str]:
        """What may differ between runs without being a setting, by name."""
        state, settings = self.state, self.settings
        found = {"precision": str(settings["precision"]), "machine": self.node}
        if state:
            found |= {"device": state.device, "threads": str(state.threads), "processes": str(state.processes)}
            found |= {f"version of {name}": version for name, version in state.versions.items()}
            found |= {"validation data": state.held_out}
        for one in self.scored:
            found |= {
                f"{one.place} data": one.file.data,
                f"{one.place} protocol": one.file.signature,
                f"{one.place} dialogues left out as training data": str(one.left_out),
            }
        return found


def collect_run(folder: Path, settings: Mapping[str, Any], typed: tuple[str, ...], job: JobStatus | None) -> RunRecord:
    """The record of a run folder with these settings, which the caller has read. What cannot be read is noted."""
    notes, rows, state = [], RowSummary(), None
    try:
        rows = summarize_rows(folder / "metrics.jsonl", settings["steps"])
    except CheckpointError as error:
        notes.append(str(error))
    try:
        last = locate(folder, "last")
        state = read_state(folder, last) if last else None
    except CheckpointError as error:
        notes.append(str(error))
    scored, of_scores = read_scored_splits(folder)
    end = job.end if job else _describe_end(settings, state)
    return RunRecord(
        folder, settings, typed, state, rows, tuple(scored), end, job.error if job else None,
        job.seconds if job and job.seconds else rows.seconds,
        job.tokens if job and job.tokens else state.tokens_seen if state else 0,
        _read_node(folder), (*notes, *of_scores),
    )  # fmt: skip


def _describe_end(settings: Mapping[str, Any], state: SavedState | None) -> str:
    """How a run ended, from its last checkpoint."""
    if state is None:
        return "without a checkpoint"
    if state.step >= settings["steps"]:
        return FINISHED
    if settings["patience"] and state.best.bad_validations >= settings["patience"]:
        return STOPPED_EARLY
    return f"incomplete: step {state.step:,} of {settings['steps']:,}"


def _read_node(folder: Path) -> str:
    """The machine on which the newest attempt ran, as its log names it."""
    try:
        nodes = _NODE.findall(read_bounded(folder, "logs/rank-0.log", MAX_LOG_BYTES))
    except OSError:
        return "unknown"
    return nodes[-1].decode("utf-8", "replace") if nodes else "unknown"


def direction_of(score: str) -> str:
    """Whether a "higher" or a "lower" value of a loss or score is better, or "neither"."""
    if score.endswith(("_nll", "_loss")):
        return "lower"
    return SCORES[score].better if score in SCORES else "neither"
