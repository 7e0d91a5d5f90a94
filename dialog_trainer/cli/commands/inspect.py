"""mode=inspect: which tokens carry the loss, and when; before any training and without any weights."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console

from dialog_trainer.build.data import Split, load_dialogues, load_tokenizer, report_contamination, tokenize_split
from dialog_trainer.build.mask import build_mask, check_split_mask, digest_mask
from dialog_trainer.config.options import Settings
from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.contexts import sample_dialogues
from dialog_trainer.files import write_atomically
from dialog_trainer.masking.coverage import DatasetCoverage, measure_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.timeline import ScheduleTimeline, build_timeline, describe_timeline
from dialog_trainer.reporting.console import make_printer, mask_line
from dialog_trainer.reporting.mask_curves import draw_lengths, draw_weights
from dialog_trainer.reporting.mask_page.content import build_page_content, describe_sequence
from dialog_trainer.reporting.mask_page.page import render_mask_page
from dialog_trainer.reporting.tables import build_mask_tables
from dialog_trainer.reporting.terminal import print_sequence, print_tables

IN_TERMINAL = 3
# Of each kind that is worth a look, so many dialogues stand on the page beside the drawn ones.
OF_EACH_KIND = 50


def inspect_mask(settings: Settings, console: Console) -> int:
    say = make_printer(console)
    settings = settings | {"schedule_steps": settings["schedule_steps"] or settings["steps"]}
    folder = Path(settings["project"]) / f"{settings['name']}-inspect"
    page = folder / "mask.html"
    if (folder.exists() and not folder.is_dir()) or page.is_dir():
        raise ConfigError([f"name={settings['name']}: {folder} is in the way of the page; choose another name"])
    mask = build_mask(settings)
    whole = build_timeline(mask, settings["schedule_steps"])
    dialogues = load_dialogues(settings, "train", say)
    words = load_tokenizer(settings, dialogues, say)
    split = tokenize_split(settings, dialogues, words, settings["data"]["truncation"])
    left_out = set()
    if settings["data"]["drop_leaks"]:
        left_out = report_contamination(settings, dialogues, load_dialogues(settings, "validation", say), say)
    kept = check_split_mask(settings, split, words, mask, whole, left_out)
    digest = digest_mask(settings, split, words, left_out)["whole"]
    progress = _progress(settings, whole)
    points = tuple(map(mask.at, progress))
    is_kept = np.zeros(len(split.tokens), dtype=bool)
    is_kept[kept.indices] = True
    found = measure_coverage(split.tokens.chunks(), mask, points, is_kept, len(dialogues))
    longest = np.argsort(-found.tokens, kind="stable")[:OF_EACH_KIND].tolist()
    chosen = _chosen(split, found, longest, settings["inspect_dialogues"])
    text_of = cache(lambda token: words.pieces([token])[0])

    def shown(indices: Iterable[int]) -> Iterator[dict]:
        for dialogue in indices:
            first, last = np.searchsorted(split.tokens.dialogues, [dialogue, dialogue + 1]).tolist()
            for place in range(first, last):
                ids, spans = split.tokens.columns([place])
                ids = ids.tolist()
                texts = list(map(text_of, ids))
                sequence = describe_sequence(ids, texts, spans, mask, whole, points, bool(is_kept[place]))
                sequence["tags"] += ["longest"] * (dialogue in longest)
                name = {"id": dialogues.rows[dialogue]["id"], "part": place - first + 1, "parts": last - first}
                yield name | sequence

    for sequence in shown(sample_dialogues(dialogues, IN_TERMINAL)):
        print_sequence(console, sequence, progress, points)
    tables = build_mask_tables(found, progress)
    print_tables(console, tables)
    say(mask_line(mask, whole, kept, digest))
    facts = _facts(settings, split, mask, whole, len(split.tokens) - len(kept.indices), digest, len(chosen))
    figures = _figures(folder, mask, whole, split.tokens.lengths, settings["model"]["max_len"])
    title = f"Which tokens carry the loss: {settings['name']}"
    content = build_page_content(title, facts, progress, mask, whole, shown(chosen), tables, figures)
    write_atomically(page, render_mask_page(content))
    say(f"written to {page}: open it in a browser; its slider moves through the training")
    return 0


def _progress(settings: Settings, whole: ScheduleTimeline) -> list[float]:
    if settings["progress"] is not None:
        return [float(settings["progress"])]
    return sorted({0.0, whole.progress(whole.final_from_step), 1.0})


def _chosen(split: Split, found: DatasetCoverage, longest: list[int], count: int) -> list[int]:
    """The dialogues of the page by index: a fixed draw, and some of each kind that is worth a look."""
    kinds = {"cut": np.flatnonzero(found.lost > 0), "untrained": np.flatnonzero((found.trained == 0).any(axis=0))}
    chosen = {*sample_dialogues(split.dialogues, count), *longest}
    for kind, indices in kinds.items():
        chosen |= set(heapq.nsmallest(OF_EACH_KIND, indices.tolist(), key=lambda index: derive_seed(kind, index)))
    return sorted(chosen)


def _facts(
    settings: Settings, split: Split, mask: Mask, whole: ScheduleTimeline, dropped: int, digest: str, shown: int
) -> list[tuple[str, str]]:
    table, group = split.tokens, settings["mask_schedule"]
    drop_leaks = ", or in a held-out split too" if settings["data"]["drop_leaks"] else ""
    return [
        (
            "data",
            f"{len(split.dialogues):,} training dialogues, {len(table):,} sequences, {table.lengths.sum():,} tokens",
        ),
        ("shown here", f"{shown:,} dialogues"),
        ("truncation", f"{settings['data']['truncation']} at {settings['model']['max_len']} tokens"),
        ("mask", describe_timeline(mask, whole)),
        ("schedule", f"{group['_target_'].rpartition('.')[2]} over {whole.schedule_steps:,} steps"),
        ("loss divided by", f"{group['normalize']} (mask_schedule.normalize); weights here are those before it"),
        ("left out", f"{dropped:,} sequences: with nothing to train" + drop_leaks),
        ("digest", digest),
    ]


def _figures(
    folder: Path, mask: Mask, whole: ScheduleTimeline, lengths: Sequence[int], max_len: int
) -> list[tuple[str, Path]]:
    weights, histogram = folder / "mask_weights.png", folder / "lengths.png"
    draw_weights(
        weights,
        schedule_steps=whole.schedule_steps,
        role_weights=lambda step: mask.at(whole.progress(step)),
        switch=whole.final_from_step,
    )
    draw_lengths(histogram, lengths, max_len)
    return [("Loss weight by role over the training", weights), ("Lengths of the sequences in tokens", histogram)]
