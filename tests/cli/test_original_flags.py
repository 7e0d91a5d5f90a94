"""Command lines of the original program: answered with the whole command here."""

import shlex

import pytest

from dialog_trainer.cli.compose import compose_runs
from dialog_trainer.cli.flags import parse_flags
from dialog_trainer.cli.original_flags import answer_original_flags
from dialog_trainer.errors import ConfigError

# The file of its guide, with other values than its own in the last four lines.
CONFIG = """
seed: 0
deterministic: True
device: cpu     # examples: [0], [0,1], [1,2,3], cpu, mps...
project: outputs/gpt2
name: daily dialog chatbot
pretrained_model: gpt2
workers: 0
dailydialog_train: {dailydialog}
dailydialog_dataset:
    path: data/
CUSTOM:
    train_data_path: {train}
    validation_data_path: null
    test_data_path: null
batch_size: 60
warmup_steps: 200
lr0: 1e-4
lrf: 0.1
patience: 5
prediction_print_n: 10
train_user_turn_mask_step: 0.5
common: ['train_loss', 'validation_loss', 'lr']
metrics: ['ppl', 'bleu2', 'bleu4', 'nist2', 'nist4']
max_len: 64
steps: 3000
scheduler_type: 'linear'
"""


@pytest.fixture
def config(tmp_path):
    def write(dailydialog: bool = True, train: str = "null", more: str = "") -> str:
        (tmp_path / "config.yaml").write_text(CONFIG.format(dailydialog=dailydialog, train=train) + more)
        return str(tmp_path / "config.yaml")

    return write


def commands(*arguments: str) -> list[list[str]]:
    """The options of each command in the answer."""
    answer = answer_original_flags(list(arguments)) or ""
    return [
        shlex.split(line.partition("python -m dialog_trainer ")[2])
        for line in answer.splitlines()
        if "python -m" in line
    ]


@pytest.mark.slow
def test_its_file_becomes_a_command_that_composes(config):
    long = commands("--config", config(), "--mode", "train", "--port", "10001")
    assert (
        long
        == commands("-c", config(), "-m", "train", "-p", "10001")
        == commands(f"--config={config()}", "--mode=train", "--port=10001")
    )
    [typed] = long
    [run] = compose_runs(typed, None, sweep=False)
    found = run.config
    assert (found.project, found.name, found.device) == ("outputs/gpt2", "daily dialog chatbot", "cpu")
    assert (found.model.max_len, found.steps, found.batch_size, found.port) == (64, 3000, 60, 10001)
    assert found.scheduler.target.endswith(".linear")
    assert found.scheduler.warmup_steps == 200
    assert found.whole_epochs
    assert found.metrics.protocol == "original"
    assert "optim.lr0=1e-4" not in typed  # as experiment=original has it


@pytest.mark.slow
def test_files_of_ones_own(config, tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    [typed] = commands("-c", config(dailydialog=False, train=f"'{tmp_path}/a.jsonl'"), "-m", "train", "seed=3")
    assert "data=files" in typed
    assert typed[-1] == "seed=3"
    assert compose_runs(typed, None, sweep=False)[0].config.data.arguments["train_data_path"] == f"{tmp_path}/a.jsonl"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-r", "outputs/a", "-l", "loss", "-d", "test"],
         ["mode=validate resume_model_dir=outputs/a load_model_type=loss split=test",
          "mode=chat resume_model_dir=outputs/a load_model_type=loss"]),
        (["--mode", "resume", "-r", "a b", "-l", "last"],
         ["mode=resume resume_model_dir='a b' load_model_type=last",
          "experiment=original model.pretrained_model='a b/weights/last'"]),
        (["--mode", "chat", "-r", "outputs/a"],
         ["mode=validate resume_model_dir=outputs/a load_model_type=metric split=test",
          "mode=chat resume_model_dir=outputs/a load_model_type=metric"]),
        (["-m", "train"], ["experiment=original"]),
    ],
)  # fmt: skip
def test_each_program_has_its_command(arguments, expected):
    assert [" ".join(typed) for typed in commands(*arguments)] == expected


def test_weights_of_the_original_are_found(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    for kind in ("loss", "metric", "last"):
        (weights / f"model_epoch:3_step:30_{kind}_best.pt").touch()
    again = commands("--mode", "resume", "-r", str(tmp_path), "-l", "loss")[1]
    assert again[-1] == f"model.pretrained_model='{weights}/model_epoch:3_step:30_loss_best.pt'"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        ("- a", "holds no options"),
        ("a: !!python/object:x {}", "is refused here"),
        ("a: [", "line 1"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ConfigError) as error:
        parse_flags(["--config", str(tmp_path / "x.yaml"), "--mode", "train"])
    assert f"x.yaml cannot be read ({reason}" in str(error.value) or reason in str(error.value)
    assert "python -m dialog_trainer experiment=original" in str(error.value)


def test_keys_without_a_place_are_named(config):
    answer = answer_original_flags(["-c", config(more="foo: 1\nbar: {baz: 2}\n"), "-m", "train"])
    assert "not known here, left out: foo, bar.baz" in answer
    assert "data.path=data/ is left out, for there is no such folder" in answer


@pytest.mark.parametrize(
    "arguments",
    [["-m", "seed=0,1"], ["-m", "mode=train"], ["-c", "job"], ["--cfg", "job", "-p", "optim"], ["--config-dir", "x"], ["seed=1"],
     ["--resolve"], ["-cd", "x.yaml"]],
)  # fmt: skip
def test_flags_of_this_program_are_left_alone(arguments):
    assert answer_original_flags(arguments) is None
