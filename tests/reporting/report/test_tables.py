"""The table of the primary quantity."""

import pytest
from helpers.run_folders import make_run

from dialog_trainer.cli.commands.report import collect_folder
from dialog_trainer.reporting.report.arms import find_design
from dialog_trainer.reporting.report.comparison import LAST, Quantity, compare_arms
from dialog_trainer.reporting.report.tables import build_primary_table

MASK = "train_user_turn_mask_step"


@pytest.mark.parametrize(
    ("typed", "head", "baseline"),
    [
        ([f"{MASK}=0", f"{MASK}=1"], "minus 0 \N{PLUS-MINUS SIGN} 95 %", "0"),
        ([f"{MASK}=0 batch_size=16", f"{MASK}=1 batch_size=24"], "minus the baseline \N{PLUS-MINUS SIGN} 95 %",
         f"batch_size=16, {MASK}=0"),
    ],
)  # fmt: skip
def test_a_long_name_of_the_baseline_is_left_to_its_row(tmp_path, typed, head, baseline):
    runs = []
    for number, line in enumerate(typed * 2):
        settings = {key: int(value) for key, value in (part.split("=") for part in line.split())}
        folder = make_run(
            tmp_path / str(number), 3 + number, settings={**settings, "seed": number // 2}, typed=line.split()
        )
        runs.append(collect_folder(folder, None))
    design = find_design(runs)
    table = build_primary_table(compare_arms(Quantity(LAST, "validation_loss"), design, design.arms[0], None), design)
    assert table.head[3] == head
    assert (table.rows[0][0], table.rows[0][3]) == (baseline, "baseline")
