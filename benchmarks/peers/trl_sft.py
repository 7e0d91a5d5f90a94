"""TRL's SFTTrainer with prepared labels: default settings (with activation checkpointing), or its `best`.

`best` is without checkpointing, grouped by length, fused and compiled; `padding_free` is `best` with flattened instead of
grouped batches. Since TRL 1.16 the loss is chunked by default (`loss_type=chunked_nll` in older versions). `packing=True`
cuts the corpus into rows of its own, so a batch has no fixed number of dialogues; `padding_free` keeps the batch, and
without FlashAttention transformers builds a mask from the positions that confines attention to a dialogue.
"""

from __future__ import annotations

from peers import hf_trainer
from peers.gate import Gate
from trl import SFTConfig, SFTTrainer


def main() -> None:
    gate = Gate()
    job = gate.job
    arguments = hf_trainer.arguments_of(job) | {"max_length": job.max_len}
    if job.best:
        arguments["gradient_checkpointing"] = False
    if job.padding_free:
        arguments |= {"padding_free": True, "max_length": None}
    trainer = hf_trainer.with_noted_loss(SFTTrainer, gate)(
        model=hf_trainer.model_of(job),
        args=SFTConfig(**arguments),
        train_dataset=hf_trainer.dataset_of(job),
        processing_class=hf_trainer.tokenizer_of(job),
        callbacks=[hf_trainer.StepCallback(gate)],
    )
    trainer.train()
    raise SystemExit("the trainer reached the end of its data")


if __name__ == "__main__":
    main()
