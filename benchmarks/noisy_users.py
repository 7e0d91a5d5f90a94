"""Copies dialogues with noise in the user's turns: `python benchmarks/noisy_users.py data/dailydialog data/noisy --share 0.5`.

In the training split each word of turns 0, 2, 4 ... is replaced with the probability `share` by a word drawn from all of them,
so that length and frequency of the words stay; in the validation and test split nothing changes. `data=dailydialog
data.path=data/noisy` reads the copy.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

HELD_OUT = ("validation.jsonl", "test.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of train.jsonl, validation.jsonl and test.jsonl")
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("--share", type=float, default=0.5, help="probability of each word to be replaced, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share {options.share}: must be from 0 to 1")
    lines = (options.source / "train.jsonl").read_text(encoding="utf-8").splitlines()
    dialogues = replace_words([json.loads(line)["turns"] for line in lines], options.share, options.seed)
    options.target.mkdir(parents=True)
    for name in HELD_OUT:
        shutil.copyfile(options.source / name, options.target / name)
    rows = (json.dumps({"turns": turns}, ensure_ascii=False) for turns in dialogues)
    (options.target / "train.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def replace_words(dialogues: Sequence[Sequence[str]], share: float, seed: int) -> list[list[str]]:
    """The dialogues with a share of the words of turns 0, 2, 4 ... replaced by words drawn from all of these."""
    words = [word for turns in dialogues for turn in turns[::2] for word in turn.split()]
    draw = random.Random(seed)
    return [
        [
            turn
            if index % 2
            else " ".join(draw.choice(words) if draw.random() < share else word for word in turn.split())
            for index, turn in enumerate(turns)
        ]
        for turns in dialogues
    ]


if __name__ == "__main__":
    main()
