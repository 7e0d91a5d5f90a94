"""What is printed and kept of a validation, and the voice of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from rich.console import Console

from dialog_trainer.evaluation.validation import Validation
from dialog_trainer.records import Reply

MAX_SHOWN_CHARACTERS = 200


def speaker(console: Console) -> Callable[[str], None]:
    """Prints a line as it is: nothing in it is markup, and it is not broken where the screen ends."""
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


def score_line(
    step: int, result: Validation, score: float, better_loss: bool, better_score: bool, bad_validations: int
) -> str:
    marks = [mark for mark, holds in (("best loss", better_loss), ("best score", better_score)) if holds]
    if bad_validations:
        marks.append(f"{bad_validations} without a better one")
    shown = (
        f"step {step:,}  validation_loss {result.loss:.4f}  {scores_text(result.scores)}  best_metric_score {score:.4f}"
    )
    return shown + (f"  ({', '.join(marks)})" if marks else "")


def scores_text(scores: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in scores.items())


def sample_lines(samples: Iterable[Reply]) -> list[str]:
    lines = []
    for reply in samples:
        lines += [
            f"  user  {_short(reply.history[-1])}",
            f"  model {_short(reply.text) or '(nothing)'}",
            f"  gold  {_short(reply.reference)}",
            "",
        ]
    return lines


def reply_row(reply: Reply) -> dict:
    return {
        "dialogue_id": reply.dialogue_id,
        "turn_index": reply.turn_index,
        "history": list(reply.history),
        "reply": reply.text,
        "reference": reply.reference,
        "ended": reply.ended,
    }


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 4]} ..."
