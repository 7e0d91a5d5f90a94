"""Measures start-up, validation and memory of whole runs: `make bench-start`. Times are reported, not asserted.

1. `--help`, and the first optimizer step of `make demo`, in seconds from the start of the process.
2. Validating one dialogue (a reply to each of its contexts), compared with the original program's generation (from the
   first utterance, one token at a time, without a KV cache, always to 128 tokens): same model and dialogues, interleaved.
3. Peak memory of a run on 10,000 and on 1,000,000 synthetic dialogues.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dialog_trainer.data.sources.protocol import DialogueSource

ROUNDS = 5
MAX_LEN = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["start", "validation", "memory", []], help="default: all")
    parser.add_argument("--dialogues", type=int, nargs=2, default=(10_000, 1_000_000), metavar=("FEW", "MANY"))
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    parts = arguments.parts or ["start", "validation", "memory"]
    with tempfile.TemporaryDirectory() as folder:
        if "start" in parts:
            measure_start(Path(folder))
        if "validation" in parts:
            measure_validation(Path(folder))
        if "memory" in parts:
            measure_memory(Path(folder), *arguments.dialogues)


def spread(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} runs)"


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "dialog_trainer", *overrides]


def measure_start(folder: Path) -> None:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run(command("--help"), check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    print(f"--help: {spread(times)}")
    for title, rounds in (("cold", 2), ("warm", 3)):
        times = []
        for index in range(rounds):
            cache = folder / (f"cold-{index}" if title == "cold" else "cold-0")
            times.append(_seconds_to_first_step(folder / "runs", cache))
        print(f"first step of the demo, {title} data cache: {spread(times)}")


def _seconds_to_first_step(project: Path, cache: Path) -> float:
    overrides = ("experiment=demo_scratch", "steps=2", f"project={project}", f"data.cache_dir={cache}")
    start = time.perf_counter()
    with subprocess.Popen(command(*overrides), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if re.match(r"step 1/", line):
                seconds = time.perf_counter() - start
                process.kill()
                return seconds
    raise SystemExit("the demo did not reach its first step")


def measure_validation(folder: Path, dialogues: int = 32, rounds: int = 3) -> None:
    import random_gpt2
    import torch

    from dialog_trainer.data.dataset import open_dialogues
    from dialog_trainer.data.tokenizer import DialogueTokenizer
    from dialog_trainer.evaluation.contexts import build_contexts, sample_dialogues
    from dialog_trainer.evaluation.protocols import ReplySettings, generate_replies
    from dialog_trainer.model.loading import load_pretrained
    from dialog_trainer.model.packed_forward import padded_attention, use_packed_attention
    from dialog_trainer.types import Role

    random_gpt2.write(folder / "gpt2", layers=12, heads=12, width=768)
    tokenizer = DialogueTokenizer.pretrained(str(folder / "gpt2"))
    model = load_pretrained(str(folder / "gpt2"), tokenizer, dropout=None).eval()
    use_packed_attention(model, MAX_LEN)
    source, name = _source()
    table = open_dialogues(source, "validation", folder / "cache", say=lambda line: None)
    drawn_dialogues = [table[index] for index in sample_dialogues(table, dialogues)]
    contexts = [c for one in drawn_dialogues for c in build_contexts(one, tokenizer, MAX_LEN - 40, {Role.ASSISTANT})]
    ours, original = [], []
    for round_number in range(rounds):
        start = time.perf_counter()
        generate_replies(contexts, model, tokenizer, ReplySettings(Role.ASSISTANT, 40, MAX_LEN, batch_tokens=8192))
        ours.append((time.perf_counter() - start) / dialogues)
        start = time.perf_counter()
        first_turn = drawn_dialogues[round_number].turns[0].text
        ids = [
            tokenizer.special_tokens.start,
            *tokenizer.encode_batch([first_turn])[0],
            tokenizer.special_tokens.separator,
        ]
        with torch.no_grad(), padded_attention(model):
            while len(ids) < MAX_LEN:
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        original.append(time.perf_counter() - start)
    each = len(contexts) / dialogues
    print(
        f"124 M random weights, {name}: a dialogue (of {dialogues} in one call, {each:.1f} replies each): {spread(ours)}"
    )
    print(f"the original's generation, a dialogue (one reply, to {MAX_LEN} tokens): {spread(original)}")
    ratio = statistics.median(original) / statistics.median(ours)
    print(f"a dialogue: 1/{ratio:.0f} of the original's time; a reply: 1/{ratio * each:.0f}")


def _source() -> tuple[DialogueSource, str]:
    from dialog_trainer.data.sources.chitchat import ChitChat
    from dialog_trainer.data.sources.dailydialog import DailyDialog

    data = os.environ.get("DIALOG_TRAINER_TEST_DATA")
    if data:
        return DailyDialog(str(Path(data) / "dailydialog"), "", None, ""), "DailyDialog"
    return ChitChat(), "chitchat"


def measure_memory(folder: Path, few: int, many: int) -> None:
    peaks = {}
    for count in (few, many):
        path = folder / f"{count}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for index in range(count):
                file.write(
                    json.dumps({"turns": [f"What is number {index % 997} ?", f"It is {index % 991} , my friend ."]})
                    + "\n"
                )
        held_out = folder / "held_out.jsonl"
        held_out.write_text('{"turns": ["Hello !", "Hi ."]}\n' * 10, encoding="utf-8")
        start = time.perf_counter()
        peaks[count] = _peak_memory(folder, path, held_out)
        print(
            f"{count:,} dialogues: peak {peaks[count][0]:,.0f} MiB resident, {peaks[count][1]:,.0f} MiB of it private "
            f"(the rest are pages of mapped files), {time.perf_counter() - start:.0f} s"
        )
    print(f"many / few, private: {peaks[many][1] / peaks[few][1]:.3f}; resident: {peaks[many][0] / peaks[few][0]:.3f}")


def _peak_memory(folder: Path, train: Path, held_out: Path) -> tuple[float, float]:
    """Peak resident and anonymous memory of a run on these files, in MiB."""
    overrides = (
        "model=gpt2_tiny", "data=jsonl", f"data.train_data_path={train}", f"data.validation_data_path={held_out}",
        f"data.cache_dir={folder / 'memory'}", f"project={folder / 'runs'}", "steps=200", "metrics.max_dialogues=10",
        "data.workers=1", "precision=fp32",
    )  # fmt: skip
    resident = anonymous = 0.0
    with subprocess.Popen(command(*overrides), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            except OSError:
                break
            values = {key: int(value) / 1024 for key, value in re.findall(r"(VmRSS|RssAnon):\s+(\d+) kB", status)}
            resident = max(resident, values.get("VmRSS", 0))
            anonymous = max(anonymous, values.get("RssAnon", 0))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit("the run failed")
    return resident, anonymous


if __name__ == "__main__":
    main()
