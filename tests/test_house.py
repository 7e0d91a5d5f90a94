"""The rules of the house: who may import whom, and how large things may get."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dialog_trainer"
FILES = sorted(PACKAGE.rglob("*.py"))
# Floors from the ground up; what is not named is on the top floor. Imports only go down, or stay in their room.
FLOORS = [
    {"records", "errors", "__init__"},
    {"distributed", "tracking"},
    {"data", "masking"},
    {"model", "metrics"},
    {"training", "evaluation"},
    {"reports", "chat"},
]
TOP = len(FLOORS)


def room(module: str) -> str:
    """`dialog_trainer.data.rows` -> `data`; the package itself -> `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def floor(name: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if name in rooms), TOP)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: import *"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in names if (ROOT / Path(*name.split("."))).with_suffix(".py").exists()}
            found |= inside or {node.module}
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_only_go_down_or_stay_in_the_room(path):
    own = room(module_of(path))
    for name in imports_of(path):
        if name.startswith("dialog_trainer"):
            other = room(name)
            assert other == own or floor(other) < floor(own) or floor(own) == TOP, f"{path} imports {name}"


def test_no_file_imports_itself_by_a_way_around():
    graph = {module_of(path): {n for n in imports_of(path) if n.startswith("dialog_trainer.")} for path in FILES}

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            for name in graph.get(todo.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen

    assert [name for name in graph if name in reached(name)] == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_libraries_stay_where_they_belong(path):
    module, libraries = module_of(path), {name.split(".")[0] for name in imports_of(path)}
    if floor(room(module)) < TOP:
        assert not libraries & {"hydra", "omegaconf"}
    if room(module) == "metrics" or module in (
        "dialog_trainer.options",
        "dialog_trainer.checks",
        "dialog_trainer.composition",
    ):
        assert not libraries & {"torch", "transformers"}
    if room(module) != "distributed":
        assert not any(name.startswith("torch.distributed") for name in imports_of(path))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_names_and_sizes(path):
    assert path.stem not in {"utils", "common", "helpers", "base", "misc"}
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 360
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
        if isinstance(node, ast.ExceptHandler):
            assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), f"{path}:{node.lineno} swallows"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_each_file_says_what_it_is(path):
    assert path.name == "__main__.py" or ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_test_is_left_behind_by_a_marker():
    marker = re.compile(r"mark\.(skip|skipif|xfail)\b|pytest\.(skip|xfail)\(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__)
        for line in path.read_text(encoding="utf-8").splitlines()
        if marker.search(line)
    ]
    assert sorted(found) == [
        'conftest.py: pytest.skip("DIALOG_TRAINER_TEST_DATA is not set")',
        'test_mask_page.py: pytest.skip("chromium is not installed")',
    ]


def test_no_tracked_file_names_a_place_of_one_machine():
    place = re.compile(r"(?<![\w.])/(work|root|home|farm)/\w|https?://\S*(pypi|simple)\b")
    text_files = [path for path in tracked() if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".sh", ""}]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in text_files
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if place.search(line)
    ]
    assert found == []
