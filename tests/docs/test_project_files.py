"""The files of the project itself: CI and hooks call make targets that exist, versions agree."""

import re
import shlex
import tomllib

import yaml

from dialog_trainer import __version__
from dialog_trainer.cli.guard import REQUIRED_MODULES
from tests.helpers.pages import ROOT

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_ci_calls_make_targets_for_every_version_of_python():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = {words[1] for words in map(shlex.split, commands) if words[0] == "make"}
    assert called >= {"install", "lint", "test", "check-extras", "release-check"}
    assert called <= TARGETS
    assert len(commands) == sum(command.startswith("make ") for command in commands)
    matrix = jobs["test"]["strategy"]["matrix"]
    lowest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert matrix["python"][0] == lowest.group(1)
    kinds = {*matrix["versions"], *(entry["versions"] for entry in matrix["include"])}
    assert kinds == set(re.findall(r"^INSTALL_(\w+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_hooks_call_make_targets():
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    assert all(words[0] == "make" and {*words[1:]} <= TARGETS for words in entries)


def test_a_missing_package_is_known_by_the_name_of_its_module():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w-]+", one).group() for one in project["dependencies"]}
    modules = {"hydra-core": "hydra", "pyyaml": "yaml"}
    assert {modules.get(name, name) for name in names} == REQUIRED_MODULES


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(
        rf"^## {re.escape(__version__)} \(", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
