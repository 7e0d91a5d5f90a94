"""Lines that a run prints: its mask, validations, sample replies, its end, and the commands to type next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from dialog_trainer.command_line import format_override
from dialog_trainer.errors import CheckpointError
from dialog_trainer.masking.coverage import compute_trained_fraction
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.timeline import ScheduleTimeline, describe_timeline
from dialog_trainer.masking.validation import MaskCheckResult
from dialog_trainer.reporting.terminal import RunConsole, print_line
from dialog_trainer.training.checkpoint_directory import locate
from dialog_trainer.training.early_stopping import BestTracker
from dialog_trainer.training.saved_state import SavedBest, SavedState, read_state
from dialog_trainer.types import Reply

if TYPE_CHECKING:  # imports torch, which a report on runs does not need
    from dialog_trainer.evaluation.evaluator import ValidationResult

MAX_SAMPLE_CHARACTERS = 200
# Samples of a validation on the screen.
SHOWN_SAMPLES = 2


def make_printer(console: Console) -> Callable[[str], None]:
    """A function that prints a line, as `print_line` does."""
    return partial(print_line, console)


def score_line(
    step: int, result: ValidationResult, score: float, better_loss: bool, better_score: bool, best: BestTracker
) -> str:
    """The loss and the scores of one validation, and which of them are the best so far."""
    notes = [note for note, holds in (("best loss", better_loss), ("best score", better_score)) if holds]
    if better_score and best.score_ties:
        notes[-1] += _describe_ties(best)
    if best.bad_validations:
        notes.append(f"{best.bad_validations} without improvement")
    scores = "  ".join(f"{name} {'-' if value is None else f'{value:z.4f}'}" for name, value in result.scores.items())
    line = f"step {step:,}  validation_loss {result.loss:.4f}  {scores}  best_metric_score {score:z.4f}"
    return line + (f"  ({', '.join(notes)})" if notes else "")


def format_losses(losses: Mapping[str, float | int | None]) -> str:
    """The loss by role, in nats per token."""
    roles = [(name, losses[f"{name}_nll"], losses[f"{name}_tokens"]) for name in ("assistant", "user", "end")]
    return "  ".join(f"{name}_nll {nll:.4f} ({tokens:,} tokens)" for name, nll, tokens in roles if nll is not None)


def sample_lines(samples: Iterable[Reply]) -> list[str]:
    """Sample replies: the turn before, the reply of the model, the reply in the data. Each text is one short line."""
    lines = []
    for reply in samples:
        lines += [
            f"  given {_shorten(reply.history[-1])}",
            f"  model {_shorten(reply.text) or '(no reply)'}",
            f"  gold  {_shorten(reply.reference)}",
        ]
    return lines


def print_samples(console: RunConsole, samples: Sequence[Reply], file: Path) -> None:
    """Prints the first samples and where all are; the log has them all."""
    shown, rest = samples[:SHOWN_SAMPLES], samples[SHOWN_SAMPLES:]
    for line in sample_lines(shown):
        print_line(console, line)
    if rest:
        print_line(console, f"  {len(rest)} more: {file}")
    for line in sample_lines(rest):
        console.keep_line(line)


def mask_line(mask: Mask, timeline: ScheduleTimeline, check: MaskCheckResult, digest: str) -> str:
    """Which turns carry the loss. The first point of `check.counts` is that of the final weights."""
    trained = f"{compute_trained_fraction(check.counts, 0):.1%} of {check.counts.tokens.sum():,} tokens trained"
    parts = [describe_timeline(mask, timeline), f"{trained} after it" if timeline.changes else trained]
    if check.dropped:
        parts.append(f"{check.dropped:,} sequences without a token to train are not used")
    idle = int(check.counts.untrained.max())
    if idle:
        parts.append(f"{idle:,} sequences have weight 0 in a part of training")
    return f"mask: {'; '.join(parts)} (digest {digest})"


def closing_lines(
    folder: Path, outcome: str, step: int, best: BestTracker, split: str, launch: Sequence[str] = ()
) -> list[str]:
    """How a run ended, and the commands to type next; `split` is the one to score at the end, `launch` the options that a
    resume needs to start as many processes."""
    lines = [f"{outcome} at step {step:,}; checkpoints in {folder / 'weights'}: last (step {step:,})"]
    if best.score is not None and best.loss is not None:
        lines.append(
            f"  best_metric (step {best.score_step:,}, score {best.score:z.4f}{_describe_ties(best)}), "
            f"best_loss (step {best.loss_step:,}, loss {best.loss:.4f})"
        )
    run = format_override("resume_model_dir", folder)
    if outcome == "interrupted":
        return [
            *lines,
            " ".join(["resume:   python -m dialog_trainer mode=resume", run, "load_model_type=last", *launch]),
        ]
    return [
        *lines,
        f"validate: python -m dialog_trainer mode=validate {run} split={split}",
        f"chat:     python -m dialog_trainer mode=chat {run}",
    ]


def describe_checkpoint(run: Path, checkpoint: str, kind: str, state: SavedState) -> str:
    """One line: the folder, kind (`metric`, `loss` or `last`) and step of a checkpoint of `run`, and what the other kinds
    would be. `state` is that of the checkpoint."""
    try:
        last = locate(run, "last")
        newest = read_state(run, last) if last else state
    except CheckpointError:  # damaged: it was not asked for
        newest = state
    best = newest.best
    found = {"metric": best.score_step, "loss": best.loss_step, "last": newest.step} | {kind: state.step}
    values = {
        "metric": f"best score {best.score:z.4f}{_describe_ties(best)}" if best.score is not None else "",
        "loss": f"validation loss {best.loss:.4f}" if best.loss is not None else "",
        "last": "",
    }
    own = ", ".join(values[name] for name, step in found.items() if step == state.step and values[name])
    others = [
        f"load_model_type={name}: step {step:,}{', ' * bool(values[name])}{values[name]}"
        for name, step in found.items()
        if step is not None and step != state.step
    ]
    line = f"checkpoint: {run / checkpoint} ({kind}, step {state.step:,}{', ' * bool(own)}{own})"
    return line + (f"; {'; '.join(others)}" if others else "; metric, loss and last are the same")


def _describe_ties(best: BestTracker | SavedBest) -> str:
    return f", the lowest loss of {best.score_ties + 1} equal scores" if best.score_ties else ""


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_SAMPLE_CHARACTERS else f"{text[: MAX_SAMPLE_CHARACTERS - 4]} ..."
