"""The blocks of shell and Python on the pages: every command is composed and checked, those of the front page run."""

import io
import json
import os
import re
import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from dialog_trainer.cli import compose, saved_config, several_runs
from dialog_trainer.cli.flags import parse_flags
from dialog_trainer.cli.original_flags import answer_original_flags
from dialog_trainer.cli.overrides import prepare_overrides
from dialog_trainer.cli.run_folders import find_runs
from dialog_trainer.data.sources.row_format import parse_row
from dialog_trainer.errors import DialogTrainerError
from dialog_trainer.masking.schedules import RoleWeights
from tests.helpers.pages import ROOT, blocks_in, blocks_of

RUNS = ("outputs/laptop/mine", "outputs/gpt2/daily_dialog_chatbot", "outputs/gpt2/other", "multirun/mask/a")
# What stands for something of the reader's, and what it is in these tests.
PLACEHOLDERS = {
    "<run>": RUNS[1], "<other>": RUNS[2], "<folder>": "dialogues", "<model>": "gpt2", "<owner/name>": "owner/name",
}  # fmt: skip
# Commands that no test runs: they install, fetch, or need a hub, a GPU, a cluster or another program.
NOT_RUN = ("pip install", "uv pip install", "git ", "pre-commit ", "python -m venv", ". .venv/", "tensorboard ")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
TOY = [
    "steps=4", "model.layers=1", "model.width=16", "model.heads=2", "model.vocab_size=300", "batch_size=8",
    "metrics.max_dialogues=2", "metrics.generation.max_new_tokens=4", "figures.enabled=false", "device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(_trained_once, jsonl_folder, tmp_path_factory) -> Path:
    """A folder with all that the commands of the pages name: data, runs, modules of the reader's own."""
    folder = tmp_path_factory.mktemp("reader")
    for run in RUNS:
        shutil.copytree(_trained_once, folder / run, symlinks=True)
        as_run_of_files(folder / run / "args.yaml", jsonl_folder)
    shutil.copytree(jsonl_folder, folder / "dialogues")
    shutil.copytree(jsonl_folder, folder / "chats")
    shutil.copy(jsonl_folder / "train.jsonl", folder / "my.jsonl")
    shutil.copy(jsonl_folder / "test.jsonl", folder / "test_multiref.jsonl")
    (folder / "my.csv").write_text("prompt,completion\nHi,Hello\n", encoding="utf-8")
    (folder / "config.yaml").write_text("steps: 3000\nbatch_size: 16\ndailydialog_train: True\n", encoding="utf-8")
    (folder / "logs").mkdir()
    for path in (ROOT / "docs" / "extending").glob("*.py"):
        shutil.copy(path, folder)
    [schedule] = [block for block in blocks_of(ROOT / "docs" / "masks.md") if block.language == "python"]
    (folder / "my_package.py").write_text(schedule.text, encoding="utf-8")
    return folder


def as_run_of_files(path: Path, data: Path) -> None:
    """Gives the options of a saved run other data: files of the reader's own."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    source = {"_target_": "dialog_trainer.data.sources.Files", "train_data_path": str(data / "train.jsonl")}
    rest = {
        "validation_data_path": None,
        "test_data_path": None,
        "validation_share": 0.05,
        "columns": None,
        "roles": None,
    }
    shared = {key: value for key, value in tree["data"].items() if key != "path" and not key.startswith(("hub", "_"))}
    path.write_text(yaml.safe_dump(tree | {"data": source | rest | shared}), encoding="utf-8")


@pytest.fixture
def inside(place, monkeypatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    return place


def arguments_of(words: list[str]) -> list[str] | None:
    """The arguments of a command of dialog_trainer, also under torchrun or srun; None for another command."""
    line = shlex.join(words)
    for known, real in PLACEHOLDERS.items():
        line = line.replace(known, real)
    words = shlex.split(line)
    if words[0] == "dialog-trainer":
        return words[1:]
    if words[0] in ("python", "torchrun", "srun") and "dialog_trainer" in words:
        return words[words.index("dialog_trainer") + 1 :]
    return None


def check(arguments: list[str]) -> None:
    """Composes and checks a command line as it would be before it starts. Raises `DialogTrainerError`."""
    answer = answer_original_flags(arguments)
    if answer:
        [arguments] = [shlex.split(line)[6:] for line in answer.splitlines() if "the same here:" in line]
    flags = parse_flags(arguments)
    overrides = prepare_overrides(flags.overrides)
    if flags.shows or "--help" in flags.given:
        return
    if saved_config.find_mode(overrides):
        places = several_runs.read_places(overrides)
        overrides += [f"resume_model_dir={folder}" for folder, _ in (find_runs(places[0]) if places else ())]
        saved_config.load_changed_job(overrides, flags.config_dir)
    else:
        compose.compose_runs(overrides, flags.config_dir, "--multirun" in flags.given)


def one_of_each(arguments: list[str]) -> list[str]:
    """A sweep as one run: of each list the first value."""
    if "-m" not in arguments:
        return arguments
    return [re.sub(r"=([^\[{,]+),.*", r"=\1", word) for word in arguments if word != "-m"]


@pytest.mark.slow
def test_every_command_is_one_that_the_program_takes(inside):
    wrong, seen = [], set()
    for block in blocks_in("bash"):
        for words in block.commands:
            line = shlex.join(words)
            if line in seen or line.startswith(NOT_RUN):
                continue
            seen.add(line)
            if words[0] == "make":
                wrong += [f"{block.page}:{block.line}: {line}"] * (not {*words[1:]} - {"TORTURE_SCALE=0.1"} <= TARGETS)
                continue
            if words[0] == "python" and (ROOT / words[1]).is_file():
                continue
            arguments = arguments_of(words)
            try:
                check(one_of_each(arguments or []))
            except DialogTrainerError as error:
                wrong.append(f"{block.page}:{block.line}: {line}: {error}")
            wrong += [f"{block.page}:{block.line}: {line}: no known program"] * (arguments is None)
    assert wrong == []
    assert len(seen) > 30


@contextmanager
def keyboard(text: bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        yield


@pytest.mark.slow
def test_the_front_page_leads_from_data_to_a_chat(inside, dialog_trainer):
    shutil.rmtree(inside / RUNS[0])
    [start, further] = [
        block for block in blocks_of(ROOT / "README.md") if block.language == "bash" and "laptop" in block.text
    ]
    for words in [*start.commands, *further.commands[:2]]:
        arguments = arguments_of(words)
        with keyboard(b"I heard that the cat likes green tea .\n"):
            code, out, err = dialog_trainer(*arguments, *(TOY if "experiment=laptop" in arguments else []))
        assert code == 0, (words, out, err)
        if "mode=chat" in arguments:
            assert len(out.splitlines()) == 1
    assert (inside / "outputs/laptop/mine/validation/validation/response/scores.md").exists()


def test_blocks_of_python_run(inside, capsys):
    found = blocks_in("python")
    assert len({block.text for block in found}) >= 3
    for text in {block.text for block in found}:
        names: dict[str, object] = {}
        exec(compile(text, "page", "exec"), names)
        if "schedule" in names:
            assert names["schedule"](0.25, speed=2) == RoleWeights(user=0.5, assistant=1.0)
    assert capsys.readouterr().out.count("\n") >= 3
    assert os.listdir("outputs")


def test_rows_of_json_are_dialogues():
    rows = [line for block in blocks_in("json") for line in block.text.splitlines()]
    assert len(rows) > 5
    assert [row for row in rows if len(parse_row(json.loads(row))) < 2] == []
