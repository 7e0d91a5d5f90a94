"""HF Trainer: with default settings, and at its `best` with its options for speed.

The sampler is `sequential` over the batches in the order of `material.py`; at its best that is the order of
`train_sampling_strategy=group_by_length`, over as many dialogues as that option sorts at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peers import material
from peers.gate import Gate
from peers.job import Job
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class StepCallback(TrainerCallback):
    def __init__(self, gate: Gate):
        self.gate = gate

    def on_step_begin(self, args, state, control, **_) -> None:
        self.gate.begin_step()


def with_noted_loss(base: type[Trainer], gate: Gate) -> type[Trainer]:
    """Subclass of `base` that notes the loss of each step at the gate."""

    class Noting(base):  # type: ignore[valid-type, misc]  # made from its argument
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            gate.note(loss)
            return loss

    return Noting


def model_of(job: Job):
    folder = Path(job.folder) / "model"
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), job.dropout)
    config = AutoConfig.from_pretrained(folder, **dropouts)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    return add_lora(model, job.dropout) if job.lora else model


def add_lora(model, dropout: float):
    """The adapter of conf/model/adapter/lora.yaml, by peft."""
    return get_peft_model(
        model,
        LoraConfig(r=16, lora_alpha=32, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def tokenizer_of(job: Job):
    return AutoTokenizer.from_pretrained(Path(job.folder) / "model", padding_side="right")


def dataset_of(job: Job) -> Dataset:
    made = material.read(Path(job.folder))
    places = [index for batch in made.batches(job.order) for index in batch]
    return Dataset.from_dict(
        {"input_ids": [made.ids[index] for index in places], "labels": [made.labels[index] for index in places]}
    )


def arguments_of(job: Job) -> dict[str, Any]:
    return {
        "output_dir": "hf",
        "per_device_train_batch_size": job.batch_size,
        "num_train_epochs": 1,
        "learning_rate": job.lr,
        "weight_decay": job.weight_decay,
        "max_grad_norm": job.max_grad_norm,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "bf16": job.precision == "bf16",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": material.SEED,
        "torch_compile": bool(job.compile),
        **({"optim": "adamw_torch_fused"} if job.best else {}),
    }


def main() -> None:
    gate = Gate()
    job, tokenizer = gate.job, tokenizer_of(gate.job)
    trainer = with_noted_loss(Trainer, gate)(
        model=model_of(job),
        args=TrainingArguments(**arguments_of(job)),
        train_dataset=dataset_of(job),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[StepCallback(gate)],
    )
    trainer.train()
    raise SystemExit("the trainer reached the end of its data")


if __name__ == "__main__":
    main()
