"""Saved configurations of earlier versions: old keys, fields that did not exist, newer versions."""

import pytest

from dialog_trainer.config.schema import SCHEMA_VERSION, Config
from dialog_trainer.config.versions import ALIASES, absent_values, rename_old_keys
from dialog_trainer.errors import ConfigError
from tests.helpers.configs import conf_tree


def as_saved_before_the_schema() -> dict:
    """The tree of a run of the first edition."""
    tree = conf_tree()
    metrics, chat = tree["metrics"], tree["chat"]
    metrics |= metrics.pop("generation")
    del metrics["extra"], tree["figures"], tree["logger"], tree["data"]["max_train_dialogues"]
    del tree["data"]["max_validation_dialogues"]
    generation = chat.pop("generation")
    return tree | {"chat": {name: generation[name] for name in ("temperature", "top_p", "max_new_tokens")}}


def test_a_run_of_the_first_edition_is_read_with_the_old_meaning():
    tree = as_saved_before_the_schema()
    tree["metrics"]["max_new_tokens"], tree["chat"]["temperature"] = 17, 0.5
    config = Config.from_dict(tree)
    assert (config.metrics.generation.max_new_tokens, config.chat.generation.temperature) == (17, 0.5)
    assert (config.chat.generation.decoding, config.metrics.generation.decoding) == ("sample", "greedy")
    assert (config.metrics.extra, config.figures.enabled, config.logger.target) == ((), True, None)
    assert config.data.max_train_dialogues is config.data.max_validation_dialogues is None
    assert config.validate_every_n_steps == "epoch"
    assert Config.from_dict(tree | {"validate_every_n_steps": 3}).validate_every_n_steps == 3


def test_what_a_field_meant_before_it_existed_is_a_value_of_it():
    fields = absent_values(Config)
    tree = Config.from_dict(as_saved_before_the_schema()).to_dict()
    flat = Config.from_dict(tree).flat()
    assert fields.keys() <= flat.keys()


def test_old_keys_take_the_place_of_the_new_but_of_those_that_were_typed():
    tree = {"metrics": {"beams": 9, "generation": {"beams": 4}}, "chat": 3}
    assert rename_old_keys(tree) == {"metrics": {"generation": {"beams": 9}}, "chat": 3}
    assert rename_old_keys(tree, frozenset({"metrics.generation.beams"}))["metrics"]["generation"] == {"beams": 4}
    assert len(ALIASES) == 9


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "2", None])
def test_a_version_that_cannot_be_read_is_named(version):
    with pytest.raises(ConfigError, match="schema_version="):
        Config.from_dict(conf_tree() | {"schema_version": version})


def test_a_field_without_a_meaning_of_its_own_may_not_be_missing():
    tree = conf_tree()
    del tree["seed"]
    with pytest.raises(ConfigError, match="seed: is missing"):
        Config.from_dict(tree)
