"""The page of `--help`: every option with its default, meaning, unit and range, from the schema and conf/."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dialog_trainer.cli.flags import FLAGS
from dialog_trainer.config.frozen import flatten, set_key
from dialog_trainer.config.groups import OpenGroup
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import Setting, all_settings, groups, own_settings, settings

HEAD = """\
Train a causal language model into a multi-turn chatbot, and choose which turns carry the loss.

Usage: python -m dialog_trainer [option=value ...] [group=choice ...] [flag ...]
       dialog-trainer is short for python -m dialog_trainer; without an argument it trains with the defaults below.
"""
EXAMPLES = """\
Examples
  python -m dialog_trainer experiment=demo_scratch
  python -m dialog_trainer data=files data.train_data_path=my.jsonl model=gpt2_tiny
  python -m dialog_trainer mode=inspect data=dailydialog data.path=<folder> progress=0.6
  python -m dialog_trainer -m train_user_turn_mask_step=0,0.25,0.5,0.75,1 seed=0,1,2
  python -m dialog_trainer mode=resume resume_model_dir=<run> load_model_type=last steps=40000
  python -m dialog_trainer mode=validate resume_model_dir=<run> split=test
  python -m dialog_trainer mode=chat resume_model_dir=<run> chat.generation.temperature=0.7 chat.generation.top_p=0.9
"""
SECTIONS = {
    "Run": ("mode", "project", "name", "seed", "deterministic", "allow_targets"),
    "Training": (
        "steps", "schedule_steps", "whole_epochs", "batch_size", "max_grad_norm", "train_user_turn_mask_step", "patience",
        "validate_every_n_steps", "save_every_n_steps", "save_every_minutes", "keep_checkpoints", "log_every_n_steps",
        "prediction_print_n", "nan_policy", "max_skipped_updates",
    ),
    "A saved run, and mode=inspect": (
        "resume_model_dir", "load_model_type", "split", "compare_with", "runs", "ui", "progress", "inspect_dialogues",
    ),
    "Devices, precision and memory (group runtime)": (
        "device", "processes", "threads", "port", "parallel", "distributed_timeout_seconds", "precision", "compile",
        "micro_batch_tokens", "activation_checkpointing",
    ),
}  # fmt: skip
GROUPS = {
    "model": "Model", "data": "Dialogues", "optim": "Optimizer", "scheduler": "Learning rate",
    "mask_schedule": "Mask: which turns carry the loss, and when", "metrics": "Scores and curves",
    "resume": "Resume", "sweep": "Sweep: -m", "report": "Report: mode=report", "chat": "Chat", "figures": "Figures",
    "logger": "Tracker besides metrics.jsonl",
}  # fmt: skip
_WIDTH = 34


def format_help(conf: Path, choices: Mapping[str, list[str]], overrides: list[str]) -> str:
    """The page; `overrides` that choose a group show the options of that choice."""
    typed = dict(text.split("=", 1) for text in overrides if text.count("=") == 1)
    chosen = read_defaults(conf) | {group: name for group, name in typed.items() if name in choices.get(group, ())}
    width = max(60, min(140, shutil.get_terminal_size((120, 24)).columns))
    lines = [
        HEAD,
        "Flags",
        *_flag_lines(width),
        "",
        "Groups (choose with group=choice)",
        *_group_lines(choices, chosen, width),
    ]
    values = read_values(conf, chosen)
    for title, keys in SECTIONS.items():
        lines += ["", title, *_option_lines([settings(Config)[key] for key in keys], values, width)]
    for group, title in GROUPS.items():
        lines += ["", f"{title} (group {group})", *_option_lines(settings_of(group, values), values, width)]
    return "\n".join([*lines, "", EXAMPLES])


def read_defaults(conf: Path) -> dict[str, str]:
    """Group -> its choice in the defaults list of config.yaml."""
    entries = yaml.safe_load((conf / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: name for entry in entries if isinstance(entry, dict) for group, name in entry.items() if name}


def read_values(conf: Path, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Dotted keys to the defaults of conf/ with these choices; read without Hydra, which takes longer to import."""
    tree: dict[str, Any] = {}
    for group in ("", *chosen):
        files = (
            [conf / "config.yaml"]
            if not group
            else [conf / group / "_base.yaml", conf / group / f"{chosen[group]}.yaml"]
        )
        for path in (file for file in files if file.is_file()):
            text = path.read_text(encoding="utf-8")
            prefix = f"{group.replace('/', '.')}." if group and "@package _global_" not in text else ""
            for key, value in flatten(yaml.safe_load(text) or {}, frozenset({"best"})).items():
                if key != "defaults":
                    set_key(tree, f"{prefix}{key}", value)
    return flatten(tree, frozenset({"metrics.best"}))


def settings_of(group: str, values: Mapping[str, Any]) -> list[Setting]:
    """The options of a group that are among `values`, those of its chosen target included."""
    record = groups(Config)[group]
    found = {key: setting for key, setting in all_settings(Config).items() if key.startswith(f"{group}.")}
    if issubclass(record, OpenGroup):
        own = own_settings(record, group, values.get(f"{group}._target_")) or {}
        common = {key: setting for key, setting in settings(Config).items() if key.startswith(f"{group}.")}
        found = common | own
    return [setting for key, setting in found.items() if key in values]


def _flag_lines(width: int) -> Iterator[str]:
    for name, (short, value, text) in FLAGS.items():
        left = f"{short}, {name}" if short else f"    {name}"
        yield from _two_columns(f"{left} {value}" if value else left, text, width)


def _group_lines(choices: Mapping[str, list[str]], chosen: Mapping[str, str], width: int) -> Iterator[str]:
    for group in (*GROUPS, *sorted(choices.keys() - GROUPS)):
        names = choices.get(group, [])
        if names in ([], ["default"]):
            continue
        marked = [f"{name} (default)" if name == chosen.get(group) else name for name in names]
        yield from _two_columns(group, ", ".join(marked), width)


def _option_lines(listed: list[Setting], values: Mapping[str, Any], width: int) -> Iterator[str]:
    for setting in listed:
        yield from _two_columns(
            f"{setting.key}={show_default(values.get(setting.key))}",
            f"{setting.description} [{setting.short_range}]",
            width,
        )


def _two_columns(left: str, right: str, width: int) -> list[str]:
    lines = textwrap.wrap(right, width - _WIDTH - 2, break_long_words=False) or [""]
    head = f"  {left}"
    first = [f"{head:<{_WIDTH}}{lines[0]}"] if len(head) < _WIDTH else [head, " " * _WIDTH + lines[0]]
    return [*first, *(" " * _WIDTH + line for line in lines[1:])]


def show_default(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).replace("\n...", "").strip()
