"""Whole command lines: every fault named at once, nothing written, never a traceback."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.run_folders import make_run

from dialog_trainer.cli.guard import guard
from dialog_trainer.cli.main import report_unexpected

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The working folder, empty before and to be empty after."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []


# Faults that do not meet, each with its message: a command names all at once.
FAULTS = {
    "batch_size=0": "must be a whole number of at least 1",
    "optim.lr=1": "there is no option optim.lr; write optim.lr0=<number>",
    "modle=gpt2": "there is no option modle; did you mean mode or model?",
    "data=dailydialogs": "data has no such choice; there are chitchat, dailydialog, files, hub, jsonl",
    "seed=-1": "must be a whole number from 0 to",
    "name=../x": "must be one path part",
    "project=a/../../b": "must not hold '..'",
    "steps=many": "must be a whole number",
    "steps=1,2": "several values need -m",
    "steps=" + "9" * 5000: "a value may have at most 4,000 characters, and this has",
    "optim.weight_decay=" + "1" * 3000: "must be a number of at least 0",
    "data.path=nowhere": "there is no such folder; pass the folder",
    "metrics.best={bleu9:1}": "must be a dict of scores and weights, as {bleu2: 1}",
    "a=b=c": "cannot be read",
    "~seed": "an option cannot be removed",
    "+colour=red": "a key can be added to data, optim, scheduler, mask_schedule, logger only",
    "mode=reports": "must be train, resume, validate, report, chat",
    "ui=web": "is not in this version; use terminal",
    "processes=0": "must be a whole number from 1 to 1,024",
    "compile=yes please": "must be auto, true or false",
    "device=[0,0]": "must be auto, cpu, mps, cuda or a list of CUDA devices, each once",
    "micro_batch_tokens=64": "must be at least model.max_len=128",
    "learning_rate=1e-3": "there is no option learning_rate; write optim.lr0=<number>",
    "epochs=3": "there is no option epochs; write steps=<updates>",
    "model=gpt2-medium": "for a model of the hub or a folder, write model.pretrained_model=gpt2-medium",
    "data=my.jsonl": "for a file of your own, write data=files data.train_data_path=my.jsonl",
    "metrics=[ppl,bleu2]": "for a list of scores, write metrics.names=[ppl,bleu2]",
    "dailydialog_train=True": "there is no option dailydialog_train; write data=dailydialog",
    "figures=false": "write figures.enabled=false",
}


@pytest.mark.slow
def test_all_faults_are_told_together(dialog_trainer, empty_folder):
    code, out, err = dialog_trainer(*FAULTS)
    assert (code, out) == (2, "")
    title, *lines = err.splitlines()
    # One path is two faults.
    assert title == f"{len(FAULTS) + 1} errors in the configuration:"
    for typed, message in FAULTS.items():
        key = typed.split("=")[0]
        assert any(line.startswith(f"  - {key}") and message in line for line in lines), typed
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["compile=true", "activation_checkpointing=true"], "compile=true: not with activation_checkpointing=true"),
        (["model.pretrained_model=./nowhere"], "there is no such folder; pass a folder or a hub id as gpt2"),
        (["name=a:b"], "must not hold '..', ':' or control characters"),
        (["name=" + "n" * 300], "at most 240 bytes"),
        (["mode=resume"], "mode=resume needs a run: pass resume_model_dir=<run folder>"),
        (["mode=chat", "resume_model_dir=nowhere"], "resume_model_dir=nowhere: there is no such folder"),
        (["resume_model_dir=x"], "goes with mode=resume, validate, chat or export"),
        (["data=jsonl"], "data=files needs data.train_data_path=<file, folder or pattern>"),
        (["data=jsonl", "data.train_data_path=nowhere.jsonl"], "does not exist; pass a file, a folder or a pattern"),
        (["metrics.best={bleu3: 1}"], "bleu3 is not computed; add it to metrics.names"),
        (
            ["--mode", "train"],
            "--mode: flags of the original program\n    the same here: python -m dialog_trainer experiment=",
        ),
        (["--resolve"], "--resolve: goes with --cfg job"),
        (["--cfg"], "--cfg: takes job or hydra or all"),
        (["--resume_model_dir", "x", "steps=24"], "1 error in the configuration"),
        (["-m", "seed=range(0,1e9)"], "-m: 1,000,000,000 jobs; a sweep has at most 1,000: list fewer values"),
        (["-m", "seed=range(0,40)", "steps=range(1,40)"], "-m: 1,560 jobs; a sweep has at most 1,000"),
        (["--colour"], "--colour: there is no such flag"),
        (["\x1b]0;x\x07\x9b2J\u202e=3"], "- \\x1b]0;x\\x07\\x9b2J\\u202e=3: cannot be read"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: there is no such folder"),
        (["-m", "mode=resume", "resume_model_dir=x"], "-m: sweeps start new runs"),
        (["-m", "seed=0,-1"], "seed=-1: must be a whole number"),
        (["--experimental-rerun", "x.pickle"], "--experimental-rerun x.pickle: there is no such flag"),
    ],
)
def test_a_wrong_command_is_one_message(dialog_trainer, empty_folder, arguments, reason):
    code, _, err = dialog_trainer("data=chitchat", "model=gpt2_tiny", *arguments)
    assert code == 2
    assert reason in err
    assert "Traceback" not in err


def test_a_project_that_cannot_be_written_is_named(dialog_trainer, tiny_options, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = dialog_trainer(*tiny_options, f"project={tmp_path}/file/runs")
    assert code == 2
    assert f"{tmp_path}/file is a file, not a folder" in err


@pytest.mark.slow
@pytest.mark.parametrize("project", ["a=b it's", '한국어 "폴더"'])
def test_a_path_may_hold_signs_and_other_letters(dialog_trainer, tiny_options, tmp_path, project):
    code, out, err = dialog_trainer(*tiny_options, "steps=1", f"project={tmp_path}/{project}", "name=그 run")
    assert code == 0, out + err
    run = tmp_path / project / "그 run"
    assert (run / "weights/last/model.safetensors").is_file()
    # What is printed can be typed as it stands.
    typed = re.search(r"python -m dialog_trainer (mode=validate .*)", out).group(1)
    assert dialog_trainer(*shlex.split(typed))[0] == 0


@pytest.mark.slow
def test_a_malformed_line_leaves_no_run(dialog_trainer, tiny_options, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"turns": ["a", "b"]}\n{"turns": 3}\n')
    options = [option for option in tiny_options if not option.startswith("data")]
    code, _, err = dialog_trainer(*options, "data=jsonl", f"data.train_data_path={tmp_path}/own.jsonl")
    assert code == 2
    assert "own.jsonl:2: 'turns' should be a list; found a number" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["mode=resume", "resume_model_dir=PLACE"], ["mode=validate", "compare_with=PLACE", "resume_model_dir=."],
        ["mode=validate", "resume_model_dir=PLACE"], ["mode=validate", "runs=PLACE"], ["mode=report", "runs=PLACE"],
        ["--config-dir", "PLACE"], ["data=dailydialog", "data.path=PLACE"], ["data=files", "data.train_data_path=PLACE"],
        ["model=gpt2", "model.pretrained_model=./PLACE"],
    ],
)  # fmt: skip
def test_a_mistyped_folder_is_answered_with_those_of_near_names(dialog_trainer, trained_run, monkeypatch, arguments):
    monkeypatch.chdir(trained_run)
    (trained_run / "chats").mkdir()
    code, _, err = dialog_trainer(*(text.replace("PLACE", "chatss") for text in arguments))
    assert code == 2
    assert re.search(r"chatss: (there is no such folder|does not exist); did you mean (\./)?chats\?", err), err


# Libraries that take tenths of a second to import, and the parts of transformers that hold its models.
HEAVY = (
    "torch", "transformers", "transformers.modeling_utils", "transformers.core_model_loading", "datasets", "pandas", "peft",
    "gguf", "tensorboard", "nltk", "sacrebleu", "matplotlib", "numpy",
)  # fmt: skip
TOKENIZERS = {"torch", "transformers", "numpy"}
MODELS = TOKENIZERS | {"transformers.modeling_utils", "transformers.core_model_loading"}


def run_and_name_imports(arguments, folder):
    """The process of a command; the last line of its standard error names what it imported of `HEAVY`."""
    script = (
        "import atexit, sys; from dialog_trainer.cli.main import main; "
        f"atexit.register(lambda: print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)); "
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["--cfg", "job"], 0), (["batch_size=0"], 2), (["--version"], 0)]
)
def test_torch_is_not_imported_to_answer(arguments, code, tmp_path):
    found = run_and_name_imports(arguments, tmp_path)
    assert found.returncode == code, found.stderr
    assert set(found.stderr.splitlines()[-1].split()) <= {"numpy"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_report_needs_no_torch(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"runs/s{seed}", 3.0 + seed / 10, settings={"seed": seed})
    found = run_and_name_imports(["mode=report", "runs=runs", "figures.enabled=false"], tmp_path)
    assert found.returncode == 0, found.stderr
    assert "written to runs" in found.stdout
    assert found.stderr.splitlines()[-1] == "numpy"


@pytest.mark.slow
def test_a_mode_imports_what_it_needs(tiny_options, trained_run, tmp_path):
    """With the tokens of the trained run in the cache."""
    run = f"resume_model_dir={trained_run}"
    for arguments, needed in (
        ([*tiny_options, "mode=inspect", "figures.enabled=true"], TOKENIZERS | {"matplotlib"}),
        ([*tiny_options, "steps=1"], MODELS | {"sacrebleu"}),
        (["mode=export", run], MODELS),
    ):
        found = run_and_name_imports(arguments, tmp_path)
        assert found.returncode == 0, found.stderr
        assert set(found.stderr.splitlines()[-1].split()) <= needed, arguments


@pytest.mark.slow
def test_a_file_that_vanishes_is_one_message(dialog_trainer, tiny_options, monkeypatch):
    from dialog_trainer.data.sources import dailydialog

    monkeypatch.setattr(dailydialog, "find_dailydialog_file", lambda folder, split: folder / "gone.jsonl")
    code, _, err = dialog_trainer(*tiny_options)
    assert code == 2
    assert "gone.jsonl" in err
    assert "Traceback" not in err


def test_a_missing_package_is_one_line(capsys):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    assert guard(lambda: import_module("hydra")) == 2
    assert capsys.readouterr().err == (
        f"hydra is not installed for this Python ({sys.executable}): activate the environment that has dialog_trainer "
        "(source .venv/bin/activate), or pip install .\n"
    )
    with pytest.raises(ModuleNotFoundError):
        guard(lambda: import_module("own_module"))


def test_an_unexpected_error_is_a_line_and_its_traceback_a_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        raise RuntimeError("a shape\nof two lines")
    except RuntimeError as error:
        report_unexpected(error)
        (log,) = tmp_path.iterdir()
        line = f"RuntimeError: a shape (an error of dialog_trainer itself; the traceback is in {log})\n"
        assert capsys.readouterr().err == line
        assert "test_an_unexpected_error" in log.read_text()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
        report_unexpected(error)
    assert capsys.readouterr().err.startswith("Traceback (most recent call last)")
