"""Readers of the branches from which jobs of a sweep fork, and of chat templates: for `fuzz_readers`, which see."""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

from dialog_trainer.cli.commands.branches import replay_best, take_branch
from dialog_trainer.cli.commands.fork import find_start
from dialog_trainer.cli.main import main
from dialog_trainer.data.template_format import TemplateFormat
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import CheckpointError, DataError, ModelError
from dialog_trainer.tracking.jsonl import read_rows
from dialog_trainer.training.checkpoint import MANIFEST, write_manifest
from dialog_trainer.training.saved_state import read_state
from dialog_trainer.types import Dialogue, Role, Turn
from tests.conftest import options_of_a_tiny_run
from tests.helpers.templates import SHAPES, make_tokenizer
from tests.torture.fuzz_readers import Reader, put_beside
from tests.torture.trials import write_dialogues

BRANCH = "branches/step-00000003"
START = f"{BRANCH}/start/step-00000003"
TEMPLATE_FILE = "chat_template.jinja"


@cache
def branch_files() -> dict[str, bytes]:
    """The branch of a run of four updates."""
    with tempfile.TemporaryDirectory() as place, redirect_stdout(io.StringIO()):
        folder = Path(place)
        options = options_of_a_tiny_run(write_dialogues(folder / "dialogues"), folder)
        more = ["steps=4", "validate_every_n_steps=2", "metrics.max_new_tokens=2", "patience=0", "sweep.keep_at=[3]"]
        if main([*options, *more]):
            raise RuntimeError("the run could not be trained")
        found = sorted((folder / "runs/run" / BRANCH).rglob("*"))
        return {path.relative_to(folder / "runs/run").as_posix(): path.read_bytes() for path in found if path.is_file()}


def read_branch(folder: Path) -> object:
    """What a run takes from the branch before it trains. The manifests fit: a stranger can write them."""
    put_beside(folder, branch_files())
    branch = folder / BRANCH
    places = sorted((path.parent for path in branch.rglob(MANIFEST)), reverse=True)
    for place in places:  # that of the branch, which names the others, comes last
        (place / MANIFEST).unlink()
        write_manifest(place)
    start = find_start(branch)
    if start.damage:
        return start
    saved, best_at = read_state(branch, start.checkpoint), replay_best(branch, counts_after=1)
    (folder / "fork").mkdir()
    take_branch(branch, folder / "fork", saved.step, {"run_id": None}, best_at)
    return list(read_rows(folder / "fork/metrics.jsonl"))


@cache
def template_files() -> dict[str, bytes]:
    """A tokenizer that has the special tokens of ChatML."""
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer("chatml").save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != TEMPLATE_FILE}


def read_template(folder: Path) -> object:
    put_beside(folder, template_files())
    chat_format = DialogueTokenizer.pretrained(str(folder), TemplateFormat).chat_format
    turns = [Turn(Role.USER, "Hi ."), Turn(Role.ASSISTANT, "Yes , [INST] it is ."), Turn(Role.USER, "한국어 🙂")]
    try:
        found = chat_format.encode_dialogues([Dialogue("d", tuple(turns))], 200, "split")
        return found, chat_format.encode_contexts(turns, [1], 200)
    except DataError as error:  # of a dialogue that the template changes
        return error


def reader_of_branch(name: str, file_name: str) -> Reader:
    return Reader(name, file_name, lambda: [branch_files()[file_name]], read_branch, CheckpointError)


BRANCH_READERS = [
    reader_of_branch("state.json of a branch", f"{START}/trainer/state.json"),
    reader_of_branch("metrics.jsonl of a branch", f"{BRANCH}/metrics.jsonl"),
    reader_of_branch("state.json in a branch", f"{BRANCH}/weights/last/trainer/state.json"),
    Reader(
        "chat template", TEMPLATE_FILE, lambda: [SHAPES[name][0].encode() for name in SHAPES], read_template, ModelError
    ),
]  # fmt: skip
