"""The study that is kept in git: its plan can be run, its numbers are those of its results, and a repetition is compared."""

import csv
import importlib
import re
from pathlib import Path

import pytest
import yaml
from scipy import stats

from tests.helpers.configs import compose_config

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "multirun/user_turn_mask"
PLAN = yaml.safe_load((STUDY / "plan.yaml").read_text(encoding="utf-8"))
NLL = "assistant_nll (test/response)"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("study")


def read_losses(name: str, key: str = "train_user_turn_mask_step") -> dict[str, dict[str, float]]:
    """The test loss of each setting, by seed."""
    found: dict[str, dict[str, float]] = {}
    with (STUDY / "reports" / name / "results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row[key], {})[row["seed"]] = float(row[NLL])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("block", PLAN["blocks"])
def test_every_block_of_the_plan_is_a_configuration(block):
    planned = PLAN["blocks"][block]
    swept = [line.partition(",")[0] if "[" not in line else line for line in planned["sweep"]]
    settings = [line for line in planned.get("settings", PLAN["settings"]) if not line.startswith("hydra.")]
    assert compose_config(*settings, *swept).steps == (40 if block == "pretrained" else 1200)


def test_the_pages_say_the_difference_that_the_results_have():
    losses = read_losses("primary")
    assert set(losses) == {"0.0", "0.5"}
    assert losses["0.0"].keys() == losses["0.5"].keys() == set(map(str, range(12)))
    paired = [losses["0.5"][seed] - losses["0.0"][seed] for seed in losses["0.0"]]
    half = stats.t.ppf(0.975, 11) * stats.sem(paired)
    assert half < 0.02
    mean = sum(paired) / 12
    for page in (STUDY / "report.md", ROOT / "README.md", ROOT / "README.ko.md"):
        assert f"{mean:.3f}" in page.read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-"), page


@pytest.mark.parametrize(
    ("report", "key", "baseline", "seeds"),
    [
        ("pretrained", "train_user_turn_mask_step", "0.0", 5),
        ("controls", "mask_schedule", "step", 12),
        ("constant_rate", "train_user_turn_mask_step", "0.0", 6),
        ("fixed_divisor", "train_user_turn_mask_step", "0.0", 6),
        ("constant_order", "mask_schedule", "step", 6),
        ("half_noise", "train_user_turn_mask_step", "0.0", 6),
        ("full_noise", "train_user_turn_mask_step", "0.0", 6),
    ],
)
def test_the_report_says_the_differences_of_the_smaller_parts(report, key, baseline, seeds):
    losses = read_losses(report, key)
    page = (STUDY / "report.md").read_text(encoding="utf-8")
    assert len(losses) == (2 if report == "constant_order" else 4 if report == "controls" else 3)
    for value in losses.keys() - {baseline}:
        paired = [losses[value][seed] - losses[baseline][seed] for seed in losses[baseline]]
        assert len(paired) == seeds
        assert f"{sum(paired) / seeds:+.4f}" in page, value


def test_no_place_of_a_machine_is_kept():
    reports = [STUDY / "report.md", *(STUDY / "reports").rglob("report.md"), *(STUDY / "reports").rglob("results.csv")]
    assert len(reports) > 4
    for report in reports:
        assert not re.search(r"(?:/home|/root|/tmp|/work|/Users)/", report.read_text(encoding="utf-8")), report


def write_results(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(["run,x,seed,end,steps_done,hours,loss", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("made", "lines"),
    [
        (["000-a,0.0,1,finished,5,0.2,3.5", "001-b,0.5,1,finished,5,0.2,3.25"], ["2 runs in both, 0 in one alone", "all numbers are equal"]),
        (["007-b,0.5,1,finished,5,9,3.5", "008-c,0.5,2,finished,5,9,3"], ["1 runs in both, 2 in one alone", "loss: at most 0.25 apart"]),
    ],
)  # fmt: skip
def test_a_repetition_is_compared_run_by_run(study, tmp_path, made, lines):
    kept = write_results(tmp_path / "kept.csv", ["000-a,0.0,1,finished,5,0.1,3.5", "001-b,0.5,1,finished,5,0.1,3.25"])
    text = study.compare(kept, write_results(tmp_path / "made.csv", made))
    assert all(line in text for line in lines), text
    assert "not there" in study.compare(tmp_path / "absent.csv", kept)


def test_a_report_is_on_the_blocks_that_were_run(study, tmp_path):
    (tmp_path / "main/0-a").mkdir(parents=True)
    (tmp_path / "controls/0-b").mkdir(parents=True)
    (tmp_path / "main/0-a/args.yaml").touch()
    assert study.find_patterns(tmp_path, ["main/0*", "controls/0*"]) == [f"{tmp_path}/main/0*"]


def test_what_is_typed_takes_the_place_of_what_is_planned(study):
    planned = ["steps=1200", "seed=0,1", "optim.lr0=5e-3"]
    assert study.replace_typed(planned, ["seed=7", "data.path=x"]) == [
        "steps=1200",
        "optim.lr0=5e-3",
        "seed=7",
        "data.path=x",
    ]


@pytest.mark.parametrize(
    "typed", [["--dry-run"], ["sweep.dry_run=true"], ["sweep.dry_run=True", "--dry-run", "seed=7"]]
)
def test_a_dry_run_ends_after_the_jobs_are_shown(study, monkeypatch, typed):
    commands = []
    monkeypatch.setattr(study, "run", lambda *arguments: commands.append(arguments) or 0)
    monkeypatch.setattr(
        "sys.argv", ["study.py", str(STUDY / "plan.yaml"), "--block", "main", "--block", "controls", *typed]
    )
    assert study.main() == 0
    assert [command[0] for command in commands] == ["-m", "-m"]
    for command in commands:
        assert [line for line in command if line.startswith("sweep.dry_run")] == ["sweep.dry_run=true"]
        assert ("seed=7" in command) == ("seed=7" in typed)
