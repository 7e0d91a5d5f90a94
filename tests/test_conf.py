"""`conf/`: every file composes and builds, every option has a rule and a line that says what it is."""

from pathlib import Path

import pytest
import torch
import yaml

from dialog_trainer import checks, composition, experiment, options
from dialog_trainer.model import causal_lm

CONF = composition.CONF
FILES = sorted(CONF.rglob("*.yaml"))
CHOICES = {group: names for group, names in composition.groups(None).items() if group not in ("experiment", "hydra")}


def composed(*overrides: str) -> options.Settings:
    return composition.composed(list(overrides), None)


def test_every_file_is_seen():
    assert [path.relative_to(CONF).as_posix() for path in FILES] == sorted(
        [
            "config.yaml", "data/chitchat.yaml", "data/dailydialog.yaml", "data/jsonl.yaml", "experiment/demo.yaml",
            "experiment/original.yaml", "hydra/default.yaml", "mask_schedule/step.yaml", "metrics/default.yaml",
            "model/gpt2.yaml", "model/gpt2_tiny.yaml", "optim/adam.yaml", "optim/adamw.yaml", "optim/sgd.yaml",
            "scheduler/constant.yaml", "scheduler/cosine.yaml", "scheduler/linear.yaml",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.parent.name not in ("experiment", "hydra")],
    ids=lambda p: p.relative_to(CONF).as_posix(),
)
def test_a_line_above_each_option_says_what_it_is(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        key = line.split(":")[0].strip()
        is_option = ":" in line and not line.lstrip().startswith(("#", "-")) and line.split(":", 1)[1].strip()
        if is_option and key != "_target_":
            assert lines[number - 1].lstrip().startswith("# "), f"{path.name}: {line}"
    assert "${" not in path.read_text(encoding="utf-8")


def test_every_option_has_a_rule_and_every_rule_an_option():
    keys = set()
    for group, names in CHOICES.items():
        for name in names:
            keys |= set(options.flat(composed(f"{group}={name}")))
    assert keys == set(options.RULES)


@pytest.mark.parametrize("group", sorted(CHOICES))
def test_the_defaults_keep_their_own_rules(group):
    for name in CHOICES[group]:
        settings = composed(f"{group}={name}", *(["data.train_data_path=x"] if name == "jsonl" else []))
        assert [fault for fault in checks.faults(settings) if "train_data_path" not in fault] == []


@pytest.mark.parametrize("name", ["demo", "original"])
def test_experiments_keep_the_rules(name):
    assert checks.faults(composed(f"experiment={name}")) == []


def test_the_original_is_composed():
    settings = composed("experiment=original")
    assert settings["optim"]["_target_"] == "torch.optim.Adam"
    assert (settings["optim"]["weight_decay"], settings["max_grad_norm"]) == (0.0, None)
    assert settings["data"]["truncation"] == "keep_start"
    assert settings["metrics"]["best"] == {"bleu2": 0.1, "bleu4": 0.6, "nist2": 0.1, "nist4": 0.2}
    assert (settings["steps"], settings["batch_size"], settings["optim"]["lr0"]) == (30000, 60, 1e-4)


@pytest.mark.parametrize("name", CHOICES["optim"])
def test_optimizers_are_built(name, tiny_model):
    built = experiment.optimizer(composed(f"optim={name}"), tiny_model)
    assert type(built).__name__.lower() == name
    assert len(built.param_groups[0]["params"]) == len(list(tiny_model.parameters()))


@pytest.mark.parametrize("name", CHOICES["scheduler"])
@pytest.mark.parametrize("mask", CHOICES["mask_schedule"])
def test_schedules_are_built(name, mask):
    settings = composed(f"scheduler={name}", f"mask_schedule={mask}", "schedule_steps=1000", "optim.lr0=0.5")

    class Table:
        lengths = ()

        def __len__(self):
            return 100

    plan = experiment.plan(settings, Table(), torch.device("cpu"))
    assert plan.learning_rate(0) == 0
    assert 0 < plan.learning_rate(200) <= 0.5
    assert plan.mask(0.0) != plan.mask(1.0)


@pytest.mark.parametrize("name", CHOICES["data"])
def test_sources_are_built_and_read(name, jsonl_folder, tmp_path):
    paths = {
        "dailydialog": [f"data.path={jsonl_folder}"],
        "jsonl": [f"data.train_data_path={jsonl_folder}/train.jsonl"],
        "chitchat": [],
    }[name]
    settings = composed(f"data={name}", *paths, f"data.cache_dir={tmp_path}")
    assert len(experiment.dialogues(settings, "train", lambda line: None)) >= 30


@pytest.mark.parametrize("name", CHOICES["metrics"])
def test_scores_are_built(name):
    settings = experiment.validation_settings(composed(f"metrics={name}"))
    assert settings.window == 128
    assert set(settings.names) <= set(options.SCORE_NAMES)


def test_models_are_built(vocabulary, tmp_path):
    say = lambda line: None  # noqa: E731
    tiny = experiment.model(composed("model=gpt2_tiny"), vocabulary, torch.device("cpu"), say)
    assert (tiny.config.n_layer, tiny.config.n_positions) == (2, 256)
    causal_lm.from_scratch(vocabulary, layers=1, heads=1, width=8, positions=128, dropout=0.0, seed=0).save_pretrained(
        tmp_path
    )
    loaded = experiment.model(
        composed("model=gpt2", f"model.pretrained_model={tmp_path}", "model.dropout=0.25"),
        vocabulary,
        torch.device("cpu"),
        say,
    )
    assert (loaded.config.n_embd, loaded.config.resid_pdrop) == (8, 0.25)


def test_the_options_that_the_readme_names_exist():
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    import re

    typed = {
        key
        for line in re.findall(r"^    python -m dialog_trainer(.*)", text, flags=re.M)
        for key in re.findall(r" ([\w.]+)=", line)
    }
    assert len(typed) > 8
    assert typed <= set(options.RULES) | set(composition.groups(None))


def test_settings_come_back_from_yaml_as_they_were():
    settings = composed("experiment=original")
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
