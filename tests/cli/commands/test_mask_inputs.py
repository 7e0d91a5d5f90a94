"""Invalid masks, own schedules, and the mask of a resumed run, through the command line."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from dialog_trainer.training.loop import train_step

pytestmark = pytest.mark.slow

DIGEST = {"data", "vocabulary", "format", "truncation", "schedule", "whole"}
OWN = """
from dialog_trainer.masking.schedules import RoleWeights


def fade(progress, *, first, last=0.0):
    return RoleWeights(first + (last - first) * progress)


def broken(progress, *, value, since=0.0):
    return RoleWeights(float(value) if progress >= since else 1.0, 1.0 if float(value) else float(progress < since))


def number(progress):
    return 0.5


not_a_function = 3
"""


@pytest.fixture
def refused(dialog_trainer, tiny_options, tmp_path):
    """`refused(*options)` returns the errors of a run that is refused before anything is written."""

    def run(*options: str) -> str:
        code, out, err = dialog_trainer(*tiny_options, "steps=10", *options)
        assert code == 2, out + err
        assert "Traceback" not in out + err
        assert not (tmp_path / "runs").exists()
        return err

    return run


POINTS = "mask_schedule.points="
PIECEWISE = "mask_schedule=piecewise"
LINEAR = "mask_schedule=linear"
CONSTANT = "mask_schedule=constant"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([PIECEWISE, f"{POINTS}[[0,1],[0.6,1],[0.5,0]]"], "mask_schedule.points[2]=[0.5, 0.0]: comes after progress 0.6; order the points by progress"),
        ([PIECEWISE, f"{POINTS}[[0,1],[1.5,0]]"], "mask_schedule.points[1]=[1.5, 0.0]: progress and weights must be from 0 to 1"),
        ([PIECEWISE, f"{POINTS}[[0,-0.5],[1,0]]"], "mask_schedule.points[0]=[0.0, -0.5]: progress and weights must be from 0 to 1"),
        ([PIECEWISE, f"{POINTS}[[0,1,2],[1,0]]"], "mask_schedule.points[0]=[0.0, 1.0, 2.0]: progress and weights must be from 0 to 1"),
        ([PIECEWISE, f"{POINTS}[[0,nan],[1,0]]"], "mask_schedule.points[0]=[0.0, nan]: progress and weights must be from 0 to 1"),
        ([PIECEWISE, f"{POINTS}[[nan,1],[1,0]]"], "mask_schedule.points[0]=[nan, 1.0]: progress and weights must be from 0 to 1"),
        ([PIECEWISE, f"{POINTS}[]"], "mask_schedule.points=[]: must be a list of points, each [progress, user's weight] or"),
        ([PIECEWISE, f"{POINTS}[[0]]"], "mask_schedule.points=[[0]]: must be a list of points, each"),
        ([PIECEWISE, f"{POINTS}[[0,true]]"], "mask_schedule.points=[[0, True]]: must be a list of points, each"),
        ([PIECEWISE, f"{POINTS}0.5"], "mask_schedule.points=0.5: must be a list of points, each"),
        ([PIECEWISE, f"{POINTS}[[0,1],[0.5,0,0],[0.7,0,0],[1,1]]"], "mask_schedule: no turn carries weight at steps 5 to 7 of 10; nothing would be trained but ends of dialogues: give one role weight"),
        ([PIECEWISE, f"{POINTS}[[0,0,0],[0.1,1],[0.9,1],[1,0,0]]"], "mask_schedule: no turn carries weight at steps 0, 10 of 10; nothing would be trained but ends of dialogues"),
        ([PIECEWISE, f"{POINTS}[[0,1],[0.3,0,0],[1,1]]", "schedule_steps=20"], "mask_schedule: no turn carries weight at step 6 of 20; nothing would"),
        ([PIECEWISE, f"{POINTS}[[0,1,0]]", "mask_schedule.last_turn_only=true"], "mask_schedule: no turn carries weight at steps 0 to 10 of 10; nothing would"),
        ([LINEAR, "mask_schedule.start=0.8", "mask_schedule.end=0.2"], "mask_schedule.start=0.8: must be at most mask_schedule.end=0.2"),
        ([CONSTANT, "mask_schedule.end_weight=-0.1"], "mask_schedule.end_weight=-0.1: must be a number from 0 to 1"),
        ([CONSTANT, "mask_schedule.end_weight=nan"], "mask_schedule.end_weight=nan: must be a number from 0 to 1"),
        ([CONSTANT, "mask_schedule.end_weight=1.01"], "mask_schedule.end_weight=1.01: must be a number from 0 to 1"),
        ([CONSTANT, "mask_schedule.end_weight=null"], "mask_schedule.end_weight=null: must be a number from 0 to 1"),
        (["mask_schedule.trained_role=system"], "mask_schedule.trained_role=system: must be assistant or user"),
        (["mask_schedule=stairs"], "stairs"),
        (["+mask_schedule.colour=red"], "mask_schedule.colour=red: there is no such option; dialog_trainer.masking.schedules.step takes no option"),
        (["+mask_schedule.end_weight=0.5"], "mask_schedule.end_weight=0.5: there is no such option; dialog_trainer.masking.schedules.step takes no option"),
        (["mask_schedule._target_=os.system"], "mask_schedule: os.system fails at progress 0: TypeError"),
    ],
)  # fmt: skip
def test_an_invalid_mask_is_refused_with_value_place_and_remedy(refused, options, said):
    assert said in refused(*options)


@pytest.mark.parametrize(
    ("chosen", "reasons"),
    [
        (
            (LINEAR,),
            {
                "mask_schedule.start=-0.1": "must be a number from 0 to 1",
                "mask_schedule.start_weight=-1": "must be a number from 0 to 1",
                "mask_schedule.end_weight=nan": "must be a number from 0 to 1",
                "mask_schedule.trained_role=narrator": "must be assistant or user",
            },
        ),
        (
            ("mask_schedule=cosine",),
            {
                "mask_schedule.end=2": "must be a number from 0 to 1",
                "mask_schedule.normalize=batch": "must be token or fixed or turn",
                "mask_schedule.untrained=keep": "must be drop or refuse",
                "mask_schedule.last_turn_only=1": "must be true or false",
                "mask_schedule.alignment_every_n_steps=0": "must be a whole number of at least 1 or null",
            },
        ),
        ((), {"train_user_turn_mask_step=nan": "must be a number from 0 to 1"}),
    ],
)
def test_each_invalid_option_of_a_mask_is_named(refused, chosen, reasons):
    said = refused(*chosen, *reasons)
    assert all(f"{typed}: {reason}" in said for typed, reason in reasons.items()), said
    assert said.startswith(f"{len(reasons)} error")


def test_all_errors_are_named_together(refused):
    said = refused(PIECEWISE, f"{POINTS}[[0,2],[0.5,1],[0.4,-1]]", "mask_schedule.normalize=all")
    assert said.startswith("4 errors in the configuration:")
    assert [index in said for index in ("points[0]", "points[1]", "points[2]")] == [True, False, True]


@pytest.fixture
def data(jsonl_folder, tmp_path):
    """`data(*rows)` returns the options for made-up training dialogues followed by `rows`."""

    def options(*rows: list[dict]) -> list[str]:
        lines = (jsonl_folder / "train.jsonl").read_text()
        lines += "".join(json.dumps({"messages": row}) + "\n" for row in rows)
        (tmp_path / "own.jsonl").write_text(lines)
        held_out = f"data.validation_data_path='{jsonl_folder}/validation.jsonl'"
        return ["data=jsonl", f"data.train_data_path='{tmp_path}/own.jsonl'", held_out]

    return options


def says(role: str, content: str, **more) -> dict:
    return {"role": role, "content": content, **more}


@pytest.fixture
def own_data(data, tiny_options):
    """Options of a run on own rows."""
    rest = [option for option in tiny_options if not option.startswith("data")]
    return lambda *rows: [*rest, "steps=3", *data(*rows)]


NO_REPLY = [says("user", "I heard that the cat never sees the sea . " * 8), says("assistant", "Yes .")]


@pytest.mark.parametrize(
    ("row", "options", "who"),
    [
        (NO_REPLY, (), "assistant"),
        ([says("user", "the sea"), says("assistant", "Yes .", train=False), says("user", "long walks " * 40)], (), "assistant"),
        ([says("assistant", "green tea " * 40), says("user", "the sea")], ("mask_schedule.trained_role=user",), "user"),
    ],
)  # fmt: skip
def test_a_sequence_without_a_token_to_train_is_refused_or_dropped(
    dialog_trainer, own_data, tmp_path, row, options, who
):
    command = [*own_data(row), "data.truncation=keep_start", *options]
    code, out, err = dialog_trainer(*command, "mask_schedule.untrained=refuse")
    assert code == 2, out + err
    identifier = re.search(r"the first of dialogue (\S+?);", err)[1]
    assert f"mask_schedule.untrained=refuse: 1 sequences have no {who} turn and no end" in err
    assert "pass mask_schedule.untrained=drop, or correct the data" in err
    assert identifier.endswith("37")  # the line of the file
    assert not (tmp_path / "runs").exists()
    code, out, err = dialog_trainer(*command)
    assert code == 0, err
    assert "1 sequences without a token to train are not used" in out


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (says("system", "be brief", weight=0.5), "turn 0 gives a loss weight to a turn of the system, which is never trained"),
        (says("user", "the sea", weight=-1), "messages[0] has 'weight': -1; it should be a number from 0 to 1,000"),
        (says("user", "the sea", weight=float("nan")), "messages[0] has 'weight': nan; it should be a number from 0 to 1,000"),
        (says("user", "the sea", train=0.5), "messages[0] has 'train': 0.5; it should be true or false"),
        (says("user", "the sea", train=False, weight=1), "messages[0] has 'train' and 'weight', which disagree; keep one"),
        (says("narrator", "the sea"), "these roles are not known: 'narrator' (1 turns). Say the role of each name: "),
    ],
)  # fmt: skip
def test_an_invalid_weight_names_file_and_line(dialog_trainer, own_data, tmp_path, turn, said):
    code, out, err = dialog_trainer(*own_data([turn, says("user", "long walks"), says("assistant", "Yes .")]))
    assert code == 2, out + err
    assert f"{tmp_path}/own.jsonl" in err
    assert "37" in err.replace(str(tmp_path), "")
    assert said in err
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """`own(name)` returns the options that choose a function of a module of the user."""
    module = "own_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    (tmp_path / f"{module}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: (f"mask_schedule._target_={module}.{name}", f"allow_targets=[{module}.{name}]")


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        ("broken", ["+mask_schedule.value=1.5"], "mask_schedule: a weight is not a number from 0 to 1 at steps 0 to 10 of 10; correct the schedule"),
        ("broken", ["+mask_schedule.value=nan", "+mask_schedule.since=0.45"], "mask_schedule: a weight is not a number from 0 to 1 at steps 5 to 10 of 10"),
        ("broken", ["+mask_schedule.value=-1", "+mask_schedule.since=1"], "mask_schedule: a weight is not a number from 0 to 1 at step 10 of 10"),
        ("broken", ["+mask_schedule.value=0", "+mask_schedule.since=0.8"], "mask_schedule: no turn carries weight at steps 8 to 10 of 10"),
        ("number", [], "{target} gives 0.5, where a schedule gives RoleWeights(user, assistant)"),
        ("fade", [], "mask_schedule: {target}: missing a required argument: 'first'"),
        ("fade", ["+mask_schedule.frist=1"], "mask_schedule.frist=1: {target} takes no frist"),
        ("not_a_function", [], "mask_schedule._target_={target}: cannot be called"),
        ("not_there", [], "_target_={target}: cannot be imported"),
    ],
)  # fmt: skip
def test_a_wrong_schedule_of_the_user_is_refused(refused, own, function, options, said):
    chosen = own(function)
    assert said.format(target=chosen[0].split("=")[1]) in refused(*chosen, *options)


def rows_of(run, split="train") -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == split]


def test_a_schedule_of_the_user_trains_with_its_keys_and_needs_permission(dialog_trainer, tiny_options, tmp_path, own):
    fade = own("fade")
    code, out, err = dialog_trainer(*tiny_options, "steps=3", "schedule_steps=4", *fade, "+mask_schedule.first=0.8")
    assert code == 0, out + err
    run = tmp_path / "runs/run"
    assert [row["user_weight"] for row in rows_of(run)] == pytest.approx([0.8, 0.6, 0.4])
    command = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", "steps=5")
    code, _, err = dialog_trainer(*command)
    assert code == 2
    assert f"to run this class as code, pass {fade[1]}" in err
    code, out, err = dialog_trainer(*command, fade[1], "+mask_schedule.last=0.4")
    assert code == 0, err
    assert [row["user_weight"] for row in rows_of(run)] == pytest.approx([0.8, 0.6, 0.4, 0.5, 0.4])
    assert "mask_schedule.last: (none) -> 0.4" in out
    assert "the mask schedule differs from the checkpoint's" in out


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture
def run(dialog_trainer, own_data, tmp_path, made, tmp_path_factory):
    """A copy of a run of 3 steps on own data."""
    command = own_data(NO_REPLY)
    if not made:
        code, out, err = dialog_trainer(*command)
        assert code == 0, out + err
        made["run"] = shutil.copytree(tmp_path / "runs/run", tmp_path_factory.mktemp("made") / "run", symlinks=True)
    else:
        shutil.copytree(made["run"], tmp_path / "runs/run", symlinks=True)
    return tmp_path / "runs/run"


def state_of(run) -> dict:
    return json.loads((run / "weights/last/trainer/state.json").read_text())


def resume(dialog_trainer, run, tmp_path, *options):
    data = f"data.train_data_path='{tmp_path}/own.jsonl'"
    return dialog_trainer("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", "steps=4", data, *options)


SAID = {
    "data": "the training data differs from the checkpoint's (digest {after} instead of {before}): training continues, but not exactly",
    "truncation": "the truncation differs from the checkpoint's (digest {after} instead of {before}): training continues, but not exactly",
    "schedule": "the mask schedule differs from the checkpoint's (digest {after} instead of {before}): the new one holds from here on",
}  # fmt: skip


# Which option belongs to which part: tests/build/test_build.py.
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ((), []),
        (("mask_schedule.alignment_every_n_steps=2", "patience=9", "batch_size=4"), []),
        (("other data",), ["data"]),
        (("data.truncation=keep_end",), ["truncation"]),
        (("mask_schedule=linear",), ["schedule"]),
        (("other data", "data.truncation=keep_start", "mask_schedule=constant"), ["data", "truncation", "schedule"]),
    ],
)
def test_a_resume_names_the_changed_part_of_the_mask(dialog_trainer, run, data, tmp_path, options, parts):
    before = state_of(run)["digest"]
    assert set(before) == DIGEST
    assert yaml.safe_load((run / "args.yaml").read_text())["digest"] == before
    if "other data" in options:
        data([says("user", "this song"), says("assistant", "Yes .")])
    code, out, err = resume(dialog_trainer, run, tmp_path, *(option for option in options if "=" in option))
    assert code == 0, err
    after = state_of(run)["digest"]
    assert {name for name in DIGEST if after[name] != before[name]} == {*parts, *(["whole"] if parts else [])}
    for name, line in SAID.items():
        assert (line.format(before=before[name], after=after[name]) in out) == (name in parts)
    assert out.count("differs from the checkpoint's") == len(parts)
    assert f"(digest {after['whole']})" in out
    assert yaml.safe_load((run / "args.yaml").read_text())["digest"] == after
    assert yaml.safe_load((run / "args.0.yaml").read_text())["digest"] == before
    assert dialog_trainer("mode=validate", f"resume_model_dir='{run}'", "load_model_type=last")[0] == 0
    assert json.loads((run / "validation/validation/response/scores.json").read_text())["mask_digest"] == after


@pytest.mark.parametrize(
    "missing", [["digest"], ["user_tokens_seen"], ["assistant_tokens_seen", "digest"], ["best"], ["tokens_seen"]]
)
def test_a_checkpoint_of_another_version_is_refused_by_name(dialog_trainer, run, tmp_path, missing):
    [folder] = (run / "weights").glob("step-*")
    path, manifest = folder / "trainer/state.json", json.loads((folder / "manifest.json").read_text())
    path.write_text(json.dumps({key: value for key, value in state_of(run).items() if key not in missing}))
    content = path.read_bytes()
    manifest["files"]["trainer/state.json"] = [len(content), hashlib.sha256(content).hexdigest()]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    code, out, err = resume(dialog_trainer, run, tmp_path)
    assert code == 2, out + err
    assert (
        f"{path} has no {', '.join(missing)}: another version wrote it; to start a new run from its weights, pass mode=train"
        in err
    )
    assert f"model.pretrained_model={folder}" in err
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_diverging_run_with_the_probe_names_the_remedy(dialog_trainer, tiny_options, tmp_path):
    wild = ("optim=sgd", "optim.lr0=1e30", "max_grad_norm=null", "scheduler.warmup_steps=1")
    code, out, err = dialog_trainer(*tiny_options, *wild, "mask_schedule.alignment_every_n_steps=1")
    assert code == 1
    assert "is not finite; nothing was updated" in err
    assert "Traceback" not in out + err
    assert rows_of(tmp_path / "runs/run", "probe")[-1]["alignment_cosine"] is None


def test_a_loss_of_exactly_0_stays_in_its_row(dialog_trainer, tiny_options, tmp_path, monkeypatch):
    def certain(*arguments, **keys):
        report = train_step(*arguments, **keys)
        return replace(report, role_turn_sums=torch.stack([report.role_turn_sums[0] * 0, report.role_turn_sums[1]]))

    monkeypatch.setattr("dialog_trainer.training.loop.train_step", certain)
    assert dialog_trainer(*tiny_options, "steps=2")[0] == 0
    before, after = rows_of(tmp_path / "runs/run")
    assert (before["user_nll"], before["assistant_nll"], before["nll_turn_01"]) == (0, 0, 0)
    assert "user_nll" not in after
    assert "user_tokens" not in after
