"""mode=export: writes a checkpoint as a plain Hugging Face folder into its run, an adapter merged into its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dialog_trainer.build.model import load_saved_model
from dialog_trainer.config.job import Job
from dialog_trainer.files import atomic_directory, list_directory, make_directory, remove_directory
from dialog_trainer.reporting.console import make_printer
from dialog_trainer.reporting.terminal import RunConsole
from dialog_trainer.training.checkpoint_directory import KINDS, hold_checkpoint
from dialog_trainer.training.saved_state import read_state


def export_run(job: Job, console: RunConsole) -> int:
    """Writes `<run>/export/<checkpoint>-<step>`, in the place of an earlier one; returns the exit code."""
    say, config = make_printer(console), job.config
    run = config.saved_run
    with hold_checkpoint(run, config.load_model_type) as checkpoint:
        state = read_state(run, checkpoint)
        model, tokenizer = load_saved_model(run / checkpoint, config, torch.device("cpu"), say)
    adapter: Any = getattr(model, "adapter", None)
    weights = adapter.merged_weights() if adapter else model.state_dict()
    name = f"export/{KINDS[config.load_model_type]}-{state.step}"
    make_directory(run, "export")
    if Path(name).name in list_directory(run, "export"):
        remove_directory(run, name)
    with atomic_directory(run, name) as directory:
        model.save_pretrained(directory, state_dict=weights, safe_serialization=True)
        tokenizer.save(directory)
    what = "the model with its adapter merged" if adapter else "the model"
    say(f"written to {run / name}: {what} of step {state.step:,}, for transformers and as model.pretrained_model")
    return 0
