"""Configurations for tests: composed by Hydra, or read from conf/ without it."""

import functools
from pathlib import Path
from typing import Any

import yaml

from dialog_trainer.cli.compose import compose_tree
from dialog_trainer.cli.overrides import prepare_overrides
from dialog_trainer.config.default_names import resolve_names
from dialog_trainer.config.schema import Config

CONF = Path(__file__).resolve().parents[2] / "conf"


@functools.cache
def compose_config(*overrides: str) -> Config:
    """What these overrides compose; each value is checked by itself. Composed once: it takes a tenth of a second."""
    composed = compose_tree(prepare_overrides(list(overrides)), None)
    return Config.read(resolve_names(composed.tree, composed.choices))


def read_conf(path: str) -> dict[str, Any]:
    """A file of conf/ without its defaults list."""
    tree = yaml.safe_load((CONF / path).read_text(encoding="utf-8")) or {}
    tree.pop("defaults", None)
    return tree


def conf_tree(model="gpt2_tiny", data="chitchat", optim="adamw", mask="step") -> dict[str, Any]:
    """The defaults of conf/ with these choices, put together without Hydra."""
    tree = {**read_conf("config.yaml"), **read_conf("runtime/default.yaml"), "project": "outputs/a", "name": "b"}
    tree |= {group: read_conf(f"{group}/default.yaml") for group in ("chat", "figures")}
    chosen = {"model": model, "data": data, "scheduler": "cosine", "mask_schedule": mask, "metrics": "response"}
    tree |= {
        group: read_conf(f"{group}/_base.yaml") | read_conf(f"{group}/{name}.yaml") for group, name in chosen.items()
    }
    whole = {"optim": optim, "logger": "none"}
    tree |= {group: read_conf(f"{group}/{name}.yaml") for group, name in whole.items()}
    tree["model"]["adapter"] = read_conf("model/adapter/none.yaml")
    return tree
