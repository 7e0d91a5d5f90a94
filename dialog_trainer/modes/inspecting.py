"""mode=inspect: which tokens carry the loss, and when; before any training and without any weights."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console

from dialog_trainer import experiment, leak_guard
from dialog_trainer.data.order import seed_of
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.replies import drawn
from dialog_trainer.experiment import Split
from dialog_trainer.masking.mask import Mask
from dialog_trainer.masking.outline import Outline, in_words, outline
from dialog_trainer.masking.survey import Survey, survey
from dialog_trainer.options import Settings
from dialog_trainer.reports.lines import mask_line, speaker
from dialog_trainer.reports.mask_content import page_content, shown_sequence
from dialog_trainer.reports.mask_figures import draw_lengths, draw_weights
from dialog_trainer.reports.mask_page import mask_page
from dialog_trainer.reports.mask_tables import mask_tables
from dialog_trainer.reports.mask_text import print_sequence, print_tables

IN_TERMINAL = 3
# Of each kind that is worth a look, so many dialogues stand on the page beside the drawn ones.
OF_EACH_KIND = 50


def run(settings: Settings, console: Console) -> int:
    say = speaker(console)
    settings = settings | {"schedule_steps": settings["schedule_steps"] or settings["steps"]}
    folder = Path(settings["project"]) / f"{settings['name']}-inspect"
    page = folder / "mask.html"
    if (folder.exists() and not folder.is_dir()) or page.is_dir():
        raise ConfigError([f"name={settings['name']}: {folder} is in the way of the page; choose another name"])
    mask = experiment.mask(settings)
    whole = outline(mask, settings["schedule_steps"])
    dialogues = experiment.dialogues(settings, "train", say)
    words = experiment.tokenizer(settings, dialogues, say)
    split = experiment.with_tokens(settings, dialogues, words, settings["data"]["truncation"])
    left_out = set()
    if settings["data"]["drop_leaks"]:
        left_out = leak_guard.leaked(settings, dialogues, experiment.dialogues(settings, "validation", say), say)
    kept = experiment.checked_mask(settings, split, words, mask, whole, left_out)
    digest = experiment.mask_digest(settings, split, words, left_out)["whole"]
    progress = _progress(settings, whole)
    points = tuple(map(mask.at, progress))
    is_kept = np.zeros(len(split.tokens), dtype=bool)
    is_kept[kept.indices] = True
    found = survey(split.tokens.chunks(), mask, points, is_kept, len(dialogues))
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
                sequence = shown_sequence(ids, texts, spans, mask, whole, points, bool(is_kept[place]))
                sequence["tags"] += ["longest"] * (dialogue in longest)
                name = {"id": dialogues.rows[dialogue]["id"], "part": place - first + 1, "parts": last - first}
                yield name | sequence

    for sequence in shown(drawn(dialogues, IN_TERMINAL)):
        print_sequence(console, sequence, progress, points)
    tables = mask_tables(found, progress)
    print_tables(console, tables)
    say(mask_line(mask, whole, kept, digest))
    facts = _facts(settings, split, mask, whole, len(split.tokens) - len(kept.indices), digest, len(chosen))
    figures = _figures(folder, mask, whole, split.tokens.lengths, settings["model"]["max_len"])
    title = f"Which tokens carry the loss: {settings['name']}"
    aside = folder / ".mask.html"
    content = page_content(title, facts, progress, mask, whole, shown(chosen), tables, figures)
    aside.write_text(mask_page(content), encoding="utf-8")
    aside.replace(page)
    say(f"written to {page}: open it in a browser; its slider moves through the training")
    return 0


def _progress(settings: Settings, whole: Outline) -> list[float]:
    if settings["progress"] is not None:
        return [float(settings["progress"])]
    return sorted({0.0, whole.progress(whole.final_from_step), 1.0})


def _chosen(split: Split, found: Survey, longest: list[int], count: int) -> list[int]:
    """The dialogues of the page by index: a fixed draw, and some of each kind that is worth a look."""
    kinds = {"cut": np.flatnonzero(found.lost > 0), "untrained": np.flatnonzero((found.trained == 0).any(axis=0))}
    chosen = {*drawn(split.dialogues, count), *longest}
    for kind, indices in kinds.items():
        chosen |= set(heapq.nsmallest(OF_EACH_KIND, indices.tolist(), key=lambda index: seed_of(kind, index)))
    return sorted(chosen)


def _facts(
    settings: Settings, split: Split, mask: Mask, whole: Outline, dropped: int, digest: str, shown: int
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
        ("mask", in_words(mask, whole)),
        ("schedule", f"{group['_target_'].rpartition('.')[2]} over {whole.schedule_steps:,} steps"),
        ("loss divided by", f"{group['normalize']} (mask_schedule.normalize); weights here are those before it"),
        ("left out", f"{dropped:,} sequences: with nothing to train" + drop_leaks),
        ("digest", digest),
    ]


def _figures(folder: Path, mask: Mask, whole: Outline, lengths: Sequence[int], max_len: int) -> list[tuple[str, Path]]:
    weights, histogram = folder / "mask_weights.png", folder / "lengths.png"
    draw_weights(
        weights,
        schedule_steps=whole.schedule_steps,
        role_weights=lambda step: mask.at(whole.progress(step)),
        switch=whole.final_from_step,
    )
    draw_lengths(histogram, lengths, max_len)
    return [("Loss weight by role over the training", weights), ("Lengths of the sequences in tokens", histogram)]
