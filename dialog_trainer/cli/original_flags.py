"""The command lines of the original program (ljm565/multi-turn-chatbot-GPT2), answered with the command to type here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dialog_trainer.cli.plain_yaml import MAX_BYTES, load_plain
from dialog_trainer.command_line import quote_for_shell
from dialog_trainer.config.frozen import flatten

_PROGRAM = "python -m dialog_trainer"
_LONG = {
    "-c": "--config", "-m": "--mode", "-r": "--resume_model_dir", "-l": "--load_model_type", "-p": "--port",
    "-d": "--dataset_type",
}  # fmt: skip
_KINDS = {"metric": "best_metric", "loss": "best_loss", "last": "last"}
# A key of its file -> the key here.
KEYS = {
    **{
        key: key
        for key in ("seed", "deterministic", "device", "project", "name", "batch_size", "steps", "patience",
                    "prediction_print_n", "train_user_turn_mask_step")
    },
    "pretrained_model": "model.pretrained_model", "max_len": "model.max_len", "workers": "data.workers",
    "lr0": "optim.lr0", "lrf": "scheduler.lrf", "warmup_steps": "scheduler.warmup_steps",
    "common": "metrics.common", "metrics": "metrics.names",
}  # fmt: skip
TAKEN = {
    *KEYS, "scheduler_type", "dailydialog_train", "dailydialog_dataset.path",
    *(f"CUSTOM.{split}_data_path" for split in ("train", "validation", "test")),
}  # fmt: skip
# What it adds to the file of a run.
_WRITTEN = ("yaml_file", "is_rank_zero", "save_dir", "vocab_size")


def answer_original_flags(arguments: list[str]) -> str | None:
    """What to type here, if `arguments` are those of the original's programs; None for any others."""
    flags, others = _split(arguments)
    if not flags:
        return None
    notes: list[str] = []
    options = _read_config(flags["--config"], notes) if "--config" in flags else []
    options += [f"port={flags['--port']}"] if flags.get("--port") else []
    run, mode = flags.get("--resume_model_dir") or "<run folder>", flags.get("--mode")
    kind = flags.get("--load_model_type") or "metric"
    on_run = [_override("resume_model_dir", run), f"load_model_type={kind}", *others]
    if mode == "resume":
        weights = _override("model.pretrained_model", _weights(run, kind))
        commands = [
            ("to go on exactly", ["mode=resume", *on_run]),
            ("a new run from these weights, as there", ["experiment=original", *options, weights, *others]),
        ]
    elif mode in ("validate", "validation", "chat") or (mode is None and "--config" not in flags):
        split = flags.get("--dataset_type") or "test"
        commands = [
            ("to score it", ["mode=validate", *on_run, f"split={split}"]),
            ("to chat", ["mode=chat", *on_run]),
        ]
    else:
        commands = [("the same here", ["experiment=original", *options, *others])]
    lines = [f"{' '.join(flags)}: flags of the original program"]
    lines += [f"    {what}: {_PROGRAM} {' '.join(map(quote_for_shell, typed))}" for what, typed in commands]
    lines += [f"    {note}" for note in notes]
    return "\n".join(lines)


def _split(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The original's flags by their long name, and the other arguments. A short one that is also Hydra's counts by its
    value: `-m train`, `-c x.yaml`, `-p 10001`."""
    flags: dict[str, str] = {}
    others, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        typed, equals, value = argument.partition("=")
        name = _LONG.get(typed, typed)
        following = value if equals else next(iter(rest), "")
        if name not in _LONG.values() or not _fits(typed, following):
            others.append(argument)
            continue
        if not equals and following == next(iter(rest), None):
            rest.pop(0)
        flags[name] = following
    return flags, others


def _fits(typed: str, value: str) -> bool:
    if typed.startswith("--"):
        return True
    return {
        "-m": value in ("train", "resume"),
        "-c": value.lower().endswith((".yaml", ".yml")),
        "-p": value.isdecimal(),
        "-l": value in _KINDS,
        "-d": value in ("train", "validation", "test"),
        "-r": bool(value) and not value.startswith("-") and "=" not in value,
    }[typed]


def _read_config(path: str, notes: list[str]) -> list[str]:
    """The options here for a file of the original, without those that `experiment=original` has anyway."""
    try:
        if not os.path.isfile(path):
            raise ValueError("there is no such file")
        with open(path, "rb") as file:
            tree = load_plain(file.read(MAX_BYTES + 1))
        if not isinstance(tree, dict):
            raise ValueError("holds no options")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        notes.append(f"--config {path or '<file>'} cannot be read ({reason}): its options are missing above")
        return []
    values = flatten({key: value for key, value in tree.items() if isinstance(key, str)})
    unknown = [key for key in values if key not in (*TAKEN, *_WRITTEN)]
    if unknown:
        notes.append(f"not known here, left out: {', '.join(unknown)}")
    if values.get("workers") == 0:
        del values["workers"]  # its word for "as many as fit", which is null here
    options = _data_options(values, notes)
    if "scheduler_type" in values:
        options.append(_override("scheduler", values["scheduler_type"]))
    defaults = _defaults()
    options += [
        _override(here, values[key])
        for key, here in KEYS.items()
        if key in values and _plain(values[key]) != _plain(defaults.get(here))
    ]
    return options


def _data_options(values: Mapping[str, Any], notes: list[str]) -> list[str]:
    custom = {key: value for key, value in values.items() if key.startswith("CUSTOM.") and value is not None}
    if not values.get("dailydialog_train", not custom):
        return ["data=files", *(_override(key.replace("CUSTOM.", "data."), value) for key, value in custom.items())]
    folder = values.get("dailydialog_dataset.path")
    if isinstance(folder, str) and Path(folder).is_dir():
        return ["data=dailydialog", _override("data.path", folder)]
    if folder:
        notes.append(f"data.path={folder} is left out, for there is no such folder: DailyDialog is read from the hub")
    return ["data=dailydialog"]


def _weights(run: str, kind: str) -> str:
    """The weights of a run: of one of the original the file that it would take, else the folder here."""
    try:
        names = sorted(os.listdir(Path(run) / "weights"))
    except OSError:
        names = []
    file = next((name for name in names if name.endswith(".pt") and kind in name), None)
    return f"{run}/weights/{file or _KINDS.get(kind, kind)}"


def _defaults() -> dict[str, Any]:
    from dialog_trainer.cli.compose import compose_tree
    from dialog_trainer.cli.overrides import prepare_overrides

    return flatten(compose_tree(prepare_overrides(["experiment=original"]), None).tree)


def _override(key: str, value: Any) -> str:
    return f"{key}={_text(value)}"


def _text(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    from dialog_trainer.cli.overrides import quote_text

    if value is None or isinstance(value, (bool, int, float)):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    plain = str(value).replace("-", "").replace(".", "").replace("/", "").replace("_", "").isalnum()
    return str(value) if plain and str(value).isascii() else quote_text(value)


def _plain(value: Any) -> Any:
    """`value` for a comparison: YAML reads 1e-4 as a text."""
    try:
        return float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value
    except ValueError:
        return value
