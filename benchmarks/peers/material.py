"""Writes the input of all contenders: a folder with a model, dialogues, and their tokens in the order of training.

    model/           a GPT-2 of random weights and a vocabulary that has the dialogue tokens, as transformers reads them
    train.jsonl, validation.jsonl
    material.json    the fields of `Material`

1,200 dialogues (fifty batches, what transformers' `group_by_length` sorts at a time) are sampled and sorted by length; a
round has evenly spaced ones of these fifty batches. So a contender that groups by length pads as little as on the whole
corpus, and one that does not gets the corpus's own mix of lengths. All dialogues are cut to `max_len` (keep_start), so
that each is one sequence.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import random_gpt2
import torch
from transformers import AutoModelForCausalLM

from dialog_trainer.data.dataset import DialogueDataset, open_dialogues, open_tokens
from dialog_trainer.data.sampler import global_batch_indices
from dialog_trainer.data.sources import Jsonl
from dialog_trainer.data.sources.chitchat import ChitChat
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.sources.protocol import DialogueSource
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.model.loading import build_from_scratch, load_pretrained
from dialog_trainer.types import Dialogue

IGNORED = -100
SORTED_AT_A_TIME = 50  # batches; transformers.trainer_pt_utils.get_length_grouped_indices
SEED = 0
HELD_OUT = 100  # dialogues


@dataclass(frozen=True, slots=True)
class Size:
    """`entries` of a vocabulary learned from the dialogues, None: the true GPT-2 vocabulary."""

    layers: int
    heads: int
    width: int
    entries: int | None


SIZES = {
    "0.7M": Size(2, 4, 128, 2048),  # model=gpt2_tiny
    "10M": Size(6, 5, 320, 8192),
    "124M": Size(12, 12, 768, None),
}


@dataclass(frozen=True, slots=True)
class Material:
    """`ids` and `labels` of each sequence; a label is at its token's own position, and `IGNORED` if the token is not trained.

    `given` has the indices of the batches of all steps in the package's own order, each round one pass over all;
    `by_length` those of one round for contenders that group by length.
    """

    ids: list[list[int]]
    labels: list[list[int]]
    given: list[list[int]]
    by_length: list[list[int]]
    steps: int
    max_len: int
    layers: int
    width: int
    entries: int
    reference_loss: float
    data: str

    def batches(self, order: str) -> list[list[int]]:
        rounds = len(self.given) // self.steps
        return self.given if order == "given" else self.by_length * rounds

    def tokens_of_round(self) -> int:
        return sum(map(len, self.ids))

    def trained_of_round(self) -> int:
        return sum(label != IGNORED for labels in self.labels for label in labels)


def read(folder: Path) -> Material:
    return Material(**json.loads((folder / "material.json").read_text(encoding="utf-8")))


def source() -> tuple[DialogueSource, str]:
    data = os.environ.get("DIALOG_TRAINER_TEST_DATA")
    if data:
        return DailyDialog(str(Path(data) / "dailydialog"), "", None, ""), "DailyDialog"
    return ChitChat(), "chitchat"


def write(folder: Path, size: Size, *, steps: int, batch_size: int, max_len: int, rounds: int) -> Material:
    """Writes `folder`, enough for `rounds` rounds of `steps` steps."""
    folder.mkdir(parents=True)
    found, data = source()
    table = open_dialogues(found, "train", folder / "cache", say=_silent)
    tokenizer = _write_model(folder / "model", size, table, max_len)
    order = random.Random(SEED).sample(range(len(table)), min(len(table), 2 * SORTED_AT_A_TIME * batch_size))
    held_out = [table[index] for index in order[-HELD_OUT:]]
    drawn = [table[index] for index in order[:-HELD_OUT]]
    ids, labels = _tokens(folder, "sample", drawn, tokenizer, max_len)
    trainable = [index for index in range(len(ids)) if any(label != IGNORED for label in labels[index])]
    wanted = min(SORTED_AT_A_TIME, len(trainable) // batch_size)
    if steps > wanted:
        raise SystemExit(f"--steps {steps}: {data} has {wanted} batches of {batch_size} here; use at most that")
    by_length = sorted(trainable[: wanted * batch_size], key=lambda index: len(ids[index]))
    places = [int((number + 0.5) * wanted / steps) for number in range(steps)]
    pool = [index for place in places for index in by_length[place * batch_size : (place + 1) * batch_size]]
    kept = sorted(pool)
    for name, dialogues in (("train", [drawn[index] for index in kept]), ("validation", held_out)):
        _write_jsonl(folder / f"{name}.jsonl", dialogues)
    ids, labels = [ids[index] for index in kept], [labels[index] for index in kept]
    place_of = {index: place for place, index in enumerate(kept)}
    count = steps * batch_size
    given = [global_batch_indices(SEED, step, count, batch_size).tolist() for step in range(rounds * steps)]
    grouped = [[place_of[index] for index in pool[n * batch_size : (n + 1) * batch_size]] for n in range(steps)]
    first = [(ids[index], labels[index]) for index in given[0]]
    made = Material(
        ids, labels, given, grouped, steps, max_len, size.layers, size.width, len(tokenizer),
        _plain_loss(folder / "model", first), data,
    )  # fmt: skip
    (folder / "material.json").write_text(json.dumps(asdict(made)), encoding="utf-8")
    return made


def synthetic_dialogues(count: int, seed: int, words: int = 10) -> Iterator[list[str]]:
    """Yields dialogues of four turns of `words` random words each."""
    draw = random.Random(seed)
    known = ["".join(draw.choice("aeioubdgklmnprstv") for _ in range(draw.randint(2, 7))) for _ in range(1500)]
    for _ in range(count):
        yield [" ".join(draw.choices(known, k=words)) for _ in range(4)]


def _write_model(folder: Path, size: Size, table: DialogueDataset, max_len: int) -> DialogueTokenizer:
    if size.entries is None:
        random_gpt2.write(folder, layers=size.layers, heads=size.heads, width=size.width)
        tokenizer = DialogueTokenizer.pretrained(str(folder))
        model = load_pretrained(str(folder), tokenizer, dropout=0.0)
    else:
        tokenizer = DialogueTokenizer.train(table.texts(), size.entries)
        model = build_from_scratch(
            tokenizer, layers=size.layers, heads=size.heads, width=size.width, positions=max(256, max_len),
            dropout=0.0, seed=SEED,
        )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return DialogueTokenizer.pretrained(str(folder))


def _tokens(
    folder: Path, name: str, dialogues: list[Dialogue], tokenizer: DialogueTokenizer, max_len: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and labels of each dialogue by the package's own data path and mask: the assistant's turns and the end."""
    path = folder / f"{name}.jsonl"
    _write_jsonl(path, dialogues)
    table = open_dialogues(Jsonl(str(path), str(path), None, 0.0), "train", folder / "cache", say=_silent)
    if len(table) != len(dialogues):
        raise SystemExit(f"{len(dialogues) - len(table)} of the dialogues were dropped: the contenders would differ")
    tokens = open_tokens(
        table, tokenizer, max_len=max_len, truncation="keep_start", workers=1, cache_dir=folder / "cache"
    )
    flat, runs = tokens.columns(range(len(tokens)))
    weights, _ = Mask(lambda progress: RoleWeights(0.0, 1.0)).weigh_tokens(runs, RoleWeights(0.0, 1.0))
    ends = np.cumsum(tokens.lengths)[:-1]
    labels = np.where(weights > 0, flat, IGNORED)
    return [part.tolist() for part in np.split(flat, ends)], [part.tolist() for part in np.split(labels, ends)]


@torch.no_grad()
def _plain_loss(model_folder: Path, sequences: list[tuple[list[int], list[int]]]) -> float:
    """Mean loss of the trained tokens of a batch, one sequence at a time with the plain model."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    nats, count = 0.0, 0
    for ids, labels in sequences:
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
        targets = torch.tensor(labels[1:])
        nats += float(torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum"))
        count += int((targets != IGNORED).sum())
    return nats / count


def _write_jsonl(path: Path, dialogues: list) -> None:
    with path.open("w", encoding="utf-8") as file:
        for dialogue in dialogues:
            messages = [{"role": turn.role.name.lower(), "content": turn.text} for turn in dialogue.turns]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def _silent(line: str) -> None:
    pass
