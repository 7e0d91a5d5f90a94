"""Which settings vary, the arms, and the baseline."""

import pytest
from helpers.run_folders import make_run

from dialog_trainer.cli.commands.report import collect_folder
from dialog_trainer.errors import ConfigError
from dialog_trainer.reporting.report.arms import find_design

MASK = "train_user_turn_mask_step"


def runs_of(tmp_path, rows):
    """A run for each of `rows`: its settings, and what was typed."""
    made = (make_run(tmp_path / f"r{n}", settings=settings, typed=typed) for n, (settings, typed) in enumerate(rows))
    return [collect_folder(folder, None) for folder in made]


def grid(key, values, seeds=(0, 1), **others):
    return [
        ({key: value, "seed": seed, **others}, [f"{key}={value}", f"seed={seed}"]) for value in values for seed in seeds
    ]


def test_a_swept_number_is_sorted_and_seeds_are_in_the_arm(tmp_path):
    design = find_design(runs_of(tmp_path, grid(MASK, [1.0, 0.0, 0.25])))
    assert design.keys == (MASK,)
    assert [arm.label for arm in design.arms] == ["0", "0.25", "1"]
    assert [sorted(arm.runs) for arm in design.arms] == [[0, 1]] * 3
    assert design.name_arm(design.arms[1]) == f"{MASK}=0.25"
    assert design.notes == ()


def test_settings_that_belong_together_and_texts_keep_their_order(tmp_path):
    rows = [
        ({"optim.lr0": 3e-3, "batch_size": 64}, ["optim.lr0=3e-3", "batch_size=64"]),
        ({"optim.lr0": 1e-3, "batch_size": 16}, ["optim.lr0=1e-3", "batch_size=16"]),
    ]
    design = find_design(runs_of(tmp_path, rows))
    assert [arm.label for arm in design.arms] == ["batch_size=16, lr0=0.001", "batch_size=64, lr0=0.003"]
    words = find_design(runs_of(tmp_path / "b", grid("mask_schedule.normalize", ["turn", "fixed", "token"])))
    assert [arm.label for arm in words.arms] == ["turn", "fixed", "token"]


def test_a_group_is_named_by_its_choice_and_what_follows_from_a_setting_is_noted(tmp_path):
    optim = {"_target_": "torch.optim.SGD", "lr0": "auto", "momentum": 0.9, "weight_decay": 0.01}
    sgd = {"optim": optim, "validate_every_n_steps": 20}
    design = find_design(runs_of(tmp_path, [({}, ["optim=adamw"]), (sgd, ["optim=sgd"])]))
    assert design.keys == ("optim",)
    assert [arm.label for arm in design.arms] == ["adamw", "sgd"]
    assert design.notes == ("differ between the runs too, as a consequence: validate_every_n_steps",)


def test_without_the_command_lines_every_difference_is_a_setting_but_the_machine_is_not(tmp_path):
    rows = [({"steps": 40, "precision": "bf16"}, []), ({"steps": 80, "device": "cpu"}, [])]
    assert find_design(runs_of(tmp_path, rows)).keys == ("steps",)
    alone = [({"precision": "bf16"}, []), ({"precision": "fp32"}, [])]
    assert find_design(runs_of(tmp_path / "b", alone)).keys == ("precision",)


def test_runs_that_differ_in_nothing_but_the_seed_are_one_arm(tmp_path):
    design = find_design(runs_of(tmp_path, grid(MASK, [0.5], seeds=(0, 1, 2))))
    assert [(arm.label, len(arm.runs)) for arm in design.arms] == [("all runs", 3)]


def test_a_repeated_run_is_counted_once_and_a_missing_seed_is_noted(tmp_path):
    rows = [*grid(MASK, [0.0], seeds=(0, 1)), *grid(MASK, [1.0], seeds=(0, 0))]
    design = find_design(runs_of(tmp_path, rows))
    assert design.notes[0] == "r3 has the settings and the seed of r2: only the latter is counted"
    assert design.notes[1].startswith("not every seed has a complete run: 1 lacks seed 1")


def test_the_baseline_is_found_by_value_or_by_name(tmp_path):
    design = find_design(runs_of(tmp_path, grid(MASK, [0.0, 0.5])))
    assert design.find_baseline(None).label == "0"
    for text in ("0.5", "0.50", f"{MASK}=0.5"):
        assert design.find_baseline(text).label == "0.5"
    with pytest.raises(ConfigError, match=r"report.baseline=0.4: no run has this value .* there are: 0; 0.5"):
        design.find_baseline("0.4")


def test_of_several_settings_a_value_of_one_arm_alone_is_enough(tmp_path):
    step = {"mask_schedule._target_": "dialog_trainer.masking.schedules.step"}
    slope = {"start": 0.25, "end": 0.75, "start_weight": 1.0, "end_weight": 0.0}
    whole = {"_target_": "dialog_trainer.masking.schedules.linear", **slope}
    linear = {f"mask_schedule.{key}": value for key, value in whole.items()}
    rows = [
        *grid(MASK, [0.0, 0.5], **step),
        *(({MASK: 0.5, "seed": seed, **linear}, ["mask_schedule=linear", f"seed={seed}"]) for seed in (0, 1)),
    ]
    design = find_design(runs_of(tmp_path, rows))
    labels = [f"mask_schedule={name}, {MASK}={value}" for name, value in (("step", 0), ("step", 0.5), ("linear", 0.5))]
    assert [arm.label for arm in design.arms] == labels
    for text in ("0", "0.0", f"{MASK}=0", labels[0]):
        assert design.find_baseline(text).label == labels[0]
    assert design.find_baseline("mask_schedule=linear").label == labels[2]
    with pytest.raises(
        ConfigError, match=r"=0.5: several settings have this value; there are: .*=step, .*; .*=linear, "
    ):
        design.find_baseline("0.5")
    for text in ("0.7", "lr0=0", "="):
        with pytest.raises(
            ConfigError, match=rf"report.baseline={text}: no run has this value of mask_schedule, {MASK}"
        ):
            design.find_baseline(text)


def test_runs_that_differ_in_their_seed_alone_have_no_baseline(tmp_path):
    design = find_design(runs_of(tmp_path, grid(MASK, [0.5])))
    with pytest.raises(ConfigError, match=r"report.baseline=0.5: the runs differ in their seed alone; leave it out"):
        design.find_baseline("0.5")
