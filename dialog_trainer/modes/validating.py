"""mode=validate: loss, replies and scores of a checkpoint on one split, written into its run folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.console import Console

from dialog_trainer import __version__, experiment
from dialog_trainer.evaluation.validation import PROTOCOL, Validation, validate
from dialog_trainer.reports.lines import losses_text, reply_row, sample_lines, scores_text, speaker
from dialog_trainer.reports.progress import RunProgress
from dialog_trainer.saved_run import Changed
from dialog_trainer.training import checkpoint
from dialog_trainer.training.stop_signal import StopSignal


def run(changed: Changed, console: Console) -> int:
    say = speaker(console)
    settings = changed.settings
    folder, split = Path(settings["resume_model_dir"]), settings["split"]
    weights = checkpoint.find(folder, settings["load_model_type"])
    state = checkpoint.read_state(weights)
    step = state["step"]
    say(f"validating {folder}/weights/{checkpoint.LINKS[settings['load_model_type']]} (step {step:,}) on split {split}")
    for key, before, after in changed.changes:
        say(f"  {key}: {before} -> {after}")
    dialogues = experiment.dialogues(settings, split, say)
    on = experiment.device(settings)
    experiment.set_up_torch(settings["deterministic"])
    model, vocabulary = experiment.saved_model(weights, settings, on, say)
    data = experiment.with_tokens(settings, dialogues, vocabulary)
    with StopSignal() as stop, RunProgress(console, start=0, steps=0) as progress:
        result = validate(
            model,
            vocabulary,
            data.dialogues,
            data.tokens,
            experiment.validation_settings(settings),
            stage=progress.stage,
            stopped=stop.requested,
        )
    if result is None:
        say("interrupted: no scores were written")
        return stop.exit_code
    for line in sample_lines(result.samples(settings["prediction_print_n"])):
        say(line)
    say(f"loss {result.loss:.4f}  {scores_text(result.scores)}")
    say(losses_text(result.losses))
    say(f"how: {result.protocol}")
    if len(data.dialogues) > (settings["metrics"]["max_dialogues"] or len(data.dialogues)):
        say("     metrics.max_dialogues=null scores replies to every dialogue")
    place = folder / "validation" / split / PROTOCOL
    origin = {"checkpoint": weights.name, "step": step, "split": split, "data": data.tokens.digest}
    _write(place, result, origin | {"mask_digest": state.get("digest")})
    say(f"written to {place}")
    return 0


def _write(place: Path, result: Validation, origin: dict) -> None:
    place.mkdir(parents=True, exist_ok=True)
    scores = {
        **origin,
        "validation_loss": result.loss,
        "losses": result.losses,
        "scores": result.scores,
        "protocol": result.protocol,
        "version": __version__,
    }
    _replace(place / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    lines = (json.dumps(reply_row(reply), ensure_ascii=False) + "\n" for reply in result.replies)
    _replace(place / "replies.jsonl", "".join(lines))


def _replace(path: Path, content: str) -> None:
    aside = path.with_name(f".{path.name}")
    aside.write_text(content, encoding="utf-8")
    os.replace(aside, path)
