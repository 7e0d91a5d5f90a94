"""Mutated inputs of every reader, in forked processes: an own error or a value, within 5 seconds and 1 GB."""

from __future__ import annotations

import json
import resource
from pathlib import Path

from helpers.processes import SERVER

from tests.torture.branch_readers import BRANCH_READERS
from tests.torture.file_readers import FILE_READERS
from tests.torture.fuzz_readers import READERS, fuzz
from tests.torture.model_readers import MODEL_READERS
from tests.torture.report_readers import REPORT_READERS
from tests.torture.run_readers import RUN_READERS
from tests.torture.trials import Row, share

ALL = {
    reader.name: reader
    for reader in (*READERS, *FILE_READERS, *RUN_READERS, *MODEL_READERS, *REPORT_READERS, *BRANCH_READERS)
}
# Of readers that build a model or a tokenizer, compose a configuration, or compare runs, for each file.
SLOW = {
    "GGUF",
    "checkpoint of the original",
    "pytorch_model.bin",
    "tokenizer",
    "tokenizer config",
    "config.json",
    "header of weights",
    "overrides",
    *(reader.name for reader in (*REPORT_READERS, *BRANCH_READERS)),
}
SECONDS_EACH = 6
# A mutation that asks for more is refused by the system, and counts as a failure.
SPARE_BYTES = 3 * 2**30


def run(count: int, seed: int, folder: Path, straight: Path) -> list[Row]:
    """`count` mutations in all: of a slow reader a quarter of what the others get."""
    weights = {name: 0.25 if name in SLOW else 1.0 for name in ALL}
    rows = []
    for name, weight in weights.items():
        row = Row(f"mutated: {name}")
        mutations = share(int(count * weight), int(sum(weights.values())))
        file = folder / "failures.json"
        process = SERVER.Process(target=fuzz_to_file, args=(name, mutations, seed, file))
        process.start()
        process.join(60 + SECONDS_EACH * mutations)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode:
            row.add(f"seed {seed}, {mutations} mutations: the process ended with {process.exitcode}")
        else:
            row.problems = [f"{row.part}: {problem}" for problem in json.loads(file.read_text())]
        row.trials = mutations
        rows.append(row)
    return rows


def fuzz_to_file(name: str, count: int, seed: int, file: Path) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    failures = fuzz(ALL[name], count, seed)
    file.write_text(json.dumps([f"seed {one.seed}, number {one.number}: {one.problem}" for one in failures]))
