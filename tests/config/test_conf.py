"""`conf/`: every file composes and builds, every option has a rule and a line that says what it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dialog_trainer.build.data import load_dialogues
from dialog_trainer.build.evaluation import build_reply_settings
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.model import build_model
from dialog_trainer.build.optimization import build_optimizer, plan_training
from dialog_trainer.cli.compose import CONF, compose_settings, list_groups
from dialog_trainer.config.checks import find_errors
from dialog_trainer.config.options import RULES, Settings, flatten
from dialog_trainer.metrics.registry import SCORE_NAMES
from dialog_trainer.model.loading import build_from_scratch
from dialog_trainer.types import Role

CONF = CONF
FILES = sorted(CONF.rglob("*.yaml"))
CHOICES = {group: names for group, names in list_groups(None).items() if group not in ("experiment", "hydra")}


def composed(*overrides: str) -> Settings:
    return compose_settings(list(overrides), None)


def test_every_file_is_seen():
    assert [path.relative_to(CONF).as_posix() for path in FILES] == sorted(
        [
            "config.yaml", "data/chitchat.yaml", "data/dailydialog.yaml", "data/jsonl.yaml", "experiment/demo.yaml",
            "experiment/original.yaml", "hydra/default.yaml", "mask_schedule/constant.yaml", "mask_schedule/cosine.yaml",
            "mask_schedule/linear.yaml", "mask_schedule/piecewise.yaml", "mask_schedule/random_turns.yaml",
            "mask_schedule/reverse_step.yaml", "mask_schedule/step.yaml", "metrics/all_turns.yaml",
            "metrics/original.yaml", "metrics/response.yaml", "metrics/rollout.yaml",
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
            keys |= set(flatten(composed(f"{group}={name}")))
    assert keys == set(RULES)


@pytest.mark.parametrize("group", sorted(CHOICES))
def test_the_defaults_keep_their_own_rules(group):
    for name in CHOICES[group]:
        settings = composed(f"{group}={name}", *(["data.train_data_path=x"] if name == "jsonl" else []))
        assert [fault for fault in find_errors(settings) if "train_data_path" not in fault] == []


@pytest.mark.parametrize("name", ["demo", "original"])
def test_experiments_keep_the_rules(name):
    assert find_errors(composed(f"experiment={name}")) == []


def test_the_original_is_composed():
    settings = composed("experiment=original")
    assert settings["optim"]["_target_"] == "torch.optim.Adam"
    assert (settings["optim"]["weight_decay"], settings["max_grad_norm"]) == (0.0, None)
    assert settings["data"]["truncation"] == "keep_start"
    assert settings["metrics"]["best"] == {"bleu2": 0.1, "bleu4": 0.6, "nist2": 0.1, "nist4": 0.2}
    assert (settings["steps"], settings["batch_size"], settings["optim"]["lr0"]) == (30000, 60, 1e-4)


@pytest.mark.parametrize("name", CHOICES["optim"])
def test_optimizers_are_built(name, tiny_model):
    built = build_optimizer(composed(f"optim={name}"), tiny_model)
    assert type(built).__name__.lower() == name
    assert len(built.param_groups[0]["params"]) == len(list(tiny_model.parameters()))


def built_plan(settings, *, mask=None):
    class Table:
        lengths = ()

        def __len__(self):
            return 100

    mask = build_mask(settings) if mask is None else mask
    return plan_training(settings, Table(), np.arange(100), mask, torch.device("cpu"))


@pytest.mark.parametrize("name", CHOICES["scheduler"])
def test_schedules_are_built(name):
    plan = built_plan(composed(f"scheduler={name}", "schedule_steps=1000", "optim.lr0=0.5"))
    assert plan.learning_rate(0) == 0
    assert 0 < plan.learning_rate(200) <= 0.5


# By choice, the user's weight at the beginning, just before and at the middle, and at the end, as conf/ has it.
USER_WEIGHTS = {
    "step": (1, 1, 0, 0),
    "reverse_step": (0, 0, 1, 1),
    "random_turns": (1, 1, 0, 0),
    "linear": (1, 0.502, 0.5, 0),
    "cosine": (1, 0.503, 0.5, 0),
    "constant": (0.1, 0.1, 0.1, 0.1),
    "piecewise": (1, 1, 0.1, 0),
}


@pytest.mark.parametrize("name", CHOICES["mask_schedule"])
@pytest.mark.parametrize("trained_role", ["assistant", "user"])
def test_masks_are_built(name, trained_role):
    settings = composed(
        f"mask_schedule={name}", f"mask_schedule.trained_role={trained_role}", "mask_schedule.normalize=turn",
        "mask_schedule.last_turn_only=false", "schedule_steps=1000",
    )  # fmt: skip
    mask = build_mask(settings)
    assert (mask.trained_role.name.lower(), mask.last_turn_only, mask.normalize) == (trained_role, False, "turn")
    weights = [built_plan(settings, mask=mask).role_weights(step) for step in (0, 499, 500, 1000, 2000)]
    other, own = ("user", "assistant") if trained_role == "assistant" else ("assistant", "user")
    expected = [*USER_WEIGHTS[name], USER_WEIGHTS[name][-1]]
    assert [getattr(at, other) for at in weights] == pytest.approx(expected, abs=5e-4)
    assert [getattr(at, own) for at in weights] == [1.0] * 5
    assert {at.random_roles for at in weights} == {name == "random_turns"}
    last = build_mask(composed(f"mask_schedule={name}", "mask_schedule.last_turn_only=true"))
    assert (last.last_turn_only, last.normalize, last.weigh_roles(0.0).user) == (True, "token", 0.0)


@pytest.mark.parametrize("name", CHOICES["data"])
def test_sources_are_built_and_read(name, jsonl_folder, tmp_path):
    paths = {
        "dailydialog": [f"data.path={jsonl_folder}"],
        "jsonl": [f"data.train_data_path={jsonl_folder}/train.jsonl"],
        "chitchat": [],
    }[name]
    settings = composed(f"data={name}", *paths, f"data.cache_dir={tmp_path}")
    assert len(load_dialogues(settings, "train", lambda line: None)) >= 30


@pytest.mark.parametrize("name", CHOICES["metrics"])
def test_scores_are_built(name):
    settings = composed(f"metrics={name}")
    how = build_reply_settings(settings)
    assert (how.protocol, how.window, how.role) == (name, 128, Role.ASSISTANT)
    assert build_reply_settings(composed(f"metrics={name}", "mask_schedule.trained_role=user")).role == Role.USER
    assert set(settings["metrics"]["names"]) <= set(SCORE_NAMES)


def test_models_are_built(tokenizer, tmp_path):
    say = lambda line: None  # noqa: E731
    tiny = build_model(composed("model=gpt2_tiny"), tokenizer, torch.device("cpu"), say)
    assert (tiny.config.n_layer, tiny.config.n_positions) == (2, 256)
    build_from_scratch(tokenizer, layers=1, heads=1, width=8, positions=128, dropout=0.0, seed=0).save_pretrained(
        tmp_path
    )
    loaded = build_model(
        composed("model=gpt2", f"model.pretrained_model={tmp_path}", "model.dropout=0.25"),
        tokenizer,
        torch.device("cpu"),
        say,
    )
    assert (loaded.config.n_embd, loaded.config.resid_pdrop) == (8, 0.25)


def test_the_options_that_the_readme_names_exist():
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    import re

    typed = {
        key
        for line in re.findall(r"^    python -m dialog_trainer(.*)", text, flags=re.M)
        for key in re.findall(r" ([\w.]+)=", line)
    }
    assert len(typed) > 8
    assert typed <= set(RULES) | set(list_groups(None))


def test_settings_come_back_from_yaml_as_they_were():
    settings = composed("experiment=original")
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
