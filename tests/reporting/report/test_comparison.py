"""Estimates of arms, paired differences, verdicts, the primary quantity, and warnings."""

import numpy as np
import pytest
from helpers.run_folders import make_run

from dialog_trainer.cli.commands.report import collect_folder
from dialog_trainer.errors import ConfigError
from dialog_trainer.reporting.report.arms import find_design
from dialog_trainer.reporting.report.comparison import (
    LAST,
    Quantity,
    choose_primary,
    compare_arms,
    find_warnings,
    list_quantities,
)
from dialog_trainer.reporting.report.sentences import build_headline
from dialog_trainer.reporting.report.statistics import estimate

MASK = "train_user_turn_mask_step"
LOSSES = {0.0: [3.0, 3.1, 3.2], 0.5: [2.9, 3.02, 3.09], 1.0: [3.3, 3.1, 3.0]}


def runs_of(tmp_path, losses=None, **options):
    """A run for each loss, by arm; further options by arm and seed."""
    return [
        collect_folder(
            make_run(
                tmp_path / f"{value}-{seed}",
                loss,
                settings={MASK: value, "seed": seed},
                typed=[f"{MASK}={value}", f"seed={seed}"],
                **{key: choose(value, seed) for key, choose in options.items()},
            ),
            None,
        )
        for value, of_arm in (losses or LOSSES).items()
        for seed, loss in enumerate(of_arm)
    ]


def compared(runs, quantity=Quantity(LAST, "validation_loss"), margin=None):  # noqa: B008
    design = find_design(runs)
    return compare_arms(quantity, design, design.arms[0], margin)


@pytest.mark.slow
def test_differences_are_paired_by_seed_and_adjusted_over_the_arms(tmp_path):
    found = compared(runs_of(tmp_path))
    baseline, half, one = found.results
    assert baseline.difference is None
    assert half.estimate.interval.low == pytest.approx(estimate(np.array(LOSSES[0.5])).interval.low)
    assert half.difference.mean == pytest.approx(-0.0966666)
    assert half.adjusted_p == pytest.approx(2 * half.difference.p_value)
    assert (half.verdict, one.verdict) == ("lower", "undecided")
    assert found.best().arm.label == "0.5"
    assert not found.has_dialogues


@pytest.mark.parametrize(
    ("losses", "headline"),
    [
        ({0.0: [3.0, 3.1, 3.3], 0.5: [3.0, 3.2, 3.1]}, f"No setting can be distinguished from {MASK}=0; 0.5 has the lowest mean "),
        ({0.0: [3.0, 3.1, 3.1], 0.5: [3.0, 3.2, 3.1]}, f"No setting can be distinguished from {MASK}=0, which has the lowest mean "),
        (LOSSES, f"{MASK}=0.5 has the lowest validation_loss, lower than 0: difference "),
    ],
)  # fmt: skip
def test_the_headline_names_a_best_setting_where_one_differs(tmp_path, losses, headline):
    runs = runs_of(tmp_path, losses)
    found = build_headline(compared(runs), find_design(runs))
    assert found[0].startswith(headline)


def test_a_margin_makes_a_small_difference_equivalent(tmp_path):
    runs = runs_of(tmp_path, {0.0: [3.0, 3.1, 3.2], 0.5: [3.001, 3.099, 3.2005]})
    assert [one.verdict for one in compared(runs, margin=0.01).results] == ["", "equivalent"]
    assert [one.verdict for one in compared(runs).results] == ["", "undecided"]


def test_test_dialogues_are_the_second_source_of_noise(tmp_path):
    draw = np.random.default_rng(0)
    dialogues = draw.normal(0, 1, 30)
    runs = runs_of(tmp_path, scored=lambda value, seed: (LOSSES[value][seed] + dialogues * (1 + value / 10)).tolist())
    found = compared(runs, Quantity("test/response", "assistant_nll"))
    assert found.has_dialogues
    half = found.results[1]
    assert half.difference.mean == pytest.approx(-0.0966666 + dialogues.mean() / 20)
    seeds_alone = estimate(np.array(LOSSES[0.5]) - LOSSES[0.0])
    assert half.difference.standard_error > seeds_alone.standard_error
    assert half.difference.seed_interval.low == pytest.approx(seeds_alone.interval.low + dialogues.mean() / 20)
    assert not compared(runs, Quantity("test/response", "distinct2")).has_dialogues


def test_other_test_dialogues_in_one_run_leave_the_noise_of_seeds_alone_and_warn(tmp_path):
    runs = runs_of(tmp_path, scored=lambda value, seed: [3.0, 3.1, 3.2][: 2 + ((value, seed) == (0.5, 1))])
    counts = {len(run.scored[0].dialogues["assistant_nll"].values) for run in runs}
    assert counts == {2, 3}
    assert not compared(runs, Quantity("test/response", "assistant_nll")).has_dialogues


@pytest.mark.slow
def test_one_seed_has_no_interval_and_a_metric_that_a_run_lacks_is_of_the_others(tmp_path):
    single = compared(runs_of(tmp_path / "a", {0.0: [3.0], 0.5: [2.9]}))
    assert [one.estimate.interval for one in single.results] == [None, None]
    assert single.results[1].adjusted_p is None
    runs = runs_of(tmp_path / "b", scored=lambda value, seed: [3.0, 3.1] if (value, seed) != (0.5, 1) else [])
    lacking = compared(runs, Quantity("test/response", "assistant_nll"))
    assert [one.estimate.seeds for one in lacking.results] == [3, 2, 3]
    assert lacking.results[1].difference.seeds == 2
    assert "test/response: not scored, so missing from its tables: 0.5-1" in find_warnings(runs, [MASK])


def test_the_primary_quantity(tmp_path):
    runs = runs_of(tmp_path, {0.0: [3.0], 0.5: [2.9]}, scored=lambda value, seed: [3.0, 3.1])
    quantities = list_quantities(runs)
    assert choose_primary(quantities, runs, None) == Quantity("test/response", "assistant_nll")
    assert choose_primary(quantities, runs, "bleu2") == Quantity(LAST, "bleu2")
    with pytest.raises(ConfigError, match=r"report.metric=bleu9: no complete run has it; there are: assistant_nll"):
        choose_primary(quantities, runs, "bleu9")
    partly = runs_of(tmp_path / "b", {0.0: [3.0], 0.5: [2.9]}, scored=lambda value, seed: [3.0, 3.1] if value else [])
    assert choose_primary(list_quantities(partly), partly, None) == Quantity(LAST, "assistant_nll")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            {"state": lambda value, seed: {"threads": 1 + seed}},
            "threads is not the same in all runs: 1 (3 runs), 2 (3 runs)",
        ),
        ({"state": lambda value, seed: {"held_out": f"d{seed}"}}, "validation data is not the same"),
        (
            {"step": lambda value, seed: 40 - 10 * seed, "bad_validations": lambda value, seed: 5 * seed},
            "unequal budgets",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_warned_of(tmp_path, options, warning):
    runs = runs_of(tmp_path, {value: losses[:2] for value, losses in LOSSES.items()}, **options)
    assert any(warning in one for one in find_warnings(runs, [MASK])), find_warnings(runs, [MASK])


def test_few_scored_dialogues_are_warned_of(tmp_path):
    runs = runs_of(tmp_path, {0.0: [3.0]}, scored=lambda value, seed: [3.0, 3.1])
    assert find_warnings(runs, [MASK]) == [
        "test/response: assistant_nll, ppl, distinct2: scores from 2 dialogues; intervals and p values are rough below about 20"
    ]


def test_equal_runs_have_no_warning(tmp_path):
    assert find_warnings(runs_of(tmp_path), [MASK]) == []
