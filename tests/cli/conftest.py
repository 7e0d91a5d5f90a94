"""A small conf/ for tests that compose many times."""

import shutil
from pathlib import Path

import pytest
import yaml

from dialog_trainer.cli import compose, config_folder, sweep
from dialog_trainer.cli import conf as conf_module
from dialog_trainer.cli.conf import CONF
from dialog_trainer.cli.overrides import prepare_overrides
from dialog_trainer.config.frozen import thaw


@pytest.fixture(scope="session")
def _slim_conf_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    conf = tmp_path_factory.mktemp("slim") / "conf"
    for group in ("experiment", "debug", "logger", "hydra"):
        shutil.copytree(CONF / group, conf / group)
    composed = compose.compose_tree(prepare_overrides(["model=gpt2_tiny", "data=chitchat", "device=cpu"]), None)
    tree = {key: value for key, value in composed.tree.items() if key != "logger"}
    groups = [{"logger": "none"}, {"hydra": "default"}, {"experiment": None}, {"debug": None}]
    (conf / "config.yaml").write_text(yaml.safe_dump({"defaults": ["_self_", *groups]} | thaw(tree)), encoding="utf-8")
    return conf


@pytest.fixture
def slim_conf(_slim_conf_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """conf/ with model=gpt2_tiny, data=chitchat and device=cpu written into config.yaml: Hydra composes it in a third of
    the time."""
    for module in (compose, conf_module, config_folder, sweep):
        monkeypatch.setattr(module, "CONF", _slim_conf_once)
