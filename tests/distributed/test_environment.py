"""Rank and rendezvous address from the environment of torchrun and Slurm."""

import pytest

from dialog_trainer.distributed.environment import RankInfo, detect_rank, first_host, rendezvous_address

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "h", "MASTER_PORT": "29",
    "GROUP_RANK": "1",
}  # fmt: skip
BATCH = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "6", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = BATCH | {
    "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "4", "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_STEP_NODELIST": "gpu[07-09]", "SLURM_NODEID": "2",
}  # fmt: skip


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (TORCHRUN, RankInfo(5, 8, 1, 4, 1)),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, None),
        (without(TORCHRUN, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"), RankInfo(5, 8, 0, 1, 5)),
        (without(TORCHRUN, "MASTER_ADDR"), None),
        ({"RANK": "3"}, None),
        (STEP, RankInfo(4, 6, 1, 2, 2)),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "1,2(x2)"}, RankInfo(4, 6, 1, 2, 2)),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "6", "SLURM_NODEID": "0"}, RankInfo(4, 6, 1, 6, 0)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (BATCH, None),  # a batch script without srun
        (STEP | TORCHRUN, RankInfo(5, 8, 1, 4, 1)),  # torchrun within a step of Slurm
    ],
)
def test_rank_of_this_process(environ, expected):
    assert detect_rank(environ) == expected


@pytest.mark.parametrize(
    ("tasks", "node", "expected"),
    [("2(x3)", 0, 2), ("2(x3)", 2, 2), ("3,2", 0, 3), ("3,2", 1, 2), ("4(x2),1", 1, 4), ("4(x2),1", 2, 1)],
)
def test_tasks_of_this_node(tasks, node, expected):
    assert detect_rank(STEP | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)}).local_size == expected


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("gpu003", "gpu003"),
        ("gpu003,gpu005", "gpu003"),
        ("gpu[003-010,12],login", "gpu003"),
        ("gpu[12]", "gpu12"),
        ("gpu[003,007-009]", "gpu003"),
        ("a-b-c[01-02]", "a-b-c01"),
        ("rack[1-2]-node", "rack1-node"),
        ("login,gpu[1-2]", "login"),
        ("host.of.some.org", "host.of.some.org"),
    ],
)
def test_first_host_of_a_node_list(nodes, expected):
    assert first_host(nodes) == expected


def test_torchrun_gives_the_address():
    assert rendezvous_address(TORCHRUN) == ("h", 29)
    assert rendezvous_address(STEP | {"MASTER_ADDR": "h", "MASTER_PORT": "29"}) == ("h", 29)


def test_tasks_of_a_step_agree_on_the_address():
    places = {rendezvous_address(STEP | {"SLURM_PROCID": str(rank)}) for rank in range(6)}
    [(host, port)] = places
    assert host == "gpu07"
    assert 20_000 <= port < 40_000


def test_jobs_and_steps_get_different_ports():
    places = {
        rendezvous_address(STEP | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
        for job in range(9_000_000, 9_000_020)
        for step in range(20)
    }
    assert len(places) == 400
