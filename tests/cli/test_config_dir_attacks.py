"""A stranger's --config-dir: nothing in it runs code that was not typed, or writes where a run does not."""

import os
import pickle
import time
from functools import partial
from pathlib import Path

import pytest

from dialog_trainer.cli.main import main

pytestmark = pytest.mark.slow
GLOBAL = "# @package _global_\n"
TINY = ("model=gpt2_tiny", "data=chitchat", "device=cpu")
NICE = ("experiment=nice",)
ONLY = "of Hydra's own, only hydra/launcher and hydra/sweeper can be set"
SWEEPER = "hydra/sweeper=basic"


@pytest.fixture
def attack(attack_whole, slim_conf):
    """As `attack_whole`, over the small conf/."""
    return partial(attack_whole, typed=())


@pytest.fixture
def attack_whole(tmp_path, monkeypatch, capsys):
    """Runs a command line over a folder of these files; returns its exit code and output. Fails if a canary has sung: a
    module that was imported, a pickle that was loaded, a file that was touched, a folder that was made."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'sung')!r}, 'w')\ndef f(progress): return (1, 1)\n")
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(Sing(tmp_path / "sung")))
    (tmp_path / "victim").write_text("precious")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(work)

    def run(files, *arguments, made=(), typed=TINY):
        for name, text in files.items():
            path = tmp_path / "own" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = text if isinstance(text, bytes) else text.replace("TMP", str(tmp_path)).encode()
            path.write_bytes(content)
        environment = dict(os.environ)
        start = time.process_time()
        code = main(["--config-dir", str(tmp_path / "own"), *typed, *arguments])
        assert time.process_time() - start < 5
        assert not (tmp_path / "sung").exists()
        assert (tmp_path / "victim").read_text() == "precious"
        assert {path.name for path in tmp_path.iterdir()} <= {"work", "own", "stranger.py", "x.pickle", "victim", "__pycache__"}  # fmt: skip
        assert [path.name for path in work.iterdir()] == list(made)
        assert dict(os.environ) == environment
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return code, output.out, output.err

    return run


class Sing:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def nice(text: str) -> dict[str, str]:
    return {"experiment/nice.yaml": GLOBAL + text}


CALLBACK = "{_target_: pickle.load, file: {_target_: builtins.open, file: TMP/x.pickle, mode: rb}}"
HANDLER = (
    "{version: 1, handlers: {x: {class: logging.FileHandler, filename: TMP/victim, mode: w}}, root: {handlers: [x]}}"
)
# Files -> the beginning of the key that is named.
HYDRAS = {
    "callbacks": (nice(f"hydra: {{callbacks: {{x: {CALLBACK}}}}}"), "hydra.callbacks"),
    "header": ({"experiment/nice.yaml": f"# @package hydra.callbacks\nx: {CALLBACK}"}, "hydra.callbacks"),
    "package": (
        {**nice("defaults: [/model@hydra.callbacks: evil]"), "model/evil.yaml": f"x: {CALLBACK}"},
        "hydra.callbacks",
    ),
    "group": (
        {**nice("defaults: [override /hydra/callbacks: evil]"), "hydra/callbacks/evil.yaml": f"x: {CALLBACK}"},
        "hydra.callbacks",
    ),
    "reference": (nice("hydra: {callbacks: '${oc.create:\"{}\"}'}"), "hydra.callbacks"),
    "job_logging": (nice(f"hydra: {{job_logging: {HANDLER}}}"), "hydra.job_logging"),
    "hydra_logging": (nice(f"hydra: {{hydra_logging: {HANDLER}}}"), "hydra.hydra_logging"),
    "logging group": (nice("defaults: [override /hydra/job_logging: default]"), "hydra.job_logging"),
    "run.dir": (nice("hydra: {run: {dir: TMP/made}}"), "hydra.run"),
    "sweep.dir": (nice("hydra: {sweep: {dir: TMP/made}}"), "hydra.sweep"),
    "sweep.subdir": (nice("hydra: {sweep: {subdir: ../../../made}}"), "hydra.sweep"),
    "output_subdir": (nice("hydra: {output_subdir: ../made}"), "hydra.output_subdir"),
    "chdir": (nice("hydra: {job: {chdir: true}}"), "hydra.job"),
    "env_set": (nice("hydra: {job: {env_set: {LD_PRELOAD: x}}}"), "hydra.job"),
    "env_copy": (nice("hydra: {job: {env_copy: [PATH]}}"), "hydra.job"),
    "env_copy of nothing": (nice("hydra: {job: {env_copy: [NO_SUCH]}}"), "the files of --config-dir"),
    "mode": (nice("hydra: {mode: MULTIRUN}"), "hydra.mode"),
    "verbose": (nice("hydra: {verbose: true}"), "hydra.verbose"),
    "help": (nice("hydra: {help: {template: x}}"), "hydra.help"),
    "searchpath": (nice("hydra: {searchpath: ['file://TMP']}"), "In 'experiment/nice': Overriding hydra.searchpath"),
    "runtime": (nice("hydra: {runtime: {output_dir: TMP/made}}"), "hydra.runtime"),
    "launcher": (
        {**nice("defaults: [override /hydra/launcher: own]"), "hydra/launcher/own.yaml": "_target_: hydra_plugins.x.Y"},
        "hydra.launcher, in the files of",
    ),
    "sweeper": (nice("hydra: {sweeper: {params: {seed: '0,1'}}}"), "hydra.sweeper"),
}  # fmt: skip
SWEEPERS = {
    "logging": ("{params: {hydra.output_subdir: TMP/made}}", f"hydra.output_subdir=TMP/made: {ONLY}"),
    "group": ("{params: {hydra/job_logging: default}}", f"hydra/job_logging=default: {ONLY}"),
    "launcher": ("{params: {hydra.launcher.x: 1}}", f"hydra.launcher.x=1: {ONLY}"),
    "forced": ("{params: {++hydra.callbacks.x: 1}}", ONLY),
    "no override": ("{params: {'a b': 1}}", "a b=1: cannot be read"),
}


@pytest.mark.parametrize(("files", "key"), HYDRAS.values(), ids=HYDRAS)
@pytest.mark.parametrize("flags", [(), ("-m", "seed=0")], ids=["run", "sweep"])
def test_files_set_nothing_of_hydra(attack, files, key, flags):
    code, _, errors = attack(files, *NICE, *flags)
    assert code == 2
    assert f"  - {key}" in errors


@pytest.mark.parametrize("flags", ["--cfg job", "--cfg hydra", "--cfg all --resolve", "--info all", "--info config"])
def test_hydras_flags_refuse_the_same(attack, flags):
    files, key = HYDRAS["callbacks"]
    code, out, errors = attack(files, *NICE, *flags.split())
    assert (code, out) == (2, "")
    assert f"  - {key}, in the files of --config-dir " in errors
    assert ONLY in errors


@pytest.mark.parametrize("flags", ["--help", "--hydra-help", "-sc query=bash"])
def test_flags_that_read_no_file_of_the_folder(attack, flags, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "dialog-trainer experiment=nice ")
    monkeypatch.setenv("COMP_POINT", "30")
    files = {**HYDRAS["callbacks"][0], "config.yaml": f"hydra: {{callbacks: {{x: {CALLBACK}}}}}"}
    try:
        code, *_ = attack(files, *NICE, *flags.split())
    except SystemExit as end:  # Hydra's own
        code = end.code
    assert code == 0


@pytest.mark.parametrize(("sweeper", "reason"), SWEEPERS.values(), ids=SWEEPERS)
def test_a_sweeper_of_a_file_is_checked_as_typed(attack, sweeper, reason, tmp_path):
    code, _, errors = attack(nice(f"hydra: {{sweeper: {sweeper}}}"), *NICE, SWEEPER, "-m", "seed=0,1")
    assert code == 2
    assert reason.replace("TMP", str(tmp_path)) in errors


@pytest.mark.parametrize("name", ["launcher", "sweeper"])
def test_a_plugin_of_a_file_is_not_used(attack, name):
    code, _, errors = attack({f"hydra/{name}/own.yaml": "x: 1\n"}, f"hydra/{name}=own", "-m", "seed=0,1")
    assert code == 2
    assert f"  - hydra/{name}=own: is not used here" in errors


def test_a_plugin_of_a_file_instantiates_nothing_else(attack):
    settings = nice(f"hydra: {{launcher: {{x: [{{y: {CALLBACK}}}]}}}}")
    code, _, errors = attack(settings, *NICE, "hydra/launcher=local", "-m", "seed=0,1")
    assert code == 2
    assert "  - hydra.launcher, in the files of" in errors
    assert "a parameter with _target_ would run code; remove it" in errors


def test_what_a_swept_group_takes_back_is_refused(attack):
    """Hydra composes the sweep itself without the swept group."""
    swept = {f"experiment/{name}.yaml": f"{GLOBAL}hydra: {{verbose: false}}" for name in "ab"}
    logger = {"logger/mine.yaml": f"{GLOBAL}hydra: {{verbose: true}}\nlogger: {{_target_: null}}"}
    code, _, errors = attack(swept | logger, "logger=mine", "-m", "experiment=a,b")
    assert code == 2
    assert "  - hydra.verbose, in the files of " in errors


CODE = {
    "mask": "mask_schedule: {_target_: stranger.f}",
    "data": "data: {_target_: stranger.f}",
    "optim": "optim: {_target_: stranger.f}",
    "scheduler": "scheduler: {_target_: stranger.f}",
    "logger": "logger: {_target_: stranger.f}",
    "metrics": "metrics: {extra: [stranger.f]}",
    "mode": "mode: stranger.f",
}


@pytest.mark.parametrize("text", CODE.values(), ids=CODE)
def test_a_file_cannot_allow_its_own_code(attack, text):
    code, _, errors = attack(nice(f"allow_targets: [stranger.f]\n{text}"), *NICE)
    assert code == 2
    assert "pass allow_targets=[stranger.f]" in errors


def test_nor_can_a_sweeper(attack):
    params = "{allow_targets: '[stranger.f]', mask_schedule._target_: stranger.f}"
    code, _, errors = attack(nice(f"hydra: {{sweeper: {{params: {params}}}}}"), *NICE, SWEEPER, "-m", "seed=0,1")
    assert code == 2
    assert "hydra.sweeper.params: to run stranger.f as code, pass allow_targets=[stranger.f]" in errors


ROOTS = {"main": "config.yaml", "group": "model/gpt2_tiny.yaml", "shared": "data/_base.yaml"}


@pytest.mark.parametrize("name", ROOTS.values(), ids=ROOTS)
def test_a_file_under_a_built_in_name_is_not_read_and_named(attack_whole, name):
    code, out, errors = attack_whole({name: f"steps: 3\nhydra: {{callbacks: {{x: {CALLBACK}}}}}"}, "--cfg", "job")
    assert code == 0
    assert "steps: 30000" in out
    assert f"not read, as there are built-in files of the same names: {name}" in errors


DOUBLED = "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 40))
REPEATED = ("name", "project", "data.cache_dir")
FILES = {
    "python": ("name: !!python/object/apply:os.system ['touch TMP/sung']", "nice.yaml: cannot be read as plain YAML: line 2: the tag"),
    "path": ("name: !!python/object/apply:pathlib.PosixPath [x]", "the tag !!python/object/apply:pathlib.PosixPath is refused"),
    "aliases": (f"a0: &a0 [x]\n{DOUBLED}", "holds more than 10,000 values, counting what its aliases repeat"),
    "nested": ("name: " + "[" * 50_000, "is nested deeper than 30 levels"),
    "digits": ("steps: " + "9" * 5000, "a number has more than 400 digits"),
    "huge": ("name: " + "x" * 300_000, "is larger than 262,144 bytes"),
    "binary": (b"\xff\xfe\x00", "cannot be read as plain YAML: 'utf-8' codec"),
    "list": ("- 1", "holds no dict of options"),
    "twice": ("steps: 1\nsteps: 2", "the key steps stands twice"),
    "references": ("\n".join(f"a{i}: ${{a{i - 1}}}${{a{i - 1}}}" for i in range(1, 60)) + "\na0: x", "118 references (${...}), which may grow without bound"),
    "references of dicts": ("\n".join(f"a{i}: {{x: '${{a{i - 1}}}', y: '${{a{i - 1}}}'}}" for i in range(1, 60)) + "\na0: x", "references"),
    "a reference to itself": ("name: ${name}", "Recursive interpolation detected"),
    "unknown resolver": ("name: ${stranger:f}", "Unsupported interpolation type stranger"),
    "escapes": ('name: "a\\e]0;x\\a"', "must not hold '..', ':' or control characters"),
    "header": ("# @package a b c\nsteps: 3", "Too many components"),
    "defaults of a number": ("defaults: 3", "cannot be composed"),
    "defaults of a dict": ("defaults: [{1: 2}]", "cannot be composed"),
    "defaults of itself": ("defaults: [nice]", "RecursionError"),
    "defaults above": ("defaults: [../../../outside]", "../../../outside is no path below the folder"),
    "defaults elsewhere": ("defaults: [//TMP/outside]", "outside is no path below the folder"),
    "defaults of nothing": ("defaults: [nowhere]", "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), FILES.values(), ids=FILES)
def test_a_malformed_file_is_one_message(attack, text, reason):
    head = b"" if isinstance(text, bytes) or text.startswith(("#", "-")) else GLOBAL
    code, out, errors = attack({"experiment/nice.yaml": head + text if head else text}, *NICE)
    assert (code, out) == (2, "")
    assert reason in errors
    assert len(errors) < 3000


def test_what_is_no_regular_file_is_no_choice(attack, tmp_path):
    (tmp_path / "own/experiment").mkdir(parents=True)
    (tmp_path / "own/experiment/device.yaml").symlink_to("/dev/zero")
    (tmp_path / "own/experiment/gone.yaml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "own/experiment/pipe.yaml")
    for name in ("device", "gone", "pipe"):
        code, _, errors = attack({}, f"experiment={name}")
        assert code == 2
        assert f"'experiment/{name}'" in errors or "no such choice" in errors


def test_the_environment_is_read_and_told(attack, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    files = nice("name: run-${oc.env:SECRET}\nproject: a/${name}\nseed: ${oc.decode:${oc.env:NOT_SET,7}}")
    code, out, errors = attack(files, *NICE, "--cfg", "job", "--resolve")
    assert code == 0
    assert "name: run-s3cret\n" in out
    assert "seed: 7\n" in out
    assert errors == "note: read from the environment: SECRET into name; the run keeps the values in its args.yaml\n"


def test_own_groups_still_work(attack_whole):
    files = {
        "optim/steep.yaml": "_target_: torch.optim.SGD\nlr0: 0.5\nnesterov: true\nmomentum: 0.1\nweight_decay: 0.0\n",
        "experiment/deep/er.yaml": f"{GLOBAL}steps: &n 3\nschedule_steps: *n\n",
        "experiment/nice.yaml": f"{GLOBAL}defaults: [deep/er, override /optim: steep]\n",
    }
    code, out, errors = attack_whole(files, *NICE, "--cfg", "job")
    assert (code, errors) == (0, "")
    assert "nesterov: true" in out
    assert "steps: 3\nschedule_steps: 3\n" in out


RERUN = "--experimental-rerun"


@pytest.mark.parametrize(
    "flags",
    [
        [RERUN, "x.pickle"], [f"{RERUN}=x.pickle"], ["--cfg", "job", RERUN, "x.pickle"], [RERUN, "x.pickle", "--help"],
        ["--experimental", "x.pickle"], ["--exp=x.pickle", "--cfg", "job"], ["--info", RERUN, "x.pickle"],
        ["-m", RERUN, "x.pickle"], ["--version", f"{RERUN}=x.pickle"], ["--cfg", f"job {RERUN} x.pickle"],
        ["--package", f"{RERUN}=x.pickle", "--cfg", "job"], ["--config-dir", f"{RERUN}=x.pickle"],
        ["-sc", f"{RERUN}=x.pickle"], ["--hydra-help", RERUN, "x.pickle"], ["--", RERUN, "x.pickle"],
        ["--run", RERUN, "x.pickle"], ["-h", "--config-path", "x", "--config-name", "y"],
    ],
)  # fmt: skip
def test_a_pickle_is_never_run_again(attack, flags, tmp_path):
    code, out, errors = attack({}, *[flag.replace("x.pickle", str(tmp_path / "x.pickle")) for flag in flags])
    assert (code, out) == (2, "")
    assert errors
