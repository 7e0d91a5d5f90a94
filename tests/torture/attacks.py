"""A stranger's files as canaries: each attack is refused or without effect, and what lies outside stays whole.

The first rows are whole commands on a stranger's run folder; the last ones count the tests that hold the other attacks.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

import torch
from helpers.processes import PYTHONPATH, ROOT
from safetensors.torch import load_file, save_file

from tests.torture.trials import Row, digest, execute, find_traceback, resume_options

# What a canary would be touched by.
SECRET = "precious\n"
SUITES = {
    "files of a stranger's --config-dir": ["tests/cli/test_config_dir_attacks.py"],
    "files of dialogues, and their bounds": ["tests/data/sources/test_hostile_files.py"],
    "settings, states and tensors of a run": [
        "tests/cli/test_saved_config.py", "tests/cli/test_plain_yaml.py", "tests/training/test_checkpoint.py",
        "tests/model/test_loading.py", "tests/test_files.py",
    ],
    "text on the screen and in pages": ["tests/test_screen.py", "tests/reporting/test_mask_page.py"],
}  # fmt: skip


class Stranger:
    """A copy of a run in which somebody has changed something; `outside` holds what must stay whole."""

    def __init__(self, place: Path, straight: Path):
        self.place, self.run, self.outside = place, place / "runs/run", place / "outside"
        self.cache = straight.parents[1] / "cache"
        shutil.copytree(straight, self.run)
        (self.outside / "step-00000777").mkdir(parents=True)
        (self.outside / "step-00000777/precious").write_text(SECRET)
        (self.outside / "victim").write_text(SECRET)
        (self.outside / "ppl.png").write_text(SECRET)
        self.canary = place / "canary"

    @property
    def checkpoints(self) -> list[Path]:
        return sorted(path for path in (self.run / "weights").iterdir() if (path / "manifest.json").exists())

    def renew_manifests(self) -> None:
        """It is no secret: any stranger can write a fitting one."""
        for folder in self.checkpoints:
            files = {
                path.relative_to(folder).as_posix(): [path.stat().st_size, digest(path)]
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != "manifest.json"
            }
            (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))

    def find_harm(self) -> str | None:
        """What an attack did outside of the run."""
        if self.canary.exists():
            return "the canary sang: code of the stranger ran"
        found = {
            path.relative_to(self.outside).as_posix(): path for path in self.outside.rglob("*") if not path.is_dir()
        }
        if sorted(found) != ["ppl.png", "step-00000777/precious", "victim"]:
            return f"outside lie {sorted(found)}"
        return next((f"{name} has changed" for name, path in found.items() if path.read_text() != SECRET), None)


def link(name: str, target: str) -> Callable[[Stranger], None]:
    def attack(stranger: Stranger) -> None:
        path = stranger.run / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(stranger.outside / target)

    return attack


def link_weights(stranger: Stranger) -> None:
    """`weights` leads to a folder in which the checkpoints lie, beside one of its owner's."""
    for path in (stranger.run / "weights").iterdir():
        path.rename(stranger.outside / path.name)
    (stranger.run / "weights").rmdir()
    (stranger.run / "weights").symlink_to(stranger.outside)


def set_code(name: str) -> Callable[[Stranger], None]:
    """A class of its own, beside the file of the checkpoint that asks for it."""

    def attack(stranger: Stranger) -> None:
        maps = {
            "config.json": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
            "tokenizer_config.json": {"AutoTokenizer": ["evil.T", None]},
        }
        for folder in stranger.checkpoints:
            config = json.loads((folder / name).read_text())
            config |= {"model_type": "evilmodel", "tokenizer_class": "T", "auto_map": maps[name]}
            (folder / name).write_text(json.dumps(config))
            (folder / "evil.py").write_text(f"open({str(stranger.canary)!r}, 'w')\n")
        stranger.renew_manifests()

    return attack


def cut_moments(stranger: Stranger) -> None:
    for folder in stranger.checkpoints:
        path = folder / "trainer/optimizer.safetensors"
        tensors = {k: torch.zeros(1) if k.startswith("exp_avg") else v for k, v in load_file(path).items()}
        save_file(tensors, path)
    stranger.renew_manifests()


def name_outside(stranger: Stranger) -> None:
    for folder in stranger.checkpoints:
        manifest = json.loads((folder / "manifest.json").read_text())
        victim = stranger.outside / "victim"
        manifest["files"][str(victim)] = [victim.stat().st_size, digest(victim)]
        (folder / "manifest.json").write_text(json.dumps(manifest))


class Song:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def pickle_weights(stranger: Stranger) -> None:
    for folder in stranger.checkpoints:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Song(str(stranger.canary))))
    stranger.renew_manifests()


def set_args(old: str, new: str) -> Callable[[Stranger], None]:
    def attack(stranger: Stranger) -> None:
        path = stranger.run / "args.yaml"
        lines = path.read_text().splitlines()
        new_line = new.replace("CANARY", str(stranger.canary)).replace("OUTSIDE", str(stranger.outside))
        path.write_text("\n".join(new_line if line.startswith(old) else line for line in lines) + "\n")

    return attack


CHAT, VALIDATE, RESUME = "chat", "validate", "resume"
REFUSED, ANY = (2,), (0, 1, 2)
# Attack -> what is done to the run, the commands of the reader, and the exit codes that are right.
ATTACKS: dict[str, tuple[Callable[[Stranger], None], tuple[str, ...], tuple[int, ...]]] = {
    "S1 a link in place of the copy of args.yaml": (link(".args.yaml", "victim"), (RESUME,), ANY),
    "S1 a command in args.yaml": (set_args("project:", "project: $(touch CANARY)"), (RESUME, VALIDATE), ANY),
    **{
        f"S2 {name} as a link": (link(name, target), (RESUME, VALIDATE), ANY)
        for name, target in (
            ("args.yaml", "victim"), ("metrics.jsonl", "victim"), ("replies.jsonl", "victim"), ("vis_outputs", "."),
            ("logs", "."), ("logs/rank-0.log", "victim"), (".hydra", "."), ("evaluation", "."),
        )
    },
    "S2 weights/last as a link": (link("weights/last", "step-00000777"), (RESUME, VALIDATE), ANY),
    "S3 code by config.json": (set_code("config.json"), (CHAT, VALIDATE, RESUME), REFUSED),
    "S3 code by tokenizer_config.json": (set_code("tokenizer_config.json"), (CHAT, VALIDATE, RESUME), ANY),
    "S4 tensors of other shapes": (cut_moments, (RESUME,), REFUSED),
    "S10 a class of its own": (
        set_args("allow_targets:", "allow_targets: [os.system]\nmask_schedule: {_target_: os.system, command: touch CANARY}"),
        (RESUME, VALIDATE), REFUSED,
    ),
    "S10 a tag of Python": (set_args("seed:", 'seed: !!python/object/apply:os.system ["touch CANARY"]'), (RESUME,), REFUSED),
    "S12 pickled weights": (pickle_weights, (CHAT, RESUME), (1, 2)),
    "S13 a manifest that names what lies outside": (name_outside, (RESUME, CHAT), REFUSED),
    "S18 many processes": (set_args("processes:", "processes: 64"), (VALIDATE,), ANY),
    "S16 escapes in a name": (set_args("name:", 'name: "a\\e]0;title\\a"'), (VALIDATE, RESUME), ANY),
}  # fmt: skip


def run(count: int, seed: int, folder: Path, straight: Path) -> list[Row]:
    """All attacks; at a small scale (`count` 0 or a smoke test) they are the same, for each is another."""
    rows = [Row("a stranger's run folder")]
    for index, name in enumerate(ATTACKS):
        for mode in ATTACKS[name][1]:
            rows[0].try_out(lambda n=name, m=mode, i=index: attack(folder / f"{i}-{m}", straight, n, m))
    rows[0].try_out(lambda: attack_weights(folder / "weights", straight))
    rows.append(Row("S9 a pickle to run again"))
    for flags in (["--cfg", "job"], ["--help"], ["mode=train"], ["-m"]):
        rows[1].try_out(lambda f=flags: rerun(folder / "rerun", f))
    return [*rows, *(run_suite(name, files, folder) for name, files in SUITES.items())]


def attack(place: Path, straight: Path, name: str, mode: str) -> str | None:
    change, _, codes = ATTACKS[name]
    stranger = Stranger(place, straight)
    change(stranger)
    more = [] if mode != RESUME else ["steps=32"]
    options = [f"mode={mode}", *resume_options(stranger.run, *more)[1:]]
    # Of a chat the input is empty, and what asks a question would wait or fail.
    code, output = execute(options, place, stranger.cache)
    problem = stranger.find_harm() or find_traceback(output)
    if not problem and code not in codes:
        problem = f"exit code {code}"
    if not problem and "\x1b]" in output:
        problem = "an escape reached the terminal"
    if problem:
        return f"{name}, mode={mode}: {problem}: {output}"
    shutil.rmtree(place)
    return None


def attack_weights(place: Path, straight: Path) -> str | None:
    stranger = Stranger(place, straight)
    link_weights(stranger)
    before = {path: path.stat().st_mtime_ns for path in stranger.outside.rglob("*")}
    code, output = execute(resume_options(stranger.run, "steps=32"), place, stranger.cache)
    after = {path: path.stat().st_mtime_ns for path in stranger.outside.rglob("*")}
    if before != after:
        return f"weights as a link: what it leads to has changed: {output}"
    return f"weights as a link: exit code {code}: {output}" if code not in (1, 2) or "Traceback" in output else None


def rerun(place: Path, flags: list[str]) -> str | None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "x.pickle").write_bytes(pickle.dumps(Song(str(place / "canary"))))
    options = ["model=gpt2_tiny", "data=chitchat", "steps=1", *flags, "--experimental-rerun", str(place / "x.pickle")]
    _, output = execute(options, place, place / "cache")
    return f"{flags}: the pickle was loaded: {output}" if (place / "canary").exists() else find_traceback(output)


def run_suite(name: str, files: list[str], folder: Path) -> Row:
    """A row of the tests of these files."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
    environ = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    row = Row(f"tests of {name}")
    if not report.exists():
        row.add(f"the tests did not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return row
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        bad = [one for one in case if one.tag in ("failure", "error")]
        row.add(f"{case.get('classname')}.{case.get('name')}: {bad[0].get('message')}" if bad else None)
    report.unlink()
    return row
