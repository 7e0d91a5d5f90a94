"""mode=inspect: shows which tokens carry the loss, and when, before any training and without any weights."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dialog_trainer.build.data import (
    Split,
    fix_chat_date,
    load_dialogues,
    load_tokenizer,
    report_contamination,
    tokenize_split,
)
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.mask_check import check_split_mask, digest_mask, summarize_held_out, summarize_training
from dialog_trainer.config.job import Job
from dialog_trainer.config.schema import Config
from dialog_trainer.data.dataset import DialogueDataset
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import DataError
from dialog_trainer.evaluation.contexts import sample_dialogues
from dialog_trainer.files import read_bounded, write_atomically
from dialog_trainer.masking.coverage import DatasetCoverage, measure_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.timeline import ScheduleTimeline, build_timeline, describe_timeline
from dialog_trainer.masking.validation import MaskCheckResult
from dialog_trainer.reporting.console import make_printer, mask_line
from dialog_trainer.reporting.mask_page.content import build_page_content, describe_sequence
from dialog_trainer.reporting.mask_page.page import render_mask_page
from dialog_trainer.reporting.split_table import report_splits
from dialog_trainer.reporting.tables import build_mask_tables
from dialog_trainer.reporting.terminal import print_sequence, print_tables
from dialog_trainer.seeds import derive_seed
from dialog_trainer.tracking.run_directory import claim_run_directory
from dialog_trainer.types import Say

TERMINAL_DIALOGUES = 3
# Dialogues of each notable kind (longest, truncated, without a trained token) on the page, next to the sample.
DIALOGUES_PER_KIND = 50
# The data and the model of the page in a folder.
SOURCE_FILE = "source.json"


@dataclass(frozen=True, slots=True)
class MaskedSplit:
    """The training split and the mask of a run. `used` `(S,)`: whether training uses a sequence."""

    split: Split
    tokenizer: DialogueTokenizer
    mask: Mask
    timeline: ScheduleTimeline
    check: MaskCheckResult
    used: np.ndarray
    digest: str

    def source(self) -> dict[str, str]:
        """Digests of the data and of the model's vocabulary."""
        return {"data": self.split.dialogues.digest, "vocabulary": self.tokenizer.digest()}


def inspect_mask(job: Job, console: Console) -> int:
    """Prints the first sequence of a few dialogues and the coverage of the mask, and writes the mask page; returns the exit code."""
    say = make_printer(console)
    config = job.config.replace({"schedule_steps": job.config.planned_steps})
    data = _load(config, say)
    progress = _choose_progress(config, data.timeline)
    points = tuple(map(data.mask.weigh_roles, progress))
    split, mask, timeline = data.split, data.mask, data.timeline
    coverage = measure_coverage(split.tokens.chunks(), mask, points, data.used, len(split.dialogues))
    longest = np.argsort(-coverage.tokens, kind="stable")[:DIALOGUES_PER_KIND].tolist()
    for sequence in _describe(data, points, sample_dialogues(split.dialogues, TERMINAL_DIALOGUES), longest):
        if sequence["part"] == 1:  # a long dialogue may have dozens, which the page has
            print_sequence(console, sequence, progress, points)
    tables = build_mask_tables(coverage, progress)
    unused = np.count_nonzero(~data.used)
    if unused:
        say(f"the tables below are of all sequences, the lines above without the {unused:,} that training does not use")
    print_tables(console, tables)
    say(mask_line(mask, timeline, data.check, data.digest))
    chosen = _choose_dialogues(split, coverage, longest, config.inspect_dialogues)
    sequences = list(_describe(data, points, chosen, longest))
    folder = _claim_folder(Path(config.project), f"{config.name}-inspect", data.source(), say)
    facts = _facts(config, data, f"{len(sequences):,} sequences of {len(chosen):,} dialogues")
    title = f"Which tokens carry the loss: {config.name}"
    figures = []
    if config.figures.enabled:
        from dialog_trainer.reporting.mask_page.figures import draw_mask_figures  # imports matplotlib

        figures = draw_mask_figures(folder, config, mask, timeline, split.tokens.lengths)
    content = build_page_content(title, facts, progress, mask, timeline, sequences, tables, figures)
    write_atomically(folder, "mask.html", render_mask_page(content))
    say(f"written to {folder / 'mask.html'}: open it in a browser; its slider moves through the training")
    return 0


def _load(config: Config, say: Say) -> MaskedSplit:
    mask = build_mask(config)
    timeline = build_timeline(mask, config.planned_steps)
    dialogues = load_dialogues(config, "train", say)
    tokenizer, config = load_tokenizer(fix_chat_date(config), dialogues, say)
    split = tokenize_split(config, dialogues, tokenizer, say, config.data.truncation)
    validation = _load_validation(config, say)
    excluded_dialogues = set[int]()
    if config.data.drop_leaks and validation is not None:
        excluded_dialogues = report_contamination(config, dialogues, validation, say)
    check = check_split_mask(config, split, tokenizer, mask, timeline, excluded_dialogues)
    summaries = [summarize_training(split, tokenizer, check)]
    if validation is not None:
        held_out = tokenize_split(config, validation, tokenizer, say)
        summaries.append(summarize_held_out("validation", held_out, tokenizer, mask))
    report_splits(summaries, timeline, mask.trained_role, config, say)
    used = np.zeros(len(split.tokens), dtype=bool)
    used[check.indices] = True
    digest = digest_mask(config, split, tokenizer, excluded_dialogues)["whole"]
    return MaskedSplit(split, tokenizer, mask, timeline, check, used, digest)


def _load_validation(config: Config, say: Say) -> DialogueDataset | None:
    """The validation split; None, with a note, where there is none: the page shows the training split alone."""
    try:
        return load_dialogues(config, "validation", say)
    except DataError as error:
        say(f"note: {error}")
        return None


def _choose_progress(config: Config, timeline: ScheduleTimeline) -> list[float]:
    """The start, the last change of the mask and the end, or the one that was asked for."""
    if config.progress is not None:
        return [float(config.progress)]
    return sorted({0.0, timeline.progress(timeline.final_from_step), 1.0})


def _choose_dialogues(split: Split, coverage: DatasetCoverage, longest: Iterable[int], count: int) -> list[int]:
    """Indices of the dialogues on the page: a fixed sample, and some of each notable kind."""
    kinds = {"cut": coverage.lost > 0, "untrained": (coverage.trained == 0).any(axis=0)}
    chosen = {*sample_dialogues(split.dialogues, count), *longest}
    for kind, holds in kinds.items():
        indices = np.flatnonzero(holds).tolist()
        chosen |= set(heapq.nsmallest(DIALOGUES_PER_KIND, indices, key=lambda index: derive_seed(kind, index)))
    return sorted(chosen)


def _describe(
    data: MaskedSplit, points: Sequence[RoleWeights], indices: Iterable[int], longest: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """The sequences of the dialogues at `indices`, as the mask page takes them."""
    tokens, rows = data.split.tokens, data.split.dialogues.rows
    text_of = cache(lambda token: data.tokenizer.pieces([token])[0])
    for dialogue in indices:
        first, last = np.searchsorted(tokens.dialogues, [dialogue, dialogue + 1]).tolist()
        for index in range(first, last):
            columns, spans = tokens.columns([index])
            ids = columns.tolist()
            texts = list(map(text_of, ids))
            used = bool(data.used[index])
            sequence = describe_sequence(ids, texts, spans, data.mask, data.timeline, points, used)
            sequence["tags"] += ["longest"] * (dialogue in longest)
            yield {"id": rows[dialogue]["id"], "part": index - first + 1, "parts": last - first} | sequence


def _claim_folder(project: Path, name: str, source: dict[str, str], say: Say) -> Path:
    """The folder whose page has the same source, or the next free `<name>`, `<name>2`, ...; says which and why."""
    kept = []
    for count in itertools.count(1):
        folder = project / f"{name}{'' if count == 1 else count}"
        if not (folder.exists() or folder.is_symlink()):
            break
        if _read_source(folder) == source:
            say(f"replacing the page in {folder}, which is of the same data and model")
            return folder
        kept.append(folder.name)
    if kept:
        say(f"{', '.join(kept)} in {project} stay: they hold no page of this data and model")
    folder = claim_run_directory(project, name)
    write_atomically(folder, SOURCE_FILE, json.dumps(source))
    return folder


def _read_source(folder: Path) -> object:
    try:
        return json.loads(read_bounded(folder, SOURCE_FILE, 2**16))
    except (OSError, ValueError):  # no page of this program
        return None


def _facts(config: Config, data: MaskedSplit, shown: str) -> list[tuple[str, str]]:
    tokens, schedule = data.split.tokens, config.mask_schedule
    unused = f"{int((~data.used).sum()):,} sequences without a token to train"
    if config.data.drop_leaks:
        unused += ", or also in a held-out split"
    size = f"{len(data.split.dialogues):,} training dialogues, {len(tokens):,} sequences"
    return [
        ("data", f"{size}, {tokens.lengths.sum():,} tokens"),
        ("on this page", shown),
        ("truncation", f"{config.data.truncation} at {config.model.max_len} tokens"),
        ("mask", describe_timeline(data.mask, data.timeline)),
        ("schedule", f"{schedule.target.rpartition('.')[2]} over {data.timeline.schedule_steps:,} steps"),
        ("normalization", f"{schedule.normalize} (mask_schedule.normalize); the weights here are those before it"),
        ("not used", unused),
        ("digest", data.digest),
    ]
