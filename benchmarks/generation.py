"""Measures generation: replies per second compared with transformers' `generate`, and a dialogue with the original's.

    OMP_NUM_THREADS=2 python benchmarks/generation.py

The contexts are DailyDialog's test (where DIALOG_TRAINER_TEST_DATA is set) or chitchat's. `generate` gets the same
contexts in the order of the dialogues, in batches of as many as `batch_tokens` holds of the longest. The methods run
interleaved. Times are reported, not asserted: wall time and CPU time, which excludes other programs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import random_gpt2
import torch
from end_to_end import command
from transformers import PreTrainedModel
from transformers.utils import logging

from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sources.chitchat import ChitChat
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.contexts import build_contexts, sample_dialogues
from dialog_trainer.model.generation.generate import generate
from dialog_trainer.model.generation.kv_cache import group_by_prefix
from dialog_trainer.model.generation.sampling import GREEDY, Decoding
from dialog_trainer.model.loading import load_pretrained
from dialog_trainer.model.packed_forward import padded_attention, use_packed_attention
from dialog_trainer.types import Role

MAX_LEN, NEW, BATCH_TOKENS = 128, 40, 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint of a trained model; default: train gpt2_tiny for 300 steps"
    )
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    print(
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {_products():.0f} GFLOP/s in matrix products"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_gpt2.write(folder / "gpt2", layers=12, heads=12, width=768)
        model, tokenizer = _model(folder / "gpt2")
        contexts, first_turns = _contexts(folder, tokenizer, arguments.dialogues)
        _against_generate("124 M, replies never end", model, tokenizer, contexts, GREEDY, arguments.rounds)
        _against_original(model, tokenizer, contexts, first_turns, arguments.rounds)
        _make_replies_end(model, tokenizer, one_in=12)
        sampled = Decoding("sample")
        _against_generate("124 M, 1 token in 12 ends", model, tokenizer, contexts, sampled, arguments.rounds)
        model, tokenizer = _model(arguments.checkpoint or _trained(folder))
        contexts, _ = _contexts(folder, tokenizer, arguments.dialogues)
        for decoding in (GREEDY, sampled):
            _against_generate(f"trained, {decoding.kind}", model, tokenizer, contexts, decoding, arguments.rounds)


def _model(folder: Path) -> tuple[PreTrainedModel, DialogueTokenizer]:
    tokenizer = DialogueTokenizer.pretrained(str(folder))
    model = load_pretrained(str(folder), tokenizer, dropout=None).eval()
    use_packed_attention(model, MAX_LEN)
    return model, tokenizer


def _contexts(folder: Path, tokenizer: DialogueTokenizer, dialogues: int) -> tuple[list[list[int]], list[list[int]]]:
    """The contexts of all assistant turns of the sampled dialogues, and the first turn of each dialogue."""
    data = os.environ.get("DIALOG_TRAINER_TEST_DATA")
    source = DailyDialog(str(Path(data) / "dailydialog"), "", None, "") if data else ChitChat()
    table = open_dialogues(source, "test", folder / "cache", say=lambda line: None)
    chosen = [table[index] for index in sample_dialogues(table, dialogues)]
    found = [context for one in chosen for context in build_contexts(one, tokenizer, MAX_LEN - NEW, {Role.ASSISTANT})]
    firsts = [
        [
            tokenizer.special_tokens.start,
            *tokenizer.encode_batch([d.turns[0].text])[0],
            tokenizer.special_tokens.separator,
        ]
        for d in chosen
    ]
    return [context.ids for context in found], firsts


def _make_replies_end(model: Any, tokenizer: DialogueTokenizer, one_in: int) -> None:
    """Changes the weights so that `[SEP]` is sampled with probability 1 / `one_in`."""
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(0.1)
        wte = model.get_input_embeddings().weight
        wte -= wte.mean(1, keepdim=True)
        wanted = torch.tensor(len(tokenizer) / (one_in - 1)).log()
        wte[tokenizer.special_tokens.separator] = wanted / (0.1 * wte.shape[1])


def _trained(folder: Path) -> Path:
    data = os.environ.get("DIALOG_TRAINER_TEST_DATA")
    named = ["data=dailydialog", f"data.path='{data}/dailydialog'"] if data else ["data=chitchat"]
    options = ["steps=300", "scheduler.warmup_steps=50", "optim.lr0=2e-3", "device=cpu", "metrics.max_dialogues=2"]
    folders = [f"project='{folder}/runs'", "name=trained", f"data.cache_dir='{folder}/cache'"]
    subprocess.run(command("model=gpt2_tiny", *named, *options, *folders), check=True, stdout=sys.stderr)
    return (folder / "runs" / "trained" / "weights" / "last").resolve()


def _against_generate(
    title: str,
    model: Any,
    tokenizer: DialogueTokenizer,
    contexts: list[list[int]],
    decoding: Decoding,
    rounds: int,
) -> None:
    size = max(1, BATCH_TOKENS // (max(map(len, contexts)) + NEW))
    lengths: list[int] = []

    def ours() -> None:
        made = generate(
            model, tokenizer, contexts, decoding=decoding, seeds=range(len(contexts)), max_new_tokens=NEW,
            batch_tokens=BATCH_TOKENS,
        )  # fmt: skip
        lengths[:] = [len(ids) + ended for _, ids, ended in made]

    sampling = {"do_sample": True, "top_k": 0} if decoding.kind == "sample" else {"do_sample": False}

    def generated() -> None:
        with padded_attention(model):
            for first in range(0, len(contexts), size):
                batch = tokenizer.hf_tokenizer.pad({"input_ids": contexts[first : first + size]}, return_tensors="pt")
                model.generate(**batch, max_new_tokens=NEW, **sampling)

    ways = _measure_interleaved({"ours": ours, "generate": generated}, rounds)
    print(f"{title}: {len(contexts)} replies, {statistics.mean(lengths):.1f} tokens each")
    for name, (clock, processor) in ways.items():
        print(f"  {name:9} {_rates(clock, len(contexts))} wall time, {_rates(processor, len(contexts))} CPU time")
    print(f"  ours / generate: {_ratios(ways['generate'], ways['ours'])}", flush=True)


def _against_original(
    model: Any,
    tokenizer: DialogueTokenizer,
    contexts: list[list[int]],
    first_turns: list[list[int]],
    rounds: int,
) -> None:
    turns = iter(first_turns * rounds)

    def ours() -> None:
        list(
            generate(
                model, tokenizer, contexts, decoding=GREEDY, seeds=range(len(contexts)), max_new_tokens=NEW,
                batch_tokens=BATCH_TOKENS,
            )
        )  # fmt: skip

    def original() -> None:
        ids = list(next(turns))
        with torch.no_grad(), padded_attention(model):
            while len(ids) < MAX_LEN:
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))

    ways = _measure_interleaved({"ours": ours, "original": original}, rounds)
    dialogues = len(first_turns)
    clock, processor = ways["ours"]
    each = [seconds / dialogues for seconds in clock], [seconds / dialogues for seconds in processor]
    body = sum(p.numel() for name, p in model.named_parameters() if ".h." in name)
    head = model.get_output_embeddings().weight.numel()
    read = sum(len(contexts[chain[-1]]) for chain in group_by_prefix(contexts))
    generated = len(contexts) * NEW
    first = sum(map(len, first_turns[:rounds])) / min(rounds, dialogues)
    again = sum(range(round(first), MAX_LEN))
    work = {
        "ours": 2e-9 * (body * read + (body + head) * generated) / dialogues,
        "original": 2e-9 * (body + head) * again,
    }
    print(
        f"a dialogue, {len(contexts) / dialogues:.1f} replies of {NEW} tokens, compared with one reply of the original to {MAX_LEN}:"
    )
    for name, (clock, processor) in {"ours": each, "original": ways["original"]}.items():
        rate = work[name] / statistics.median(processor)
        print(
            f"  {name:9} {statistics.median(clock):.2f} s ({min(clock):.2f} to {max(clock):.2f}) wall time, "
            f"{statistics.median(processor):.2f} s CPU time; {work[name]:.0f} GFLOP in matrix products, {rate:.0f} GFLOP/s"
        )
    apart = sum(map(len, contexts))
    print(
        f"  read {read / dialogues:.0f} tokens a dialogue ({apart / dialogues:.0f} without prefix sharing), generated {generated / dialogues:.0f}"
    )
    print(f"  original / ours: {_ratios(ways['original'], each)}; by operations {work['original'] / work['ours']:.0f}")


def _measure_interleaved(
    ways: dict[str, Callable[[], None]], rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Wall and CPU seconds of each method in each round."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            way()
            found[name][0].append(time.perf_counter() - clock)
            found[name][1].append(time.process_time() - processor)
    return found


def _rates(seconds: list[float], count: int) -> str:
    rates = sorted(count / one for one in seconds)
    return f"{statistics.median(rates):.1f}/s ({rates[0]:.1f} to {rates[-1]:.1f})"


def _ratios(many: tuple[list[float], list[float]], few: tuple[list[float], list[float]]) -> str:
    clock, processor = (statistics.median(many[kind]) / statistics.median(few[kind]) for kind in (0, 1))
    return f"{clock:.1f} wall time, {processor:.1f} CPU time"


def _products(size: int = 1024, times: int = 10) -> float:
    """GFLOP/s of square matrix products: the peak of the machine."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return 2e-9 * size**3 / min(seconds)


if __name__ == "__main__":
    main()
