"""mode=inspect: which tokens carry the loss, and when; before any training and without any weights."""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from dialog_trainer import experiment, leak_guard
from dialog_trainer.data.order import seed_of
from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.replies import drawn
from dialog_trainer.experiment import Split
from dialog_trainer.masking.mask import Mask
from dialog_trainer.masking.outline import Outline, in_words, outline
from dialog_trainer.masking.survey import Survey, survey
from dialog_trainer.options import Settings
from dialog_trainer.reports.lines import mask_line, speaker
from dialog_trainer.reports.mask_content import ShownSequence, page_content, shown_sequences
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
    if (folder.exists() and not folder.is_dir()) or (folder / "mask.html").is_dir():
        raise ConfigError([f"name={settings['name']}: {folder} is in the way of the page; choose another name"])
    mask = experiment.mask(settings)
    whole = outline(mask, settings["schedule_steps"])
    dialogues = experiment.dialogues(settings, "train", say)
    words = experiment.vocabulary(settings, dialogues, say)
    split = experiment.with_tokens(settings, dialogues, words, settings["data"]["truncation"])
    left_out = set()
    if settings["data"]["drop_leaks"]:
        left_out = leak_guard.leaked(settings, dialogues, experiment.dialogues(settings, "validation", say), say)
    kept = experiment.checked_mask(settings, split, words, mask, whole, (whole.final,), left_out)
    digest = experiment.mask_digest(settings, split, words, left_out)
    progress = _progress(settings, whole)
    is_kept = np.zeros(len(split.tokens), dtype=bool)
    is_kept[kept.indices] = True
    found = survey(split.tokens.chunks(), mask, tuple(map(mask.at, progress)), is_kept, len(dialogues))
    chosen = _chosen(split, found, settings["inspect_dialogues"])
    longest = set(_longest(found).tolist())
    sequences = _sequences(split, words, mask, whole, progress, chosen, longest, is_kept)
    for sequence in _sequences(split, words, mask, whole, progress, drawn(dialogues, IN_TERMINAL), longest, is_kept):
        print_sequence(console, sequence.title(), sequence.runs, progress)
    tables = mask_tables(found, progress)
    print_tables(console, tables)
    say(mask_line(mask, whole, kept, digest["whole"]))
    dropped = len(split.tokens) - len(kept.indices)
    facts = _facts(settings, split, mask, whole, dropped, digest, len(chosen))
    page = _write(folder, settings, split, mask, whole, facts, progress, sequences, tables)
    say(f"written to {page}: open it in a browser; its slider moves through the training")
    return 0


def _progress(settings: Settings, whole: Outline) -> list[float]:
    if settings["progress"] is not None:
        return [float(settings["progress"])]
    return sorted({0.0, whole.progress(whole.final_from_step), 1.0})


def _longest(found: Survey) -> np.ndarray:
    return np.argsort(-found.tokens, kind="stable")[:OF_EACH_KIND]


def _chosen(split: Split, found: Survey, count: int) -> list[int]:
    """The dialogues of the page by index: a fixed draw, and some of each kind that is worth a look."""
    kinds = {"cut": np.flatnonzero(found.lost > 0), "untrained": np.flatnonzero((found.trained == 0).any(axis=0))}
    chosen = {*drawn(split.dialogues, count), *_longest(found).tolist()}
    for kind, indices in kinds.items():
        chosen |= set(heapq.nsmallest(OF_EACH_KIND, indices.tolist(), key=lambda index: seed_of(kind, index)))
    return sorted(chosen)


def _sequences(
    split: Split,
    words: Vocabulary,
    mask: Mask,
    whole: Outline,
    progress: Sequence[float],
    chosen: Sequence[int],
    longest: Collection[int],
    is_kept: np.ndarray,
) -> list[ShownSequence]:
    table, ids = split.tokens, split.dialogues.rows["id"]
    indices, names, is_longest = [], [], []
    for dialogue in chosen:
        first, last = np.searchsorted(table.dialogues, [dialogue, dialogue + 1]).tolist()
        indices += range(first, last)
        names += [(ids[dialogue], part, last - first) for part in range(1, last - first + 1)]
        is_longest += [dialogue in longest] * (last - first)
    return list(
        shown_sequences(
            *table.columns(indices),
            mask,
            [mask.at(point) for point in progress],
            _Pieces(words).of,
            names=names,
            longest=is_longest,
            kept=is_kept[indices],
            with_lots=any(weights.by_lot for _, weights in whole.kinds),
        )
    )


class _Pieces:
    """Texts of ids, each decoded once."""

    def __init__(self, words: Vocabulary):
        self._words, self._known = words, {}

    def of(self, ids: list[int]) -> list[str]:
        new = [token for token in dict.fromkeys(ids) if token not in self._known]
        self._known.update(zip(new, self._words.pieces(new), strict=True))
        return [self._known[token] for token in ids]


def _facts(
    settings: Settings,
    split: Split,
    mask: Mask,
    whole: Outline,
    dropped: int,
    digest: dict[str, str],
    shown: int,
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
        ("digest", digest["whole"]),
    ]


def _write(
    folder: Path,
    settings: Settings,
    split: Split,
    mask: Mask,
    whole: Outline,
    facts: list[tuple[str, str]],
    progress: Sequence[float],
    sequences: Sequence[ShownSequence],
    tables: Sequence,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weights, lengths = folder / "mask_weights.png", folder / "lengths.png"
    draw_weights(
        weights,
        schedule_steps=whole.schedule_steps,
        role_weights=lambda step: mask.at(whole.progress(step)),
        switch=whole.final_from_step,
    )
    draw_lengths(lengths, split.tokens.lengths, settings["model"]["max_len"])
    figures = [("Loss weight by role over the training", weights), ("Lengths of the sequences in tokens", lengths)]
    title = f"Which tokens carry the loss: {settings['name']}"
    page = mask_page(page_content(title, facts, progress, mask, whole, sequences, tables, figures))
    aside = folder / ".mask.html"
    aside.write_text(page, encoding="utf-8")
    os.replace(aside, folder / "mask.html")
    return folder / "mask.html"
