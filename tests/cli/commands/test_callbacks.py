"""When a run validates."""

import pytest

from dialog_trainer.cli.commands.callbacks import validation_interval
from dialog_trainer.config.schema import Config
from tests.helpers.configs import conf_tree


@pytest.mark.parametrize(
    ("configured", "steps", "steps_per_epoch", "interval"),
    [(None, 200, 5, 10), (None, 100, 5, 5), (None, 30_000, 186, 1674), (None, 3, 5, 5), ("epoch", 200, 5, 5), (7, 200, 5, 7)],
)  # fmt: skip
def test_a_run_has_about_20_validations_unless_configured(configured, steps, steps_per_epoch, interval):
    config = Config.read(conf_tree() | {"validate_every_n_steps": configured, "steps": steps})
    assert validation_interval(config, steps_per_epoch) == interval
    assert configured or steps / interval <= 20
