"""mode=train: builds everything, then claims the run directory and trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dialog_trainer.build.data import fix_chat_date, load_dialogues, load_tokenizer
from dialog_trainer.build.model import build_model
from dialog_trainer.cli.commands.fit import (
    begin_training,
    build_parts,
    fit,
    fix_schedule_steps,
    lock_for_all_ranks,
    without_branches,
)
from dialog_trainer.cli.commands.fork import train_fork
from dialog_trainer.command_line import format_override
from dialog_trainer.config.frozen import thaw
from dialog_trainer.config.job import Job
from dialog_trainer.config.paths import with_absolute_data_paths
from dialog_trainer.config.schema import Config
from dialog_trainer.distributed import collectives
from dialog_trainer.reporting.console import make_printer
from dialog_trainer.reporting.terminal import RunConsole
from dialog_trainer.signals import StopSignal
from dialog_trainer.tracking.run_directory import claim_run_directory, write_config
from dialog_trainer.training.checkpoint import write_base
from dialog_trainer.training.loop import TrainingState
from dialog_trainer.types import Say


def train_new_run(job: Job, console: RunConsole) -> int:
    """mode=train. The run folder is made once everything is built; returns the exit code."""
    say = make_printer(console)
    sweep = job.config.sweep
    job = replace(job, config=without_branches(job.config))
    if sweep.fork_from is not None:
        code = train_fork(job, Path(sweep.fork_from), console)
        if code is not None:
            return code
    config = Config.from_dict(with_absolute_data_paths(fix_schedule_steps(job.config).to_dict()))
    device = begin_training(config, say)
    config = fix_chat_date(config)
    with collectives.local_rank0_first():
        training = load_dialogues(config, "train", say)
        validation = load_dialogues(config, "validation", say)
        tokenizer, config = load_tokenizer(config, training, say)
    model = build_model(config, tokenizer, device, say)
    parts = build_parts(config, device, tokenizer, model, training, validation, say)
    parts = replace(parts, branch_steps=sweep.keep_at)
    with StopSignal() as stop:
        folder = Path(collectives.broadcast_from_rank0(lambda: str(_claim(job))))
        with lock_for_all_ranks(folder):
            _tell_if_taken(job, folder, say)
            if collectives.is_rank0():
                if config.model.adapter.is_lora:
                    write_base(folder, model, tokenizer)
                write_config(folder, parts.config.to_dict() | {"digest": parts.digest}, thaw(job.hydra_files))
            return fit(folder, parts, TrainingState(), console, stop)


def _tell_if_taken(job: Job, folder: Path, say: Say) -> None:
    """Says where the folder that was asked for has a run already, and how to go on with that one."""
    if job.name is not None and folder.name != job.name:
        taken = Path(job.parent) / job.name
        resume = f"mode=resume {format_override('resume_model_dir', taken)} load_model_type=last"
        say(f"note: {taken} is taken, so this run is {folder.name}; to go on with the other one: {resume}")


def _claim(job: Job) -> Path:
    return Path(job.parent) if job.name is None else claim_run_directory(Path(job.parent), job.name)
