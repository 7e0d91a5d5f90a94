"""What mode=validate prints and writes to scores.md: its tables, and notes that explain them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dialog_trainer.evaluation.baselines import DESCRIPTIONS
from dialog_trainer.metrics.bootstrap import describe_few
from dialog_trainer.metrics.tokenize import MIN_WORDS
from dialog_trainer.reporting.console import format_losses
from dialog_trainer.reporting.score_tables import build_depth_table, build_difference_table, build_score_table
from dialog_trainer.reporting.tables import TextTable


def build_tables(scored: Mapping[str, Any]) -> list[TextTable]:
    """The tables of `scored`, the content of scores.json."""
    words = scored["words"]
    tables = [build_score_table(f"Scores (words by {words['tokenizer']})" if words else "Scores", scored)]
    clean = scored["clean"]
    if clean and _has_values(clean):
        title = f"Without dialogues that are also in the training split ({clean['dialogues']:,} dialogues remain)"
        tables.append(build_score_table(title, clean))
    if scored["by_depth"]:
        tables.append(build_depth_table(scored))
    if "compared" in scored:
        tables.append(build_difference_table(scored["compared"], scored["dialogues"]))
    return tables


def build_notes(scored: Mapping[str, Any], split_size: int) -> list[str]:
    """Lines below the tables; `split_size` is the number of dialogues of the split."""
    dialogues, replies, clean = scored["dialogues"], scored["replies"], scored["clean"]
    notes = []
    legend = [f"{name} = {DESCRIPTIONS[name]}" for name in scored["baselines"]]
    if legend:
        notes.append(f"Columns: {'; '.join(legend)}.")
    sample = f" (metrics.max_dialogues=null: in all {split_size:,})" if dialogues < split_size else ""
    notes += [
        f"{replies:,} replies in {dialogues:,} dialogues{sample}.",
        f"Loss {scored['validation_loss']:.4f}: {format_losses(scored['losses'])}.",
        f"Signature: {scored['signature']}",
    ]
    if not replies:
        notes.append("No replies to score: no dialogue has a later turn of the role that replies.")
    if clean and not clean["dialogues"]:
        notes.append(
            f"No scores without contamination: each of the {dialogues:,} dialogues replied to is also in the training split."
        )
    few = describe_few(dialogues, *([clean["dialogues"]] if clean else []))
    notes += [f"Warning: {few}."] if few else []
    notes += _word_notes(scored)
    if "compared" in scored:
        notes += _comparison_notes(scored)
    return notes


def _word_notes(scored: Mapping[str, Any]) -> list[str]:
    """Warns about replies so short that scores of several words count nothing."""
    words, gold = scored["words"], scored["baselines"].get("gold", {})
    if not words or not scored["replies"]:
        return []
    notes = []
    if min(words["per_reply"], words["per_reference"]) < MIN_WORDS:
        notes.append(
            f"Warning: a reply has {words['per_reply']:.1f} words on average, a reference {words['per_reference']:.1f} (by "
            f"{words['tokenizer']}): scores of several words in a row are of the few longer ones alone."
        )
    empty = [name for name, value in gold.items() if name.startswith("bleu") and value is not None and value < 0.9999]
    if empty:
        notes.append(
            f"Warning: perfect replies would not score 1 by {', '.join(empty)}: the references are too short for them."
        )
    return notes


def _comparison_notes(scored: Mapping[str, Any]) -> list[str]:
    compared = scored["compared"]
    notes = []
    if compared["differences"]:
        notes.append(
            f"Difference: {scored['checkpoint']} minus {compared['with']}, over the same dialogues; p: two-sided paired "
            "bootstrap."
        )
    if not compared["same_signature"]:
        notes.append(f"Compared with scores of another signature: {compared['signature']}")
    missing = [name for name in scored["scores"] if name not in compared["differences"]]
    if missing:
        notes.append(f"Not compared (no sums over the same two or more dialogues): {', '.join(missing)}")
    return notes


def _has_values(clean: Mapping[str, Any]) -> bool:
    return any(score["value"] is not None for score in clean["scores"].values())
