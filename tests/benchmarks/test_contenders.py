"""The jobs of the benchmarks: the same in every process, and for those that are ours a configuration with what they ask."""

from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import pytest

from tests.helpers.configs import compose_config

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def job(benchmarks):
    from peers.job import Job

    return Job(
        folder="/work it", max_len=64, dropout=0.2, precision="bf16", lora=False, batch_size=5, lr=1e-3,
        weight_decay=0.02, max_grad_norm=0.5, threads=1,
    )  # fmt: skip


def test_a_job_is_whole_on_the_other_side_of_the_pipe(job):
    from peers.job import Job, ShortRun

    sent = replace(job, compile=True, overrides=("a=1", "b=2"))
    assert Job.from_json(sent.to_json()) == sent
    short = ShortRun(**asdict(sent), steps=4, every=2, new_tokens=3)
    assert ShortRun.from_json(short.to_json()) == short
    with pytest.raises(TypeError, match="lora"):
        Job.from_json(sent.to_json().replace('"lora": false, ', ""))
    with pytest.raises(TypeError, match="steps"):
        Job.from_json(short.to_json())


@pytest.mark.parametrize("lora", [False, True])
def test_contenders_that_are_ours_compose(job, lora):
    from peers import heats, ours

    names = [name for name in heats.CONTENDERS if heats.module_of(name) == "ours"]
    configs = {
        name: compose_config(*ours.overrides_of(heats.job_of(name, replace(job, lora=lora))))
        for name in [*names, "ours:micro_batch_tokens=77+compile=false"]
    }
    for config in configs.values():
        assert (config.precision, config.batch_size, config.max_grad_norm) == ("bf16", 5, 0.5)
        assert (config.model.max_len, config.model.dropout) == (64, 0.2)
        assert config.model.pretrained_model == "/work it/model"
        assert (config.optim.lr0, config.optim.arguments["weight_decay"]) == (1e-3, 0.02)
        assert config.model.adapter.method == ("lora" if lora else "none")
    assert [configs[name].compile for name in configs] == ["auto", True, False]
    assert configs["ours:micro_batch_tokens=77+compile=false"].micro_batch_tokens == 77


@pytest.mark.parametrize("kind", ["before", "after", "compiled"])
def test_the_profiled_runs_compose(benchmarks, kind):
    import step_time
    from peers import ours

    config = compose_config(*ours.overrides_of(step_time.job_of(kind, Path("work"), threads=1)))
    assert (config.compile, config.device, config.precision) == (kind == "compiled", "cpu", "fp32")


@pytest.mark.slow  # a process of its own
def test_a_profiled_run_gives_the_parts_of_a_step(benchmarks, tmp_path):
    import step_time
    from peers import material

    step_time.write_material(tmp_path / "work", material.SIZES["0.7M"])
    found = step_time.seen("after", tmp_path / "work", Namespace(steps=1, threads=1))
    assert found["tokens"] > step_time.DIALOGUES
    assert found["parts"].keys() == set(step_time.PARTS)
    assert found["parts"][step_time.PRODUCTS] > 0


def test_each_contender_takes_its_job(job):
    from peers import heats

    jobs = {name: heats.job_of(name, job) for name in heats.CONTENDERS}
    by_length = {name for name, own in jobs.items() if own.order == "by_length"}
    assert by_length == {"hf-best", "trl-best"}
    assert {name for name, own in jobs.items() if own.compile} == {*by_length, "ours-compiled", "trl-padding-free"}


def test_contenders_that_do_the_same_before_compilation_are_checked_once(job, monkeypatch):
    from peers import heats

    started = []

    def first_step(name, own):
        started.append(name)
        return {"loss": 2.0, "peak": 1, "held": 1}

    monkeypatch.setattr(heats, "_first_step", first_step)
    found, missing = heats.check(["ours", "ours-compiled", "hf", "hf-best"], job, 2.005)
    assert (started, list(found), missing) == (
        ["ours", "hf", "hf-best"],
        ["ours", "ours-compiled", "hf", "hf-best"],
        {},
    )
    with pytest.raises(SystemExit, match="not timed"):
        heats.check(["ours"], replace(job, precision="fp32"), 2.005)


class FakeContender:
    """Ends in its second round if its name is in `fragile` and more than one other runs."""

    running: ClassVar[set[str]] = set()
    fragile: ClassVar[set[str]] = set()

    def __init__(self, name, own):
        self.name, self.start_seconds, self.rounds = name, 1.0, 0
        self.running.add(name)

    def round(self, steps):
        from peers.contender import Unavailable

        self.rounds += 1
        if self.name in self.fragile and self.rounds == 2 and (len(self.running) > 2 or self.name == "trl"):
            raise Unavailable("it was killed by signal 9")
        return {"seconds": float(self.rounds), "peak_bytes": 100}

    def close(self):
        self.running.discard(self.name)


def test_a_contender_that_ends_next_to_others_has_a_heat_of_its_own(benchmarks, job, monkeypatch):
    from peers import heats

    monkeypatch.setattr(heats, "start", FakeContender)
    monkeypatch.setattr(FakeContender, "fragile", {"hf-best", "trl"})
    monkeypatch.setattr(FakeContender, "running", set())
    times, missing = heats.run_heats([["ours", "hf", "hf-best", "trl"], ["ours", "floor"]], job, steps=2, rounds=3)
    assert missing == {"trl": "it was killed by signal 9"}
    rounds = {name: len(one["seconds"]) for name, one in times.items()}
    assert rounds == {"ours": 12, "hf": 3, "hf-best": 3, "floor": 3}
    assert FakeContender.running == set()
