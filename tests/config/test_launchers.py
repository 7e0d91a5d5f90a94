"""The settings of hydra/launcher=: `conf/` has them all, with the descriptions of the schema."""

import pytest
import yaml

from dialog_trainer.cli.conf import CONF
from dialog_trainer.config.launchers import LAUNCHERS, check_launcher
from dialog_trainer.config.table import settings
from dialog_trainer.errors import ConfigError


@pytest.mark.parametrize("name", LAUNCHERS)
def test_conf_has_the_settings_of_the_schema(name):
    head, _, *lines = (CONF / f"hydra/launcher/{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert head.startswith("# ")
    found = {}
    above: list[str] = []
    for line in lines:
        if line.startswith("#"):
            above.append(line[1:].strip())
        else:
            found[line.partition(":")[0]] = " ".join(above)
            above = []
    expected = {key: f"{one.description} [{one.short_range}]" for key, one in settings(LAUNCHERS[name]).items()}
    assert found == expected
    tree = yaml.safe_load((CONF / f"hydra/launcher/{name}.yaml").read_text(encoding="utf-8"))
    del tree["_target_"]
    assert check_launcher(name, tree) == tree


def test_wrong_settings_are_named_together():
    values = {"timeout_min": 0, "cpus_per_task": "x", "array_parallelism": 1, "setup": "module load", "partition": " "}
    with pytest.raises(ConfigError) as caught:
        check_launcher("submitit_slurm", values)
    assert [error.partition("=")[0].removeprefix("hydra.launcher.") for error in caught.value.errors] == [
        "partition", "timeout_min", "cpus_per_task", "setup",
    ]  # fmt: skip
