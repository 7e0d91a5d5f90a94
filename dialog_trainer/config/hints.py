"""Hints at what was meant: the nearest names, and the form here of what people type by habit elsewhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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
    **dict.fromkeys(("train_file", "train_path", "dataset", "dataset_name", "data_path", "train_data", "data.file"),
                    "data=files data.train_data_path=<file.jsonl>"),
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

MODES = ("train", "resume", "validate", "chat", "inspect", "verify_resume")


def hint_for_key(key: str, known: Iterable[str]) -> str:
    """A hint for a key that does not exist: the form of a habit, else the same last part elsewhere, else what is
    spelt most alike."""
    names = list(known)
    habit = HABITS.get(key) or HABITS.get(key.split(".")[0] if key.startswith("CUSTOM") else key)
    if habit:
        return f"; write {habit.format(key=key)}"
    close = [name for name in names if name.split(".")[-1] == key.split(".")[-1]]
    close = (close or difflib.get_close_matches(key, names, n=2, cutoff=0.6))[:2]
    return f"; did you mean {' or '.join(close)}?" if close else "; --help shows all options"


def hint_for_choice(group: str, value: object, choices: Iterable[str]) -> str:
    """A hint for a choice that a group does not have."""
    text = str(value).strip()
    if group == "metrics" and isinstance(value, list):
        return f"; for a list of scores, write metrics.names=[{','.join(map(str, value))}]"
    if group == "figures" and isinstance(value, bool):
        return f"; write figures.enabled={text.lower()}"
    if not isinstance(value, str):
        return ""
    if group == "data" and ("/" in text or text.lower().endswith((".jsonl", ".json", ".csv", ".txt", ".parquet"))):
        return f"; for a file of your own, write data=files data.train_data_path={text}"
    near = difflib.get_close_matches(text, list(choices), n=1, cutoff=0.8)
    if near:
        return f"; did you mean {group}={near[0]}?"
    if group == "model":
        return f"; for a model of the hub or a folder, write model.pretrained_model={text}"
    return ""
