"""Results are the same on 1, 2 and 3 processes, and a resumed run equals one that never stopped."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.checkpoints import digests
from helpers.processes import dialog_trainer as command
from helpers.processes import free_port, lines, rows, run_together, started, state

pytestmark = pytest.mark.slow

STEPS, EVERY = 12, 6
PLAIN = ("model.dropout=0", f"schedule_steps={STEPS}")
DROPOUT = ("model.dropout=0.2", f"schedule_steps={STEPS}")
VALIDATED_TWICE = (f"validate_every_n_steps={EVERY}", "metrics.max_dialogues=null", "prediction_print_n=1000")
# Trained runs by name: on how many processes, and how.
RUNS = {
    "one": (1, (*PLAIN, *VALIDATED_TWICE, f"steps={STEPS}")),
    "two": (2, (*PLAIN, *VALIDATED_TWICE, f"steps={STEPS}")),
    "three": (3, (*PLAIN, *VALIDATED_TWICE, f"steps={STEPS}")),
    "sharded": (2, (*PLAIN, *VALIDATED_TWICE, f"steps={STEPS}", "parallel=fsdp")),
    **{f"compiled-{kind}": (2, (*PLAIN, "steps=4", "compile=true", f"parallel={kind}")) for kind in ("ddp", "fsdp")},
    **{
        f"{name}-{size}": (size, (*PLAIN, "steps=8", f"mask_schedule.normalize={name}", *options))
        for size in (1, 2)
        for name, options in {
            "fixed": ("mask_schedule=random_turns", "mask_schedule.alignment_every_n_steps=3"),
            "turn": ("mask_schedule.last_turn_only=true", "train_user_turn_mask_step=0.1", "optim=sgd", "optim.lr0=0.1"),
        }.items()
    },
    "few-1": (1, (*PLAIN, "steps=4", "metrics.max_dialogues=2", "prediction_print_n=1000", "metrics=all_turns")),
    "few-3": (3, (*PLAIN, "steps=4", "metrics.max_dialogues=2", "prediction_print_n=1000", "metrics=all_turns")),
    "hurried-1": (1, (*PLAIN, "steps=4", "metrics.max_seconds=1000", "prediction_print_n=1000", "metrics=rollout")),
    "hurried-3": (3, (*PLAIN, "steps=4", "metrics.max_seconds=1000", "prediction_print_n=1000", "metrics=rollout")),
    "left-by-two": (2, (*PLAIN, "steps=6")),
    **{f"straight-ddp-{size}": (size, (*DROPOUT, "steps=12")) for size in (2, 3)},
    **{f"stopped-ddp-{size}": (size, (*DROPOUT, "steps=6")) for size in (2, 3)},
    "straight-fsdp-2": (2, (*DROPOUT, f"steps={STEPS}", "parallel=fsdp")),
    "stopped-fsdp-2": (2, (*DROPOUT, "steps=6", "parallel=fsdp")),
}  # fmt: skip
# Resumed runs by name: on how many processes, from a copy of which run, and how.
RESUMED = {
    "stopped-ddp-2": (2, "stopped-ddp-2", ()),
    "stopped-ddp-3": (3, "stopped-ddp-3", ()),
    "stopped-fsdp-2": (2, "stopped-fsdp-2", ()),
    "two-then-one": (1, "left-by-two", ()),
    "two-then-three": (3, "left-by-two", ()),
    "ddp-then-fsdp": (2, "left-by-two", ("parallel=fsdp",)),
}
# Copies of the run "one" that mode=validate scores.
VALIDATED = {
    f"{name}-{size}": (size, options)
    for size in (1, 2, 3)
    for name, options in {
        "whole": ("metrics.max_dialogues=null",),
        "two-drawn": ("metrics.max_dialogues=2", "metrics.decoding=sample"),
        "original": ("metrics=original", "metrics.max_dialogues=5"),
    }.items()
    if (name, size) != ("original", 2)
}


@pytest.fixture(scope="module")
def runs(jsonl_folder, tmp_path_factory) -> Path:
    """The folder of all these runs. Each number of processes starts once."""
    folder = tmp_path_factory.mktemp("runs")
    # 36 dialogues make 58 sequences at this length: each epoch ends with a step of one sequence, and some ranks are idle.
    options = [
        "model=gpt2_tiny", "model.layers=2", "model.heads=2", "model.width=16", "model.positions=128",
        "model.max_len=96", "model.vocab_size=300", "data=dailydialog", f"data.path='{jsonl_folder}'", "batch_size=19",
        "scheduler.warmup_steps=2", "optim.lr0=1e-2", "prediction_print_n=1", "metrics.max_dialogues=2",
        "metrics.max_new_tokens=6", "micro_batch_tokens=256", "validate_every_n_steps=9999", f"project='{folder}'",
        "device=cpu", "precision=fp32", "seed=3",
    ]  # fmt: skip

    def trained(size):
        return [
            (None, None, [*options, *own, f"name={name}", f"processes={size}"])
            for name, (count, own) in RUNS.items()
            if count == size
        ]

    def continued(size):
        for name, (count, source, own) in RESUMED.items():
            if count == size:
                run = ("mode=resume", f"resume_model_dir='{folder}/{name}'", "load_model_type=last", f"steps={STEPS}")
                copied = (str(folder / source), str(folder / name)) if source != name else (None, None)
                yield (*copied, [*run, *own, f"processes={size}"])
        for name, (count, own) in VALIDATED.items():
            if count == size:
                run = ("mode=validate", f"resume_model_dir='{folder}/validated/{name}'", "load_model_type=last")
                copied = (str(folder / "one"), str(folder / "validated" / name))
                yield (*copied, [*run, "split=validation", *own, f"processes={size}"])

    run_together(folder, 1, trained(1))
    for size in (2, 3):
        run_together(folder, size, [*trained(size), *continued(size)])
    run_together(folder, 1, [*continued(1)])
    return folder


def assert_close(found: list[dict], expected: list[dict]) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if key == "train_loss" or key.endswith("nll"):
                assert value == pytest.approx(other[key], abs=1e-5), (key, row["step"])
            elif key == "grad_norm":
                assert value == pytest.approx(other[key], rel=1e-4), (key, row["step"])
            elif isinstance(value, float) and key != "lr":
                assert value == pytest.approx(other[key], rel=1e-3, abs=1e-5), (key, row["step"])
            else:
                assert value == other[key], (key, row["step"])


def test_runs_have_uneven_shards(runs):
    """The last batch of an epoch has fewer sequences than ranks, and the dialogues do not divide evenly."""
    found = rows(runs / "one", "train")
    per_epoch = next(row["step"] for row in found if row["epoch"] == 1)
    assert per_epoch == 4
    seen = [row["assistant_tokens_seen"] + row["user_tokens_seen"] for row in found]
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps[2::4]) < 96 < min(steps[:2])  # at most one sequence
    assert len({row["dialogue_id"] for row in lines(runs / "one/replies.jsonl") if row["step"] == STEPS}) % 3


@pytest.mark.parametrize("name", ["two", "three", "sharded"])
def test_losses_and_gradients_equal_one_process(runs, name):
    assert_close(rows(runs / name, "train"), rows(runs / "one", "train"))
    assert state(runs / name)["tokens_seen"] == state(runs / "one")["tokens_seen"]


@pytest.mark.parametrize("name", ["two", "three", "sharded"])
def test_validations_and_replies_equal_one_process(runs, name):
    found, expected = rows(runs / name, "validation"), rows(runs / "one", "validation")
    assert [row["step"] for row in found] == [EVERY, STEPS]
    for row, other in zip(found, expected, strict=True):
        assert row["validation_loss"] == pytest.approx(other["validation_loss"], abs=1e-5)
        assert row["signature"] == other["signature"]
        for key in other:
            if isinstance(other[key], float):
                assert row[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), key
    asked = [
        [(row["step"], row["dialogue_id"], row["turn_index"]) for row in replies_of(runs / n)] for n in (name, "one")
    ]
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == len(asked[0])
    assert replies_of(runs / name) == replies_of(runs / "one")


def replies_of(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "attempt"} for row in lines(run / "replies.jsonl")]


@pytest.mark.parametrize("name", ["compiled-ddp", "compiled-fsdp"])
def test_compiled_processes_equal_an_eager_one(runs, name):
    assert_close(rows(runs / name, "train"), rows(runs / "one", "train")[:4])


@pytest.mark.parametrize("name", ["fixed", "turn"])
def test_every_mask_and_divisor_equals_one_process(runs, name):
    assert_close(rows(runs / f"{name}-2", "train"), rows(runs / f"{name}-1", "train"))
    assert_close(rows(runs / f"{name}-2", "probe"), rows(runs / f"{name}-1", "probe"))
    assert len(rows(runs / f"{name}-2", "probe")) == (3 if name == "fixed" else 0)


@pytest.mark.parametrize("name", ["few", "hurried"])
def test_fewer_dialogues_than_processes(runs, name):
    found, expected = replies_of(runs / f"{name}-3"), replies_of(runs / f"{name}-1")
    assert len({row["dialogue_id"] for row in expected}) == 2
    assert found == expected
    [row], [other] = rows(runs / f"{name}-3", "validation"), rows(runs / f"{name}-1", "validation")
    for key in other:
        assert row[key] == (pytest.approx(other[key], abs=1e-5) if isinstance(other[key], float) else other[key])


@pytest.mark.parametrize(
    ("name", "size"), [("whole", 2), ("whole", 3), ("two-drawn", 2), ("two-drawn", 3), ("original", 3)]
)
def test_mode_validate_counts_each_dialogue_once(runs, name, size):
    protocol = "original" if name == "original" else "response"
    place, other = (runs / "validated" / f"{name}-{count}" / "validation/validation" / protocol for count in (size, 1))
    for file in ("replies.jsonl", "dialogues.jsonl"):
        found, expected = lines(place / file), lines(other / file)
        assert len(found) == len(expected)
        for row, one in zip(found, expected, strict=True):
            assert {k: v for k, v in row.items() if k != "statistics"} == {
                k: v for k, v in one.items() if k != "statistics"
            }
            assert row["statistics"].keys() == one["statistics"].keys()
            for key, value in one["statistics"].items():
                assert row["statistics"][key] == pytest.approx(value, rel=1e-6)
    found, expected = (json.loads((folder / "scores.json").read_text()) for folder in (place, other))
    assert found["validation_loss"] == pytest.approx(expected["validation_loss"], abs=1e-6)
    assert {k: found[k] for k in ("dialogues", "replies", "signature", "baselines", "by_depth")} == {
        k: expected[k] for k in ("dialogues", "replies", "signature", "baselines", "by_depth")
    }


@pytest.mark.parametrize("name", ["ddp-2", "ddp-3", "fsdp-2"])
def test_resume_is_bit_exact(runs, name):
    straight, stopped = runs / f"straight-{name}", runs / f"stopped-{name}"
    assert rows(stopped, "train") == rows(straight, "train")
    assert digests(stopped) == digests(straight)
    for key in ("step", "validated_step", "tokens_seen", "digest", "processes"):
        assert state(stopped)[key] == state(straight)[key]


@pytest.mark.parametrize("name", ["two-then-one", "two-then-three", "ddp-then-fsdp"])
def test_resume_on_another_number_of_processes(runs, name):
    found = rows(runs / name, "train")
    assert len(found) == STEPS
    assert_close(found, rows(runs / "one", "train"))


def test_each_rank_draws_its_own_dropout(runs):
    assert digests(runs / "straight-ddp-2") != digests(runs / "straight-ddp-3")
    losses = [row["train_loss"] for row in rows(runs / "straight-ddp-2", "train")]
    assert losses != pytest.approx([row["train_loss"] for row in rows(runs / "straight-ddp-3", "train")], abs=1e-5)


def test_resume_as_a_user_starts_it(runs, tmp_path, jsonl_folder):
    """In processes of its own, through a port."""
    run = tmp_path / "run"
    shutil.copytree(runs / "left-by-two", run, symlinks=True)
    options = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", f"steps={STEPS}", "processes=2")
    options += (f"port={free_port()}",)
    with started(command(*options), tmp_path) as job:
        job.workers(2)
        code, output = job.ended()
        assert code == 0, output
        assert job.left(1) == set()
    assert_close(rows(run, "train"), rows(runs / "one", "train"))
    assert f"step {STEPS}/{STEPS}" in output
    assert output.count("resuming ") == 1
    log = (run / "logs/rank-1.log").read_text()
    assert log.count("rank 1 of 2, process ") == 2
