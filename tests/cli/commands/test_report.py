"""mode=report: finds the runs, prints the answer, writes the files; and what it says where runs are missing or damaged."""

import csv
import json

import pytest
from helpers.run_folders import make_run, write

from dialog_trainer.sweeps.record import JobRecord, SweepRecord, write_sweep

pytestmark = pytest.mark.slow
MASK = "train_user_turn_mask_step"
PLAIN = "figures.enabled=false"
LOSSES = {0.0: [3.0, 3.1, 3.2], 0.5: [2.9, 3.02, 3.09]}


@pytest.fixture
def sweep(tmp_path):
    for value, losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            make_run(
                tmp_path / f"mask/m{value}-s{seed}", loss, settings={MASK: value, "seed": seed},
                typed=[f"{MASK}={value}", f"seed={seed}"],
            )  # fmt: skip
    return tmp_path / "mask"


def test_the_answer_is_printed_within_80_columns_and_the_files_are_written(sweep, dialog_trainer):
    code, out, err = dialog_trainer("mode=report", f"runs='{sweep}'")
    assert code == 0, err
    table, rest = out.split("\n\n", 1)
    assert max(map(len, table.splitlines())) <= 80
    assert rest.startswith(
        f"{MASK}=0.5 has the lowest assistant_nll, lower than 0: difference -0.097 ± 0.038 nats per token"
    )
    assert "(p = 0.008)" in rest
    assert "the intervals are of other seeds on the same dialogues" in rest
    files = {
        path.relative_to(sweep).as_posix() for path in sweep.rglob("*") if path.is_file() and "-s" not in str(path)
    }
    figures = {
        f"figures/{name}.{kind}"
        for name in ("differences", "means", "loss_by_role", "learning_curves")
        for kind in ("png", "pdf")
    }
    assert files == {"report.html", "report.md", "results.csv", *figures}
    assert all(name in out for name in files)
    with (sweep / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_loss (last validation)"]) for row in rows] == pytest.approx(
        [3, 3.1, 3.2, 2.9, 3.02, 3.09]
    )
    assert {(row["end"], row["steps_done"], row["tokens"]) for row in rows} == {("finished", "40", "1000")}
    page = (sweep / "report.md").read_text(encoding="utf-8")
    assert "| 0.5 | 3 | 3.00 ± 0.24 | -0.097 ± 0.038 | 0.008 | lower |" in page


def test_a_list_of_runs_needs_a_folder_for_the_report(sweep, tmp_path, dialog_trainer):
    runs = f"runs=['{sweep}/m0.0-s0','{sweep}/m0.5-s0']"
    code, _, err = dialog_trainer("mode=report", runs)
    assert (code, "pass report.out=<folder>" in err) == (2, True)
    code, out, err = dialog_trainer("mode=report", runs, PLAIN, f"report.out='{tmp_path}/out'", "report.baseline=0.5")
    assert code == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "report.md", "results.csv"}
    assert "With one seed there is no interval and no test: the differences may be noise of the seed." in out
    assert (tmp_path / "out/report.html").is_file()


def test_runs_of_one_setting_have_no_baseline(sweep, tmp_path, dialog_trainer):
    code, out, err = dialog_trainer(
        "mode=report", PLAIN, f"runs=['{sweep}/m0.0-s0','{sweep}/m0.0-s1']", f"report.out='{tmp_path}/a'"
    )
    assert code == 0, err
    assert (
        "all runs: assistant_nll is 3.05 (95 % interval 2.41 to 3.69) nats per token at the last validation, 2 seeds."
        in out
    )
    alone = tmp_path / "alone"
    alone.mkdir()
    (sweep / "m0.0-s0").rename(alone / "m0.0-s0")
    code, out, err = dialog_trainer("mode=report", PLAIN, f"runs='{alone}'")
    assert code == 0, err
    assert "With one seed there is no interval." in out
    assert "warning: the intervals" not in out


def test_a_pattern_names_the_runs_that_match_it(sweep, tmp_path, dialog_trainer):
    runs = f"runs=['{sweep}/m0.5-*','{sweep}/m*']"  # the folder of figures matches too, and is none
    (sweep / "m-figures").mkdir()
    code, _, err = dialog_trainer("mode=report", runs, PLAIN, f"report.out='{tmp_path}/out'", "report.baseline=0")
    assert code == 0, err
    with (tmp_path / "out/results.csv").open(encoding="utf-8") as file:
        names = [row["run"] for row in csv.DictReader(file)]
    assert len(names) == len(set(names)) == 6
    assert dialog_trainer("mode=validate", f"runs='{sweep}/nothing-*'")[2] == (
        f"1 error in the configuration:\n  - runs={sweep}/nothing-*: no folder of a run or of a sweep matches\n"
    )


def test_what_cannot_be_read_is_listed_and_the_rest_is_compared(sweep, dialog_trainer):
    write(sweep / "m0.0-s2/args.yaml", "steps: [")
    make_run(sweep / "m0.5-s2", 3.0, settings={MASK: 0.5, "seed": 2}, typed=[f"{MASK}=0.5", "seed=2"], step=20)
    (sweep / "figures").mkdir()  # not a run
    code, out, err = dialog_trainer("mode=report", PLAIN, f"runs='{sweep}'", "report.equivalence_margin=0.5")
    assert code == 0, err
    [line] = [line for line in out.splitlines() if "not counted" in line]
    assert "m0.5-s2: incomplete: step 20 of 40" in line
    assert "m0.0-s2: " in line
    assert "cannot be read as plain YAML" in line
    assert "has the lowest assistant_nll, equivalent to 0 within ±0.5: " in out


def test_jobs_of_a_sweep_that_failed_or_wait_are_listed(sweep, dialog_trainer):
    names = sorted(path.name for path in sweep.iterdir())
    jobs = []
    for index, name in enumerate(names):
        value, seed = name.removeprefix("m").split("-s")
        jobs.append(
            JobRecord(index=index, name=name, overrides=(f"{MASK}={value}", f"seed={seed}"), digest=f"{index:016}", status="done",
                      end="finished", steps=40, steps_done=40)
        )  # fmt: skip
    jobs[1] = jobs[1].model_copy(update={"status": "failed", "error": "the disk is full"})
    jobs.append(jobs[0].model_copy(update={"index": 6, "name": "later", "digest": "f" * 16, "status": "waiting"}))
    record = SweepRecord(
        schema_version=1, created="", command="", overrides=(), swept=(MASK, "seed"), settings={}, jobs=tuple(jobs)
    )
    write_sweep(sweep, record)
    code, out, err = dialog_trainer("mode=report", PLAIN, f"runs='{sweep}'")
    assert code == 0, err
    assert f"not counted: {names[1]}: failed; later: waiting" in out
    assert "failed: the disk is full" in (sweep / "report.md").read_text(encoding="utf-8")
    for name in (*names[:2], "later"):
        write(sweep / f"logs/{name}.log", "note: the data are few\nstep 1/40  loss 5.8\n")
    write(sweep / f"logs/{names[2]}.log", "note: the data are few\nnote: it is slow\n")
    assert dialog_trainer("mode=report", PLAIN, f"runs='{sweep}'")[1] == out  # the sweep has shown them
    (sweep / "submitted").mkdir()
    assert dialog_trainer("mode=report", PLAIN, f"runs='{sweep}'")[1].splitlines()[:5] == [
        f"notes of {names[0]}; of later jobs only new ones follow:",
        "  note: the data are few",
        f"new notes of {names[2]}:",
        "  note: it is slow",
        out.splitlines()[0],
    ]


def test_real_runs_are_trained_scored_and_compared(dialog_trainer, tiny_options, tmp_path):
    for value in (0, 1):
        for seed in (0, 1):
            options = ("steps=2", f"{MASK}={value}", f"seed={seed}", f"name=m{value}-s{seed}", "optim.lr0=0.5")
            assert dialog_trainer(*tiny_options, *options)[0] == 0
    runs = f"runs='{tmp_path}/runs'"
    assert dialog_trainer("mode=validate", runs, "split=test", "load_model_type=last")[0] == 0
    code, out, err = dialog_trainer("mode=report", PLAIN, runs)
    assert code == 0, err
    assert out.startswith(f"assistant_nll (test/response) by {MASK}\n")
    assert [line for line in out.splitlines() if line.startswith("warning")] == [
        f"warning: test/response: {names}: scores from {count} dialogues; intervals and p values are rough below about 20"
        for names, count in (("bleu2, bleu4, nist2, nist4", 2), ("assistant_nll, user_nll, end_nll, ppl", 4))
    ]
    scores = [
        json.loads(path.read_text())
        for path in sorted((tmp_path / "runs").glob("*/validation/test/response/scores.json"))
    ]
    with (tmp_path / "runs/results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, scored in zip(rows, scores, strict=True):
        assert float(row["assistant_nll (test/response)"]) == pytest.approx(scored["losses"]["assistant_nll"])
        assert float(row["ppl (test/response)"]) == pytest.approx(scored["scores"]["ppl"]["value"])
    page = (tmp_path / "runs/report.md").read_text(encoding="utf-8")
    assert "Noise of seeds and of test dialogues" in page


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "mode=report needs runs: pass runs=<folder of a sweep>"),
        (["runs=nowhere"], "runs=nowhere: there is no such folder"),
        (["runs='{sweep}k/'"], "maskk/: there is no such folder; did you mean "),
        (["runs=nowhere/*"], "runs=nowhere/*: no folder of a run or of a sweep matches"),
        (["runs=."], "holds no run (no folder with args.yaml)"),
        (["runs='{sweep}'", "report.baseline=0.3"], "report.baseline=0.3: no run has this value"),
        (["runs='{sweep}'", "report.metric=bleu9"], "report.metric=bleu9: no complete run has it; there are: "),
        (["runs='{sweep}'", "report.equivalence_margin=0"], "report.equivalence_margin=0: must be a number above 0"),
        (["runs='{sweep}'", "mode=inspect"], "goes with mode=report or mode=validate"),
        (
            ["runs='{cut}'"],
            "no run is complete, so that there is nothing to compare:\n  run: incomplete: step 20 of 40",
        ),
    ],
)
def test_wrong_options_are_named(sweep, tmp_path, monkeypatch, dialog_trainer, options, error):
    make_run(tmp_path / "cut/run", step=20)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, _, err = dialog_trainer("mode=report", *(one.format(sweep=sweep, cut=tmp_path / "cut") for one in options))
    assert code == 2
    assert error in err


def test_a_setting_of_another_type_is_named(sweep, dialog_trainer):
    make_run(sweep / "odd", settings={"metrics.names": "bleu2"})
    code, out, err = dialog_trainer("mode=report", f"runs='{sweep}'")
    assert code == 0, err
    assert "odd/args.yaml: metrics.names=bleu2: must be" in out
