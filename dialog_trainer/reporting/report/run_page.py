"""A run's own `report.html`: its figures, its scores with baselines and intervals, replies, data, settings, environment."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dialog_trainer.amounts import format_duration
from dialog_trainer.config.table import show
from dialog_trainer.errors import CheckpointError
from dialog_trainer.evaluation.baselines import DESCRIPTIONS
from dialog_trainer.files import read_bounded, write_atomically
from dialog_trainer.reporting.report.collect import MAX_LOG_BYTES, RunRecord
from dialog_trainer.reporting.report.page import render_page
from dialog_trainer.reporting.report.scored import ScoredSplit, ScoreWithInterval
from dialog_trainer.reporting.score_tables import interval_head
from dialog_trainer.reporting.tables import TextTable
from dialog_trainer.tracking.environment import read_environment
from dialog_trainer.tracking.jsonl import read_rows

PAGE = "report.html"
MAX_REPLIES = 10
MAX_CHARACTERS = 1000
MAX_FIGURE_BYTES = 2**22
_KINDS = {"png": "image/png", "svg": "image/svg+xml"}
# Figures of `vis_outputs`, with what they show, in an order that fills two columns evenly.
_FIGURES = {
    "loss": "Loss over training: of the batches, and on the validation split.",
    "scores": "Scores on the validation split.",
    "loss_by_role": "Loss by role on the validation split; dotted: the mask is final.",
    "lr_schedule": "Schedule: learning rate, and the loss weight of the turns.",
}
EXPLANATIONS = {
    "ppl": "perplexity: e to the loss per token; lower is better, between models with one tokenizer",
    "ppl_word": "perplexity per word; lower is better, between any models",
    "ppl_byte": "perplexity per byte; lower is better, between any models",
    "bleu": "words, and groups of up to {0} words, that the reply shares with the reference; 1 is equal",
    "nist": "as BLEU, where rare groups of up to {0} words count more",
    "chrf": "groups of up to 6 characters that the reply shares with the reference; 1 is equal",
    "length": "words of a reply",
    "length_ratio": "words of the replies over words of the references",
    "repetition": "part of the replies that repeat an earlier turn of their dialogue",
    "turn_end_rate": "part of the replies that the model ended itself, before the limit",
    "distinct": "different groups of {0} words over all such groups; low: the replies are alike",
    "entropy": "how evenly groups of {0} words occur in the replies, in bits; low: the replies are alike",
}  # fmt: skip
_TABLE_OF_DATA = re.compile(r"^what was understood of the data.*\n(?:(?:split|train|validation| ).*\n)*", re.MULTILINE)


def write_run_page(run: RunRecord) -> None:
    """Writes the page into the run. Raises `OSError`."""
    write_atomically(run.folder, PAGE, render_page("run.html", describe_run(run)))


def describe_run(run: RunRecord) -> dict[str, Any]:
    """The content of the page."""
    log = _read_log(run.folder)
    tables = [_build_score_table(one) for one in run.scored] or [_build_last_validation(run)]
    used = {name: None for one in run.scored for name in one.file.baselines}
    settings = [(key, show(value)) for key, value in run.settings.items()]
    return {
        "title": f"Run {run.name}",
        "headline": _build_headline(run),
        "warnings": run.notes,
        "figures": list(_embed_figures(run)),
        "tables": [table for table in tables if table.rows],
        "baselines": [(name, DESCRIPTIONS.get(name, "")) for name in used],
        "unscored": None if run.scored else f"mode=validate resume_model_dir={run.folder} split=test",
        "replies": _read_replies(run.folder),
        "data": _TABLE_OF_DATA.findall(log)[-1:],
        "environment": _describe_environment(run),
        "settings": settings,
    }


def explain_score(name: str) -> str:
    """What a score says, in a line; nothing for one of the user's own."""
    family = name.rstrip("0123456789")
    return EXPLANATIONS.get(name) or EXPLANATIONS.get(family, "").format(name.removeprefix(family))


def _build_headline(run: RunRecord) -> list[str]:
    end = f"{run.end[0].upper()}{run.end[1:]}"
    first = (
        end
        if "step" in run.end and "early" not in run.end
        else f"{end} at step {run.steps_done:,} of {run.settings['steps']:,}"
    )
    losses = [
        (row["validation_loss"], row["step"]) for row in run.rows.validations if row.get("validation_loss") is not None
    ]
    if losses:
        (last, _), (best, step) = losses[-1], min(losses)
        first += f": validation loss {last:.4f} nats per token"
        first += ", its lowest" if last == best else f", the lowest {best:.4f} at step {step:,}"
    cost = f"{format_duration(run.seconds)}, {run.tokens:,} tokens on {run.node}"
    return [f"{first}.", f"Cost: {cost}."]


def _embed_figures(run: RunRecord) -> Iterable[dict[str, Any]]:
    """The figures of `vis_outputs` that a page can show."""
    kind = run.settings["figures.format"]
    for name, caption in _FIGURES.items():
        try:
            content = read_bounded(run.folder, f"vis_outputs/{name}.{kind}", MAX_FIGURE_BYTES)
        except OSError:  # not drawn, or not yet
            continue
        if kind in _KINDS:
            data = base64.b64encode(content).decode("ascii")
            yield {"source": f"data:{_KINDS[kind]};base64,{data}", "caption": caption, "alt": caption}


def _build_score_table(scored: ScoredSplit) -> TextTable:
    """All scores of one split with intervals and baselines."""
    file = scored.file
    names = list(file.baselines)
    rows = [
        [name, explain_score(name), _number(score.value), _interval(score)]
        + [_number(file.baselines[baseline].get(name)) for baseline in names]
        for name, score in file.scores.items()
    ]
    title = f"Scores on {scored.place}: {file.replies:,} replies in {file.dialogues:,} dialogues, checkpoint of step {file.step:,}"
    return TextTable(title, ["score", "what it says", "model", interval_head(file.dialogues), *names], rows)


def _build_last_validation(run: RunRecord) -> TextTable:
    row = run.last_validation
    names = [name for name in run.settings["metrics.names"] if row.get(name) is not None]
    rows = [[name, explain_score(name), _number(row[name])] for name in names]
    return TextTable("Scores of the last validation", ["score", "what it says", "model"], rows)


def _read_replies(folder: Path) -> list[dict[str, str]]:
    """The samples of the last validation: the turn before, the model's reply, the reply in the data."""
    newest: list[Mapping[str, Any]] = []
    try:
        for row in read_rows(folder / "replies.jsonl"):
            if newest and row.get("step") != newest[0].get("step"):
                newest = []
            newest.append(row)
            del newest[MAX_REPLIES:]
    except CheckpointError:
        return []
    return [
        {
            "given": _text(history[-1:]),
            "model": _text([row.get("reply")]) or "(no reply)",
            "gold": _text([row.get("reference")]),
        }
        for row in newest
        if isinstance(history := row.get("history"), list)
    ]


def _text(parts: Sequence[object]) -> str:
    text = " ".join(part for part in parts if isinstance(part, str)).strip()
    return text[:MAX_CHARACTERS]


def _describe_environment(run: RunRecord) -> list[tuple[str, str]]:
    found = run.environment() | read_environment(run.folder)
    return [(name, text) for name, text in found.items() if "/" not in name]


def _read_log(folder: Path) -> str:
    try:
        return read_bounded(folder, "logs/rank-0.log", MAX_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _interval(score: ScoreWithInterval) -> str:
    if score.low is None or score.high is None:
        return "-"
    return f"{_number(score.low)} to {_number(score.high)}"


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{round(value, 4):,.4g}"
