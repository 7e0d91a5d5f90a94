"""When a run validates."""

import json
import re

import pytest
import yaml

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


def validated_steps(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if row["split"] == "validation"]


def saved_interval(run):
    return yaml.safe_load((run / "args.yaml").read_text())["validate_every_n_steps"]


@pytest.mark.slow
def test_the_interval_is_saved_and_kept(dialog_trainer, tiny_options, tmp_path):
    run = tmp_path / "runs/run"
    # Of 104 sequences: an epoch is one step.
    code, out, err = dialog_trainer(
        *tiny_options,
        "batch_size=128",
        "micro_batch_tokens=4096",
        "metrics.max_dialogues=1",
        "steps=5",
        "schedule_steps=23",
    )
    assert code == 0, out + err
    assert "1 steps an epoch, steps 0 to 5, validated every 2" in out
    assert (validated_steps(run), saved_interval(run)) == ([2, 4, 5], 2)

    def resume(*options):
        code, out, err = dialog_trainer("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", *options)
        assert code == 0, out + err
        return out

    resume("steps=7", "schedule_steps=100")  # of which 20 would be fewer: the saved number holds
    assert (validated_steps(run)[3:], saved_interval(run)) == ([6, 7], 2)
    # Runs of version 0.1.0 hold null, once an epoch.
    args = run / "args.yaml"
    args.write_text(re.sub("schema_version: .*|(?<=validate_every_n_steps:) 2", "", args.read_text()))
    out = resume("steps=9")
    assert "validate_every_n_steps: 2 at the checkpoint -> epoch in args.yaml" in out
    assert (validated_steps(run)[5:], saved_interval(run)) == ([8, 9], "epoch")
    resume("steps=11", "validate_every_n_steps=null")  # chosen anew, for the 100 planned steps
    assert (validated_steps(run)[7:], saved_interval(run)) == ([10, 11], 5)
