"""Measures how fast rows of JSON are read: `python benchmarks/reading.py [rows]`. Times are reported, not asserted.

One file of JSON lines, each with four `messages`. Each way reads it in a process of its own: rows a second of processor
time, and peak memory beyond that after the imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS = 1_000_000
WAYS = {
    "json.loads of each line": "count = sum(1 for line in open(path, 'rb') if json.loads(line))",
    "dialogues of data=files": "count = sum(1 for _ in Files(path, path, None, 0.1).dialogues('train'))",
    "data=files, cleaned and written to the cache": (
        "count = len(open_dialogues(Files(path, path, None, 0.1), 'train', pathlib.Path(folder), lambda line: None))"
    ),
    "datasets, rows one by one": (
        "count = sum(1 for _ in datasets.load_dataset('json', data_files=path, split='train', streaming=True))"
    ),
    "datasets, written to its cache": (
        "count = len(datasets.load_dataset('json', data_files=path, split='train', cache_dir=folder))"
    ),
}
READ = """
import json, pathlib, resource, sys, time
import datasets
from dialog_trainer.data.dataset import open_dialogues
from dialog_trainer.data.sources import Files
datasets.disable_progress_bars()
path, folder = sys.argv[1:]
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
{way}
print(count, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps({'messages': messages(number)})}\n" for number in range(rows))
        for name, way in WAYS.items():
            command = [sys.executable, "-c", READ.format(way=way), str(path), f"{folder}/{len(name)}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            count, seconds, kib = map(float, done.stdout.split())
            print(f"{name}: {count / seconds:,.0f} rows/s, {kib / 1024:,.0f} MiB", flush=True)


def messages(number: int) -> list[dict[str, str]]:
    roles = ("user", "assistant") * 2
    return [
        {"role": role, "content": f"Turn {turn} of dialogue {number} , and so on ."} for turn, role in enumerate(roles)
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
