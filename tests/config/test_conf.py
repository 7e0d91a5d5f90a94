"""`conf/`: every choice composes, keeps the schema and builds; the comments are held by test_schema."""

import itertools

import numpy as np
import pytest
import torch

from dialog_trainer.build.data import load_dialogues
from dialog_trainer.build.evaluation import build_protocol
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.model import build_model
from dialog_trainer.build.optimization import build_optimizer, choose_learning_rate, plan_training
from dialog_trainer.cli.compose import compose_runs
from dialog_trainer.cli.conf import GLOBAL_GROUPS, list_choices
from dialog_trainer.metrics.registry import SCORE_NAMES
from dialog_trainer.model.loading import build_from_scratch
from dialog_trainer.types import Role
from tests.helpers.configs import compose_config

pytestmark = pytest.mark.slow
CHOICES = list_choices(None)


# Choices of different groups do not meet and share a composition; whole configurations are composed alone.
ROWS = itertools.zip_longest(
    *([f"{group}={name}" for name in names] for group, names in CHOICES.items() if group not in ("experiment", "debug"))
)
ALONE = [[f"{group}={name}"] for group in ("experiment", "debug") for name in CHOICES[group]]


@pytest.mark.parametrize("choices", [*([choice for choice in row if choice] for row in ROWS), *ALONE])
def test_each_choice_passes_every_check(choices, jsonl_folder):
    paths = [f"data.train_data_path='{jsonl_folder}/train.jsonl'"] if {"data=files", "data=jsonl"} & {*choices} else []
    paths += [f"data.sources=['{jsonl_folder}']"] if "data=mixture" in choices else []
    paths += [f"data.id='{jsonl_folder}'"] if "data=hub" in choices else []
    paths += ["model.pretrained_model=gpt2"] if "experiment=demo" in choices else []  # its file is fetched
    [run] = compose_runs([*choices, *paths], None, sweep=False)
    assert run.config.mode == "train"


def test_the_original_is_composed():
    config = compose_config("experiment=original")
    assert config.optim.target == "torch.optim.Adam"
    assert (config.optim.arguments["weight_decay"], config.max_grad_norm) == (0.0, None)
    assert (config.data.truncation, config.precision) == ("keep_start", "fp32")
    assert (config.whole_epochs, config.validate_every_n_steps) == (True, "epoch")
    assert (config.metrics.original_clean_up, config.metrics.max_dialogues) == (True, None)
    assert config.metrics.best == {"bleu2": 0.1, "bleu4": 0.6, "nist2": 0.1, "nist4": 0.2}
    assert (config.steps, config.batch_size, config.optim.lr0) == (30000, 60, 1e-4)


@pytest.mark.parametrize("name", CHOICES["optim"])
def test_optimizers_are_built(name, tiny_model):
    built = build_optimizer(compose_config(f"optim={name}"), tiny_model)
    assert type(built).__name__.lower() == name
    assert len(built.param_groups[0]["params"]) == len(list(tiny_model.parameters()))


@pytest.mark.parametrize(
    ("model", "changes", "learning_rate"),
    [
        ("gpt2", {}, 1e-4),
        ("gpt2", {"optim.lr0": 0.5}, 0.5),
        ("gpt2_tiny", {}, 4e-3),
        ("gpt2_tiny", {"model.width": 256, "model.heads": 4}, 2e-3),
        ("gpt2", {"model.adapter.method": "lora"}, 1e-3),
    ],
)
def test_an_automatic_learning_rate_fits_the_model(model, changes, learning_rate):
    assert choose_learning_rate(compose_config(f"model={model}").replace(changes)) == pytest.approx(learning_rate)


def built_plan(config, *, mask=None):
    class Table:
        lengths = ()

        def __len__(self):
            return 100

    mask = build_mask(config) if mask is None else mask
    return plan_training(config, Table(), np.arange(100), mask, torch.device("cpu"))


@pytest.mark.parametrize("name", CHOICES["scheduler"])
def test_schedules_are_built(name):
    plan = built_plan(compose_config(f"scheduler={name}", "schedule_steps=1000", "optim.lr0=0.5"))
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
    composed = compose_config(f"mask_schedule={name}")
    config = composed.replace(
        {"mask_schedule.trained_role": trained_role, "mask_schedule.normalize": "turn", "schedule_steps": 1000}
    )
    mask = build_mask(config)
    assert (mask.trained_role.name.lower(), mask.last_turn_only, mask.normalize) == (trained_role, False, "turn")
    weights = [built_plan(config, mask=mask).role_weights(step) for step in (0, 499, 500, 1000, 2000)]
    other, own = ("user", "assistant") if trained_role == "assistant" else ("assistant", "user")
    expected = [*USER_WEIGHTS[name], USER_WEIGHTS[name][-1]]
    assert [getattr(at, other) for at in weights] == pytest.approx(expected, abs=5e-4)
    assert [getattr(at, own) for at in weights] == [1.0] * 5
    assert {at.random_roles for at in weights} == {name == "random_turns"}
    last = build_mask(composed.replace({"mask_schedule.last_turn_only": True}))
    assert (last.last_turn_only, last.normalize, last.weigh_roles(0.0).user) == (True, "token", 0.0)


@pytest.mark.parametrize("name", CHOICES["data"])
def test_sources_are_built_and_read(name, jsonl_folder, tmp_path):
    paths = {
        "dailydialog": [f"data.path={jsonl_folder}"],
        "files": [f"data.train_data_path={jsonl_folder}"],
        "hub": [f"data.id={jsonl_folder}"],
        "jsonl": [f"data.train_data_path={jsonl_folder}/train.jsonl"],
        "mixture": [f"data.sources=[{jsonl_folder}]"],
        "chitchat": [],
    }[name]
    config = compose_config(f"data={name}", *paths).replace({"data.cache_dir": str(tmp_path)})
    assert len(load_dialogues(config, "train", lambda line: None)) >= 30


@pytest.mark.parametrize("name", CHOICES["metrics"])
def test_protocols_are_built(name):
    config = compose_config(f"metrics={name}")
    reply_settings = build_protocol(config).settings
    assert (config.metrics.protocol, reply_settings.window, reply_settings.role) == (name, 128, Role.ASSISTANT)
    simulator = config.replace({"mask_schedule.trained_role": "user"})
    assert build_protocol(simulator).settings.role == Role.USER
    assert set(config.metrics.names) <= set(SCORE_NAMES)


def test_models_are_built(tokenizer, tmp_path):
    say = lambda line: None  # noqa: E731
    tiny = build_model(compose_config("model=gpt2_tiny"), tokenizer, torch.device("cpu"), say)
    assert (tiny.config.n_layer, tiny.config.n_positions) == (2, 256)
    build_from_scratch(tokenizer, layers=1, heads=1, width=8, positions=128, dropout=0.0, seed=0).save_pretrained(
        tmp_path
    )
    loaded = build_model(
        compose_config("model=gpt2", f"model.pretrained_model={tmp_path}", "model.dropout=0.25"),
        tokenizer,
        torch.device("cpu"),
        say,
    )
    assert (loaded.config.n_embd, loaded.config.resid_pdrop) == (8, 0.25)


def test_small_configurations_for_finding_errors():
    fast, overfit = compose_config("debug=fast"), compose_config("debug=overfit")
    assert (fast.steps, fast.validate_every_n_steps, fast.project) == (2, 1, "outputs/debug")
    assert overfit.data.max_train_dialogues == overfit.batch_size
    assert "runtime" in GLOBAL_GROUPS
