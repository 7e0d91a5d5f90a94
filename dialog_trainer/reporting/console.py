"""What is printed and kept of a validation, and the voice of a run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rich.console import Console

from dialog_trainer.evaluation.evaluator import ValidationResult
from dialog_trainer.masking.coverage import trained_share
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.timeline import ScheduleTimeline, describe_timeline
from dialog_trainer.masking.validation import MaskCheckResult
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.types import Reply

MAX_SHOWN_CHARACTERS = 200


def make_printer(console: Console) -> Callable[[str], None]:
    """Prints a line as it is: nothing in it is markup, and it is not broken where the screen ends."""
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


def format_override(key: str, value: object) -> str:
    """`key=value` as one would type it: quoted for Hydra and for the shell where it has to be."""
    text = str(value)
    # Without a slash it may read as something else: 12, null, true. Only before a quote is a backslash special.
    if "/" not in text or not re.fullmatch(r"[\w./+-]+", text):
        text = "'" + re.sub(r"(\\+)(?='|\Z)", r"\1\1", text).replace("'", "\\'") + "'"
    return shlex.quote(f"{key}={text}")


def score_line(
    step: int, result: ValidationResult, score: float, better_loss: bool, better_score: bool, bad_validations: int
) -> str:
    special_tokens = [mark for mark, holds in (("best loss", better_loss), ("best score", better_score)) if holds]
    if bad_validations:
        special_tokens.append(f"{bad_validations} without a better one")
    scores = "  ".join(f"{name} {value:.4f}" for name, value in result.scores.items())
    shown = f"step {step:,}  validation_loss {result.loss:.4f}  {scores}  best_metric_score {score:.4f}"
    return shown + (f"  ({', '.join(special_tokens)})" if special_tokens else "")


def format_losses(losses: Mapping[str, float | int | None]) -> str:
    """The loss by role, in nats a token."""
    shown = [(name, losses[f"{name}_nll"], losses[f"{name}_tokens"]) for name in ("assistant", "user", "end")]
    return "  ".join(f"{name}_nll {nll:.4f} ({tokens:,} tokens)" for name, nll, tokens in shown if nll is not None)


def sample_lines(samples: Iterable[Reply]) -> list[str]:
    lines = []
    for reply in samples:
        lines += [
            f"  given {_short(reply.history[-1])}",
            f"  model {_short(reply.text) or '(nothing)'}",
            f"  gold  {_short(reply.reference)}",
            "",
        ]
    return lines


def mask_line(mask: Mask, whole: ScheduleTimeline, kept: MaskCheckResult, digest: str) -> str:
    """What carries the loss, in words. The first point of `kept.counts` is that of the final weights."""
    share = f"{trained_share(kept.counts, 0):.1%} of {kept.counts.tokens.sum():,} tokens trained"
    parts = [describe_timeline(mask, whole), f"{share} after it" if whole.changes else share]
    if kept.dropped:
        parts.append(f"{kept.dropped:,} sequences with nothing to train left out")
    idle = int(kept.counts.untrained.max())
    if idle:
        parts.append(f"{idle:,} sequences carry no weight for a part of it")
    return f"mask: {'; '.join(parts)} (digest {digest})"


def closing_lines(folder: Path, outcome: str, step: int, best: BestTracker, split: str) -> list[str]:
    """How a run ended, and what to type next; `split` is the one to score at the end."""
    lines = [f"{outcome} at step {step:,}; checkpoints in {folder / 'weights'}: last (step {step:,})"]
    if best.score is not None and best.loss is not None:
        lines.append(
            f"  best_metric (step {best.score_step:,}, score {best.score:.4f}), "
            f"best_loss (step {best.loss_step:,}, loss {best.loss:.4f})"
        )
    of_run = format_override("resume_model_dir", folder)
    if outcome == "interrupted":
        return [*lines, f"go on:    python -m dialog_trainer mode=resume {of_run} load_model_type=last"]
    return [
        *lines,
        f"validate: python -m dialog_trainer mode=validate {of_run} split={split}",
        f"talk:     python -m dialog_trainer mode=chat {of_run}",
    ]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 4]} ..."
