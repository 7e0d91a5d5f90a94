"""The rules of the house: floors, sizes, names, words."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dialog_trainer"
FILES = sorted(PACKAGE.rglob("*.py"))
# Rooms by floor, from the ground up. A room may import rooms on lower floors, and on its own floor only what is listed.
FLOORS = [
    {"amounts", "command_line", "types", "errors", "screen", "seeds", "signals", "__init__"},
    {"files", "streams"},
    {"config", "data", "masking", "metrics", "distributed"},
    {"training", "model", "tracking"},
    {"evaluation"},
    {"build", "reporting", "sweeps"},
    {"cli"},
    {"api"},
    {"__main__"},
]
SAME_FLOOR = {("config", "masking"), ("config", "metrics"), ("sweeps", "reporting")}


def room(module: str) -> str:
    """`dialog_trainer.data.packing` -> `data`; the package itself -> `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: import *"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {name for name in names if _is_module(name)}
            found |= inside or {node.module}
    return found


def _is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path):
    own = room(module_of(path))
    if own == "__init__":  # the public API's door names what is above it, and imports it when it is asked for
        return
    for name in imports_of(path):
        if name.startswith("dialog_trainer"):
            other = room(name)
            allowed = other == own or floor(other) < floor(own) or (own, other) in SAME_FLOOR
            assert allowed, f"{path} imports {name}"


def test_no_import_circles():
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
def test_libraries_stay_in_their_rooms(path):
    module, names = module_of(path), imports_of(path)
    libraries = {name.split(".")[0] for name in names}
    if room(module) != "cli":
        assert not libraries & {"hydra", "omegaconf"}
    if room(module) in ("config", "metrics"):
        assert not libraries & {"torch", "transformers"}
    if room(module) != "distributed":
        assert not any(name.startswith("torch.distributed") for name in names)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_names_and_sizes(path):
    assert path.stem not in {"utils", "common", "helpers", "base", "misc"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([one for one in arguments if one.arg not in ("self", "cls")])
            assert count <= 8 or node.name == "__init__", f"{path}: {node.name} has {count} parameters"
        if isinstance(node, ast.ExceptHandler):
            assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), f"{path}:{node.lineno} swallows"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_everything_is_printed_through_the_screen(path):
    """Elsewhere a text of data or settings could send escapes to a terminal, or megabytes."""
    own = {"screen.py": {"write"}, "terminal.py": {"print"}}.get(path.name, set())
    found = []
    for node in (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)):
        called = ast.unparse(node.func)
        method = called.rpartition(".")[2]
        to_screen = (
            called == "print" or (method == "print" and "." in called) or re.search(r"(std\w+|stream)\.write", called)
        )
        if to_screen and method not in own:
            found.append(f"{path.name}:{node.lineno}: {called}")
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_each_module_has_a_docstring(path):
    assert ast.get_docstring(tree_of(path))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_skips_are_few_and_known():
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
        'conftest.py: pytest.skip("chromium is not installed")',
    ]


def test_tests_mirror_the_package():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - rooms <= {"helpers", "benchmarks", "saved_runs", "docs", "torture"}


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
