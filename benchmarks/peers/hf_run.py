"""A short run with HF Trainer: tokenizes, trains, and computes the loss and the BLEU of generated replies at each evaluation.

`generate` gets left-padded batches of the trainer's evaluation batch size, or of `reply_tokens` tokens. The job comes as
JSON on standard input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from datasets import Dataset
from peers.hf_trainer import arguments_of, model_of, tokenizer_of
from peers.job import ShortRun
from peers.material import IGNORED
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments


class Replies(TrainerCallback):
    """Generates greedy replies to the same contexts after each evaluation, and prints their BLEU."""

    def __init__(self, contexts: list[dict[str, Any]], tokenizer: Any, job: ShortRun):
        self.contexts, self.tokenizer, self.job = contexts, tokenizer, job

    def on_evaluate(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        model = parts["model"].eval()
        self.tokenizer.padding_side = "left"
        texts: list[str] = []
        size = args.per_device_eval_batch_size
        if self.job.reply_tokens:
            longest = max(len(context["ids"]) for context in self.contexts)
            size = max(1, self.job.reply_tokens // (longest + self.job.new_tokens))  # at most as many as ours
        for first in range(0, len(self.contexts), size):
            rows = [context["ids"] for context in self.contexts[first : first + size]]
            batch = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(model.device)
            with torch.no_grad():
                made = model.generate(
                    **batch, max_new_tokens=self.job.new_tokens, do_sample=False,
                    eos_token_id=[self.tokenizer.sep_token_id, self.tokenizer.eos_token_id],
                    pad_token_id=self.tokenizer.pad_token_id,
                )  # fmt: skip
            new = made[:, batch["input_ids"].shape[1] :]
            texts += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        self.tokenizer.padding_side = "right"
        bleu = sacrebleu.corpus_bleu(texts, [[context["reference"] for context in self.contexts]])
        print(f"step {state.global_step}: BLEU {bleu.score:.2f}, {len(texts)} replies")
        model.train()


def main() -> None:
    job = ShortRun.from_json(sys.stdin.read())
    torch.set_num_threads(job.threads)
    folder = Path(job.folder)
    tokenizer = tokenizer_of(job)
    arguments = arguments_of(job) | {
        "output_dir": str(folder / job.output), "max_steps": job.steps, "train_sampling_strategy": "random",
        "eval_strategy": "steps", "eval_steps": job.every, "save_strategy": "steps", "save_steps": job.every,
        "prediction_loss_only": True,
    }  # fmt: skip
    if job.reply_tokens:
        arguments["per_device_eval_batch_size"] = job.batch_size
    trainer = Trainer(
        model=model_of(job),
        args=TrainingArguments(**arguments),
        train_dataset=_tokenize(folder / "train.jsonl", tokenizer, job),
        eval_dataset=_tokenize(folder / "validation.jsonl", tokenizer, job),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[Replies(json.loads((folder / "contexts.json").read_text(encoding="utf-8")), tokenizer, job)],
    )
    trainer.train()


def _tokenize(path: Path, tokenizer: Any, job: ShortRun) -> Dataset:
    def rows(row: dict[str, Any]) -> dict[str, list[int]]:
        ids, labels = [tokenizer.cls_token_id], [IGNORED]
        for message in row["messages"]:
            turn = [*tokenizer(message["content"], add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]
            ids += turn
            labels += turn if message["role"] == "assistant" else [IGNORED] * len(turn)
        ids, labels = [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id]
        return {"input_ids": ids[: job.max_len], "labels": labels[: job.max_len]}

    return Dataset.from_json(str(path), cache_dir=str(path.parent / job.output / "cache")).map(
        rows, remove_columns=["messages"], load_from_cache_file=False
    )


if __name__ == "__main__":
    main()
