"""Groups that torchrun starts."""

import os
import re
import signal

import pytest
from helpers.processes import command_of, descendants, free_port, lines, started, state, torchrun

pytestmark = pytest.mark.slow

LONG = ("steps=100000", "save_every_n_steps=1", "validate_every_n_steps=99999", "model.dropout=0")
HERE = ("--master-addr", "127.0.0.1")


@pytest.fixture
def here():
    return ("--master-addr", "127.0.0.1", "--master-port", str(free_port()))


def ranks(job, count: int) -> list[int]:
    """The processes by rank, from the environment that torchrun gives them."""

    def found():
        place = {}
        for pid in descendants(job.pid):
            if b"dialog_trainer" in command_of(pid):
                with open(f"/proc/{pid}/environ", "rb") as file:
                    found_rank = re.search(rb"\0RANK=(\d+)", b"\0" + file.read())
                if found_rank:  # a new process has none for a moment
                    place[int(found_rank.group(1))] = pid
        job.seen |= set(place.values())
        return [place[rank] for rank in range(count)] if len(place) == count else None

    return job.until(found, f"{count} ranks")


def test_killed_rank_is_reported_once(tiny_options, tmp_path, here):
    with started(torchrun("--nproc-per-node", "2", *here, "--", *tiny_options, *LONG), tmp_path) as job:
        pids = ranks(job, 2)
        job.row(tmp_path / "runs/run/metrics.jsonl", 3)
        os.kill(pids[1], signal.SIGKILL)
        code, output = job.ended(60)
        assert code == 1
        assert output.count("The saved checkpoints are complete") == 1, output
        assert re.search(r"rank 1 of 2 is gone, step \d+", output), output
        assert job.left(1) == set()
    assert state(tmp_path / "runs/run")["step"] >= 3


def test_config_error_is_printed_once(tiny_options, tmp_path, here):
    with started(torchrun("--nproc-per-node", "2", *here, "--", *tiny_options, "-m", "seed=0,1"), tmp_path) as job:
        code, output = job.ended()
    assert code != 0
    assert output.count("-m: not under torchrun or Slurm") == 1, output
    assert output.count("1 error in the configuration") == 1
    assert "exitcode  : 2" in output
    assert not (tmp_path / "runs").exists()


def test_nodes_with_different_options_end_all(tiny_options, tmp_path, here):
    def node(rank: int, *options: str) -> list[str]:
        return torchrun("--nnodes", "2", "--node-rank", str(rank), *here, "--", *tiny_options, *options)

    with (
        started(node(0, "steps=2"), tmp_path, "first") as first,
        started(node(1, "steps=3"), tmp_path, "second") as second,
    ):
        codes, outputs = zip(first.ended(), second.ended(), strict=True)
    assert all(codes), outputs
    output = "".join(outputs)
    assert output.count("the processes differ") == 1, output
    assert output.count("  arguments: ") == 1
    assert re.search(r"  arguments: .* steps=2 \(rank 0\), .* steps=3 \(rank 1\)\n", output)
    assert not (tmp_path / "runs").exists()


def test_two_ranks_train_one_run(tiny_options, tmp_path, here):
    with started(torchrun("--nproc-per-node", "2", *here, "--", *tiny_options, "steps=2"), tmp_path) as job:
        code, output = job.ended()
    assert code == 0, output
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    found = lines(tmp_path / "runs/run/metrics.jsonl")
    assert [(row["split"], row["step"]) for row in found] == [("train", 0), ("train", 1), ("validation", 2)]
    assert state(tmp_path / "runs/run")["processes"] == 2
    assert output.count("step 2/2 ") == 1
    assert "(2 processes, ddp)" in output
