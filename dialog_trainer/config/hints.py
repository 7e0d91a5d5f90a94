"""Hints at what was meant: the nearest names, and the form here of what people type by habit elsewhere."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from dialog_trainer.config.paths import DATA_FILES

# What other programs of the field, and the original, call an option: what to type here.
HABITS = {
    **dict.fromkeys(("learning_rate", "lr", "optim.lr", "optim.learning_rate", "max_lr"), "optim.lr0=<number>"),
    **dict.fromkeys(
        ("epochs", "num_epochs", "epoch", "num_train_epochs", "max_epochs", "n_epochs"),
        "steps=<updates>: training is counted in updates, and an epoch has (sequences / batch_size) of them",
    ),
    **dict.fromkeys(("max_steps", "num_steps", "train_steps", "iterations", "total_steps"), "steps=<updates>"),
    **dict.fromkeys(
        ("per_device_train_batch_size", "train_batch_size", "bs", "micro_batch_size", "per_gpu_train_batch_size"),
        "batch_size=<sequences of an update, over all processes>",
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum", "accumulation_steps"),
        "micro_batch_tokens=<tokens>, which bounds memory; batch_size is the size of an update whatever it is",
    ),
    **dict.fromkeys(
        ("scheduler_type", "lr_scheduler_type", "lr_scheduler", "scheduler.type", "scheduler.name"),
        "scheduler=cosine, linear or constant",
    ),
    **dict.fromkeys(("warmup", "warmup_ratio", "num_warmup_steps"), "scheduler.warmup_steps=<updates>"),
    **dict.fromkeys(("optimizer", "optim_type", "optimizer_type"), "optim=adamw, adam or sgd"),
    **dict.fromkeys(
        ("model_name_or_path", "model_name", "model_path", "model_id", "pretrained", "model.name", "model.path"),
        "model.pretrained_model=<hub id or folder>",
    ),
    **dict.fromkeys(("max_length", "max_seq_length", "seq_len", "block_size", "context_length"), "model.max_len=<tokens>"),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "run_name", "output"), "project=<folder> name=<name of the run>"),
    **dict.fromkeys(("fp16", "mixed_precision", "amp"), "precision=fp16 (or bf16)"),
    "bf16": "precision=bf16",
    "torch_compile": "compile=true",
    "gradient_checkpointing": "activation_checkpointing=true",
    **dict.fromkeys(("grad_clip", "gradient_clip_val", "clip_grad_norm", "clip"), "max_grad_norm=<number>"),
    **dict.fromkeys(("gpu", "gpus", "cuda", "gpu_id", "devices", "n_gpu"), "device=[0], [0,1], cuda or auto"),
    **dict.fromkeys(("num_workers", "dataloader_num_workers", "num_proc"), "data.workers=<processes>"),
    **dict.fromkeys(("eval_steps", "eval_every", "val_check_interval"), "validate_every_n_steps=<updates>"),
    **dict.fromkeys(("save_steps", "save_every"), "save_every_n_steps=<updates>"),
    **dict.fromkeys(("logging_steps", "log_every"), "log_every_n_steps=<updates>"),
    "early_stopping_patience": "patience=<validations>",
    **dict.fromkeys(
        ("resume", "resume_from_checkpoint", "ckpt", "ckpt_path", "checkpoint"),
        "mode=resume resume_model_dir=<run folder> load_model_type=last",
    ),
    **dict.fromkeys(("train_file", "train_path", "train_data_path", "dataset", "data_path", "train_data", "data.file"),
                    "data=files data.train_data_path=<file.jsonl>"),
    **dict.fromkeys(("dataset_name", "data.name", "data.dataset", "data.repository", "data.repo_id"), "data=hub data.id=<owner/name>"),
    "dailydialog_train": "data=dailydialog (or data=files for files of your own)",
    "dailydialog_dataset.path": "data=dailydialog data.path=<folder>",
    **{
        f"CUSTOM.{split}_data_path": f"data=files data.{split}_data_path=<file.jsonl>"
        for split in ("train", "validation", "test")
    },
    "CUSTOM": "data=files data.train_data_path=<file.jsonl>",
    **dict.fromkeys(("temperature", "top_p"), "chat.generation.{key}=<number> for a chat, metrics.generation.{key}=<number> for validations"),
    "max_new_tokens": "metrics.generation.max_new_tokens=<tokens>, or chat.generation.max_new_tokens=<tokens>",
    **dict.fromkeys(("wandb", "report_to", "tensorboard"), "logger=tensorboard"),
    "config": "--config-dir <folder> experiment=<file in its folder experiment/>",
}  # fmt: skip

# What a choice of a group is called elsewhere: what to type here.
CHOICE_HABITS = {
    "data": {
        **dict.fromkeys(
            ("csv", "tsv", "json", "parquet", "file", "folder", "local", "custom", "own", "sharegpt", "alpaca", "openai",
             "chatml", "messages", "conversations", "instruct", "qa"),
            "data=files data.train_data_path=<file>, which knows the form from the content",
        ),
        **dict.fromkeys(("txt", "text"), "data=files data.train_data_path=<file.jsonl>, with a dialogue a line: docs/data.md"),
        **dict.fromkeys(("huggingface", "hf", "huggingface_hub", "dataset", "datasets"), "data=hub data.id=<owner/name>"),
    },
    "scheduler": dict.fromkeys(("none", "null", "off", "fixed"), "scheduler=constant"),
    "mask_schedule": {
        **dict.fromkeys(("none", "null", "off", "never", "all", "all_turns"), "mask_schedule=constant mask_schedule.end_weight=1"),
        **dict.fromkeys(("always", "assistant", "assistant_only"), "mask_schedule=constant mask_schedule.end_weight=0"),
    },
    "logger": dict.fromkeys(("wandb", "mlflow", "comet", "tb"), "logger=tensorboard"),
}  # fmt: skip

_HUB_ID = re.compile(rf"[\w-][\w.-]*/(?!.*({'|'.join(map(re.escape, DATA_FILES))})$)[\w.-]+")
MODES = ("train", "resume", "validate", "chat", "inspect", "verify_resume")


def hint_for_key(key: str, known: Iterable[str]) -> str:
    """A hint for a key that does not exist: the form of a habit, else the same last part elsewhere, else what is
    spelt most alike, in its group, as a whole, or in its last part elsewhere; else what the group has."""
    names = list(known)
    habit = HABITS.get(key) or HABITS.get(key.split(".")[0] if key.startswith("CUSTOM") else key)
    if habit:
        return f"; write {habit.format(key=key)}"
    group, _, last = key.rpartition(".")
    inside = {name.rpartition(".")[2]: name for name in names if group and name.rpartition(".")[0] == group}
    close = [name for name in names if name.rpartition(".")[2] == last]
    close = close or [inside[name] for name in difflib.get_close_matches(last, inside, n=2, cutoff=0.6)]
    close = close or difflib.get_close_matches(key, names, n=2, cutoff=0.6 if not inside else 0.9)
    if not close:
        alike = difflib.get_close_matches(last, {name.rpartition(".")[2] for name in names}, n=1, cutoff=0.8)
        close = [name for name in names if name.rpartition(".")[2] in alike]
    close = ([name for name in close if name.startswith(f"{group}.")] or close)[:2]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    options = ", ".join(name for name in inside if not name.startswith("_"))
    return f"; {group} has {options}" if options else "; --help shows all options"


def hint_for_choice(group: str, value: object, choices: Iterable[str]) -> str:
    """A hint for a choice that a group does not have."""
    text = str(value).strip()
    if group == "metrics" and isinstance(value, list):
        return f"; for a list of scores, write metrics.names=[{','.join(map(str, value))}]"
    if group == "figures" and isinstance(value, bool):
        return f"; write figures.enabled={text.lower()}"
    if not isinstance(value, str):
        return ""
    habit = CHOICE_HABITS.get(group, {}).get(text.lower())
    if habit:
        return f"; write {habit}"
    if group == "data" and ("/" in text or text.lower().endswith(DATA_FILES)):
        hub = f"; for a data set of the hub, data=hub data.id={text}" if _HUB_ID.fullmatch(text) else ""
        return f"; for a file of your own, write data=files data.train_data_path={text}{hub}"
    near = difflib.get_close_matches(text.lower(), list(choices), n=1, cutoff=0.8)
    if near:
        return f"; did you mean {group}={near[0]}?"
    if group == "model":
        return f"; for a model of the hub or a folder, write model.pretrained_model={text}"
    return ""
