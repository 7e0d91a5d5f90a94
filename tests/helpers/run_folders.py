"""Run folders without training: the files that a report reads, with chosen numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from dialog_trainer.config.frozen import set_key
from dialog_trainer.config.schema import SCHEMA_VERSION
from tests.helpers.configs import conf_tree

STEPS, EVERY = 40, 10


def make_run(
    folder: Path,
    loss: float = 3.0,
    *,
    settings: Mapping[str, object] | None = None,
    typed: Sequence[str] = (),
    step: int = STEPS,
    bad_validations: int = 0,
    scored: Sequence[float] = (),
    contaminated: int = 0,
    state: Mapping[str, object] | None = None,
) -> Path:
    """A run whose last validation loss is `loss`; `scored` are the assistant's losses of test dialogues of 10 tokens, the
    last `contaminated` of which are in the training split."""
    tree = conf_tree() | {"schema_version": SCHEMA_VERSION, "steps": STEPS, "schedule_steps": STEPS}
    for key, value in (settings or {}).items():
        set_key(tree, key, value)
    write(folder / "args.yaml", yaml.safe_dump(tree))
    write(folder / ".hydra/overrides.yaml", yaml.safe_dump(list(typed)))
    write(folder / "logs/rank-0.log", "== 2026-01-31 12:00:00 +0000, rank 0 of 1, process 12 on a-machine\n")
    best = {"loss": loss, "loss_step": step, "score": 0.1, "score_step": step, "bad_validations": bad_validations}
    saved = {
        "step": step, "validated_step": step, "tokens_seen": 1000, "user_tokens_seen": 500, "assistant_tokens_seen": 500,
        "best": best, "held_out": "c0ffee", "digest": {"data": "a"}, "threads": 1, "device": "cpu", "processes": 1,
        "versions": {"torch": "2"},
    }  # fmt: skip
    write(folder / "weights/last/trainer/state.json", json.dumps(saved | dict(state or {})))
    write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in make_rows(loss, step)))
    if scored:
        write_scores(folder / "validation/test/response", list(scored), contaminated, step)
    return folder


def make_rows(loss: float, steps: int) -> list[dict]:
    rows = []
    for step in range(steps):
        head = {"step": step, "epoch": 0, "attempt": 0, "split": "train", "time_seconds": float(step)}
        rows.append(head | {"train_loss": loss + 1 - step / steps, "lr": 1e-3})
        if (step + 1) % EVERY == 0:
            now = loss + 1 - (step + 1) / steps
            losses = {"validation_loss": now, "assistant_nll": now, "user_nll": now + 1, "ppl": float(np.exp(now))}
            rows.append(head | {"step": step + 1, "split": "validation"} | losses | {"bleu2": 0.1, "signature": "s"})
    return rows


def write_scores(folder: Path, losses: list[float], contaminated: int, step: int) -> None:
    clean = range(len(losses) - contaminated)
    rows = [
        {
            "dialogue_id": f"d{n}",
            "statistics": {"ppl": [10 * one, 10, 0, 0]},
            "losses": {"assistant_nll": [10 * one, 10]},
        }
        | ({} if n in clean else {"contaminated": True})
        for n, one in enumerate(losses)
    ]
    write(folder / "dialogues.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    score = {"value": float(np.exp(np.mean(losses))), "low": None, "high": None}
    scored = {
        "checkpoint": "run/weights/step", "step": step, "split": "test", "protocol": "response",
        "signature": "protocol:response", "data": "d1", "dialogues": len(losses), "replies": len(losses),
        "losses": {"assistant_nll": float(np.mean(losses)), "assistant_tokens": 10 * len(losses)},
        "scores": {"ppl": score, "distinct2": score | {"value": 0.5}},
        "clean": {"dialogues": len(clean), "scores": {"distinct2": score | {"value": 0.4}}} if contaminated else None,
    }  # fmt: skip
    write(folder / "scores.json", json.dumps(scored))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
