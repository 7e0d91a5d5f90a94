"""`sweep.json`: what is written is read again, and what is no record is named."""

import json

import pytest

from dialog_trainer.errors import CheckpointError
from dialog_trainer.sweeps.record import SWEEP_FILE, JobRecord, SweepRecord, read_sweep, write_sweep

RECORD = SweepRecord(
    schema_version=1,
    created="2026-01-31T12:00:00+00:00",
    command="python -m dialog_trainer -m name=mask seed=0,1",
    overrides=("name=mask",),
    swept=("seed",),
    settings={"steps": 40, "optim.betas": [0.9, 0.999]},
    jobs=(
        JobRecord(
            index=0, name="000-seed_0", overrides=("seed=0",), digest="0" * 16, status="done", exit_code=0,
            steps_done=40, steps=40, end="finished", seconds=1.5, tokens=4000, attempts=1, config_sha256="a" * 64,
        ),
        JobRecord(
            index=1, name="001-seed_1", overrides=("seed=1",), digest="1" * 16, steps=40,
            forked_from="000-seed_0", forked_from_step=20,
        ),
    ),
)  # fmt: skip


def test_round_trip(tmp_path):
    write_sweep(tmp_path, RECORD)
    assert read_sweep(tmp_path) == RECORD


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"jobs": {0: {"status": "lost"}}}, "jobs.0.status"),
        ({"jobs": {1: {"name": "../other"}}}, "jobs.1.name"),
        ({"jobs": {1: {"seconds": -1}}}, "jobs.1.seconds"),
        ({"jobs": {1: {"steps": 0}}}, "jobs.1.steps"),
        ({"jobs": {1: {"index": 7}}}, "the file"),
        ({"jobs": {1: {"digest": "0" * 16}}}, "the file"),
        ({"jobs": {1: {"forked_from": "002-seed_2"}}}, "the file"),
        ({"schema_version": 9}, "schema_version"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_no_record_is_named(tmp_path, change, place):
    content = json.loads(RECORD.model_dump_json())
    for number, fields in change.pop("jobs", {}).items():
        content["jobs"][number] |= fields
    (tmp_path / SWEEP_FILE).write_text(json.dumps(content | change))
    with pytest.raises(CheckpointError, match=f"{SWEEP_FILE} is no record of a sweep: {place}: "):
        read_sweep(tmp_path)


def test_missing_or_broken_file(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_sweep(tmp_path)
    (tmp_path / SWEEP_FILE).write_text('{"schema_version": 1')
    with pytest.raises(CheckpointError, match="is no record of a sweep: the file"):
        read_sweep(tmp_path)
