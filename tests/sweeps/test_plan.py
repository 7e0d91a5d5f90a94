"""The plan of a sweep: names, identities, what may be added, and what it costs."""

import pytest

from dialog_trainer.errors import ConfigError
from dialog_trainer.sweeps.plan import ComposedJob, describe_work, digest_settings, identify, name_job, plan_sweep
from tests.helpers.configs import compose_config

SHARED = ("model=gpt2_tiny", "data=chitchat", "patience=0")


def composed(*own: tuple[str, ...], shared: tuple[str, ...] = ("steps=40",)) -> list[ComposedJob]:
    return [ComposedJob((*SHARED, *shared, *lines), compose_config(*SHARED, *shared, *lines)) for lines in own]


def planned(*own, known=None, shared=("steps=40",)):
    return plan_sweep(composed(*own, shared=shared), known, "python -m dialog_trainer -m", "2026-01-31T12:00:00+00:00")


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (("train_user_turn_mask_step=0.25", "seed=1"), "003-train_user_turn_mask_step_0.25-seed_1"),
        (("+optim.amsgrad=true",), "003-optim.amsgrad_true"),
        (("optim.betas=[0.9,0.99]", "name='a b'"), "003-optim.betas_0.9_0.99-name_a_b"),
        (("optim.lr0=1e+30",), "003-optim.lr0_1e+30"),
        (("data.path=한국어",), "003-data.path"),
        ((), "003"),
        (("a" * 200,), "003-" + "a" * 96),
    ],
)  # fmt: skip
def test_names_are_plain_and_bounded(own, name):
    assert name_job(3, own) == name


@pytest.mark.slow
def test_identity_is_without_place_command_and_machine(tmp_path, monkeypatch):
    before = digest_settings(identify(compose_config(*SHARED)))
    for same in (
        "name=b",
        "project=c",
        "processes=1",
        "data.workers=1",
        "chat.system=Hi",
        "sweep.max_hours=1",
        "progress=0.5",
    ):
        changed = same == "progress=0.5"
        assert (digest_settings(identify(compose_config(*SHARED, same))) != before) == changed, same
    assert digest_settings(identify(compose_config(*SHARED, "seed=1"))) != before


@pytest.mark.slow
def test_an_option_of_a_later_version_leaves_earlier_jobs_as_they_are():
    today = identify(compose_config(*SHARED))
    assert today["data.max_train_dialogues"] is None
    earlier = {key: value for key, value in today.items() if key != "data.max_train_dialogues"}
    assert digest_settings(earlier) == digest_settings(today)
    assert digest_settings({**today, "data.max_train_dialogues": 5}) != digest_settings(today)

    known = planned(("seed=0",), ("seed=1",)).record
    settings = {key: value for key, value in known.settings.items() if key != "data.max_train_dialogues"}
    known = known.model_copy(update={"settings": settings})
    assert list(planned(("seed=1",), ("seed=2",), known=known).jobs) == [1, 2]
    with pytest.raises(ConfigError, match=r"data\.max_train_dialogues: null in this sweep -> 5"):
        planned(("seed=0",), known=known, shared=("steps=40", "data.max_train_dialogues=5"))


def test_jobs_are_added_and_kept():
    first = planned(("seed=0",), ("seed=1",)).record
    done = first.model_copy(update={"jobs": tuple(job.model_copy(update={"status": "done"}) for job in first.jobs)})
    second = planned(("seed=1",), ("seed=2",), ("seed=3",), known=done)
    assert [job.name for job in second.record.jobs] == ["000-seed_0", "001-seed_1", "002-seed_2", "003-seed_3"]
    assert list(second.jobs) == [1, 2, 3]
    assert [job.index for job in second.left] == [2, 3]
    assert second.record.created == first.created
    assert "seed" not in second.record.settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "shared", "errors"),
    [
        ([("seed=0",), ("seed=5",)], ("steps=40",), []),
        ([("steps=40",), ("steps=80",)], (), []),
        ([("seed=0",)], ("steps=80",), ["steps: 40 in this sweep -> 80"]),
        ([("seed=0",)], ("steps=40", "optim=sgd", "optim.lr0=1"), ["optim._target_: ", "optim.lr0: auto in this sweep -> 1.0"]),
        ([("seed=0",), ("seed=0",)], ("steps=40",), ["jobs 0 and 1 would be the same run"]),
    ],
)  # fmt: skip
def test_what_all_jobs_share_stays(own, shared, errors):
    known = planned(("seed=0",), ("seed=1",)).record
    if not errors:
        assert planned(*own, known=known, shared=shared).jobs
        return
    with pytest.raises(ConfigError) as raised:
        planned(*own, known=known, shared=shared)
    for error in errors:
        assert any(error in one for one in raised.value.errors), raised.value.errors


def test_cost():
    plan = planned(*[(f"seed={seed}",) for seed in range(4)])
    assert describe_work(plan) == "4 jobs, 4 runs' worth of steps, the time is known after the first job"
    changes = [
        {"status": "done", "steps_done": 40, "seconds": 100.0},
        {"steps_done": 10, "status": "stopped"},
        {"forked_from": "000-seed_0", "forked_from_step": 30},
        {},
    ]
    jobs = tuple(job.model_copy(update=change) for job, change in zip(plan.record.jobs, changes, strict=True))
    plan = type(plan)(plan.record.model_copy(update={"jobs": jobs}), plan.jobs)
    assert describe_work(plan) == "4 jobs, 1 of them done, 2 runs' worth of steps, about 3.3 min"
    plan = planned(("steps=40",), ("steps=60",), shared=())
    assert describe_work(plan).startswith("2 jobs, 100 steps, ")
