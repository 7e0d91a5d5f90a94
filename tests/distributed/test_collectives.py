"""Collectives, control messages and failures of a group, and the gradients of a data-parallel model."""

import contextlib
import json
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.processes import forked, launch_group

from dialog_trainer.data.packing import dummy_batch, pack_sequences
from dialog_trainer.distributed import collectives, parallel
from dialog_trainer.distributed.environment import RankInfo
from dialog_trainer.distributed.failures import run_as_rank
from dialog_trainer.distributed.store import STOP_CHECK_SECONDS, ControlStore, Failure, PeerFailed
from dialog_trainer.errors import ConfigError, DistributedError, TrainingError
from dialog_trainer.model.loss import PackedLoss
from dialog_trainer.training.loop import Learner, train_step
from dialog_trainer.types import Role, TurnSpans

SIZE = 3
# Of one sequence there is less than of processes, and the last batch of all is smaller than the first.
LENGTHS = (9, 3, 14, 6, 11, 4, 8)


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    """A process that ends for a failure takes no more signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# The work of each rank.


def work(control: ControlStore, folder: str) -> int:
    """The work of each rank of one start: writes down what it saw. Its exit code is 9 on rank 0, 75 on the others."""
    with collectives.join_process_group(control, 60.0):
        record_collectives(control, folder)
        found = {(kind, tied): gradients(kind, tied) for kind in ("ddp", "fsdp") for tied in (True, False)}
        found["not finite"] = not_finite()
        if collectives.is_rank0():
            torch.save(found, f"{folder}/found.pt")
        collectives.any_rank(False)
    return 9 if control.rank_info.rank == 0 else 75


def record_collectives(control: ControlStore, folder: str) -> None:
    rank = control.rank_info.rank
    seen = {
        "size": [collectives.world_size(), collectives.local_size()],
        "rank": [collectives.rank(), collectives.local_rank()],
        "main": collectives.is_rank0(),
        "rows": collectives.all_gather_rows(torch.tensor([[rank, 10 * rank]])).tolist(),
        "summed": collectives.all_reduce_sum(torch.tensor([0.5, float(rank)])).tolist(),
        "gathered": collectives.all_gather_objects({"rank": rank, "list": ["한"] * rank}),
        "from main": collectives.broadcast_from_rank0(lambda: f"made by {rank}"),
        "largest": [collectives.all_reduce_max(-float(rank)), collectives.all_reduce_max(float(rank))],
        "any": [collectives.any_rank(False), collectives.any_rank(rank == 2), collectives.any_rank(True)],
        "sum of nan": [
            str(value) for value in collectives.all_gather_rows(torch.tensor(torch.nan if rank else 1.0)).tolist()
        ],
    }
    collectives.assert_same_on_all_ranks({"a": "1", "b": "2"}, "never said")
    for number in range(3):
        with collectives.local_rank0_first():
            time.sleep(0.05 if rank == 0 else 0)  # who came second would be done first, were it not kept
            with open(f"{folder}/order", "a") as file:
                file.write(f"{number}:{rank} ")
        collectives.any_rank(False)
    seen["order"] = Path(folder, "order").read_text()
    try:
        collectives.assert_same_on_all_ranks({"a": "1", "b": str(rank == 1), "c": str(rank)}, "start all alike")
    except DistributedError as error:
        seen["unlike"] = str(error)
    collectives.any_rank(False)
    control.stop_seen(requested=rank == 2)
    collectives.any_rank(False)
    time.sleep(STOP_CHECK_SECONDS)
    seen["stop"] = collectives.stop_seen(False)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(seen, file)
    collectives.any_rank(False)


def fail_on_rank1(control: ControlStore, _: str) -> int:
    """Rank 1 fails while rank 0 waits for it."""
    with collectives.join_process_group(control, 60.0):
        collectives.set_stage("step 7")
        if control.rank_info.rank == 1:
            raise ZeroDivisionError("a cause")
        collectives.any_rank(False)
    return 0


# A model and its batches.


def model_of(tied: bool) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=tied,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip


def batch_of(index: int, poison: float = 1.0):
    """One sequence of turns of one token."""
    length = LENGTHS[index]
    turns = np.arange(length)
    roles = np.where(turns == 0, Role.FORMAT, turns % 2 + 1)
    ones = np.ones(length, dtype=np.int64)
    runs = TurnSpans(roles, turns, ones, 0 * ones, ones.astype(np.float32), np.array([length]), np.array([0]))
    weights = (turns > 0).astype(np.float32) * poison
    return pack_sequences(
        np.random.default_rng(index).integers(0, 40, length), runs, lambda runs: (weights, float(length - 1))
    )


def one_step(loss, optimizer, batches, max_grad_norm=0.05):
    learner = Learner(loss, optimizer, torch.amp.GradScaler("cpu", enabled=False), contextlib.nullcontext)
    return train_step(learner, batches, step=3, lr=0.1, max_grad_norm=max_grad_norm)


def parallel_model(kind: str, tied: bool):
    model = model_of(tied)
    loss = parallel.parallelize(PackedLoss(model), kind, model._no_split_modules, dummy_batch(torch.device("cpu")))
    return model, loss, torch.optim.AdamW(model.parameters(), lr=0.1)


def gradients(kind: str, tied: bool) -> dict:
    """Two steps: process 0 has two batches of the first, process 1 five, process 2 none; then each one."""
    model, loss, optimizer = parallel_model(kind, tied)
    found = {"unlike before": [bool(parameter.grad is not None) for parameter in model.parameters()]}
    own = [batch_of(index) for index in ((0, 1), (2, 3, 4, 5, 6), ())[collectives.rank()]]
    reports = [one_step(loss, optimizer, own)]
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    found["gradients"] = {name: tensor.clone() for name, tensor in parallel.gather_full_tensors(grads).items()}
    reports.append(one_step(loss, optimizer, [batch_of(collectives.rank())]))
    found["reports"] = [(r.loss, r.grad_norm, r.tokens, r.role_turn_sums) for r in reports]
    found["weights"] = {n: t.clone() for n, t in parallel.gather_full_tensors(model.state_dict(keep_vars=True)).items()}
    with torch.no_grad():
        parameter = next(model.parameters())
        full = parallel.gather_full_tensors({"a": parameter})["a"]
        full = collectives.broadcast_from_rank0(lambda: full.detach())
        part = parallel.shard_like(full, parameter)
        same = torch.equal(*(x.to_local() if hasattr(x, "to_local") else x for x in (part, parameter)))
        found["part"] = [part.shape == parameter.shape, type(part) is type(parameter) or kind == "ddp", same]
    model.eval()
    with torch.no_grad(), parallel.unsharded(loss):
        # As many forward passes as its rank: with all the weights none waits for another.
        for _ in range(1 + collectives.rank()):
            found["logits"] = model(torch.arange(8)[None]).logits.clone()
    found["sharded"] = any(hasattr(parameter, "to_local") for parameter in model.parameters())
    return found


def not_finite() -> list:
    """Process 1 alone has a loss that is not a number."""
    found = []
    for kind in ("ddp", "fsdp"):
        model, loss, optimizer = parallel_model(kind, True)
        before = {n: t.clone() for n, t in parallel.gather_full_tensors(model.state_dict(keep_vars=True)).items()}
        report = one_step(
            loss, optimizer, [batch_of(collectives.rank(), torch.nan if collectives.rank() == 1 else 1.0)]
        )
        after = parallel.gather_full_tensors(model.state_dict(keep_vars=True))
        unchanged = all(torch.equal(before[name], after[name]) for name in before)
        found.append((collectives.all_gather_objects(report.problem), unchanged, len(optimizer.state)))
    return found


# The tests.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the ranks of one start of three processes wrote down."""
    folder = tmp_path_factory.mktemp("ranks")
    with forked((SIZE, work, str(folder)), folder, entry=launch_group) as job:
        assert job.ended()[0] == 9, job.output()  # that of rank 0
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


@pytest.fixture(scope="module")
def found(folder):
    return torch.load(folder / "found.pt", weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("size", [3, 3]),
        ("rows", [[[0, 0]], [[1, 10]], [[2, 20]]]),
        ("summed", [1.5, 3.0]),
        ("gathered", [{"rank": 0, "list": []}, {"rank": 1, "list": ["한"]}, {"rank": 2, "list": ["한", "한"]}]),
        ("from main", "made by 0"),
        ("largest", [0.0, 2.0]),
        ("any", [False, True, True]),
        ("sum of nan", ["1.0", "nan", "nan"]),
        (
            "unlike",
            "the processes differ; start all alike:\n"
            "  b: False (rank 0), True (rank 1), False (rank 2)\n"
            "  c: 0 (rank 0), 1 (rank 1), 2 (rank 2)",
        ),
        ("stop", True),
    ],
)
def test_all_ranks_see_the_same(seen, what, expected):
    assert [one[what] for one in seen] == [expected] * SIZE


@pytest.mark.slow
def test_each_rank_knows_its_number(seen):
    assert [one["rank"] for one in seen] == [[rank, rank] for rank in range(SIZE)]
    assert [one["main"] for one in seen] == [True, False, False]


@pytest.mark.slow
def test_local_rank0_goes_first_each_time(seen):
    turns = seen[0]["order"].split()
    assert sorted(turns) == sorted(f"{number}:{rank}" for number in range(3) for rank in range(SIZE))
    assert turns[::SIZE] == ["0:0", "1:0", "2:0"]


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_data_parallel_model_equals_the_plain_one(found, kind, tied):
    parallel_result = found[kind, tied]
    model = model_of(tied)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    reports = [one_step(PackedLoss(model), optimizer, [batch_of(index) for index in range(7)])]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parallel_result["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-7)
    reports.append(one_step(PackedLoss(model), optimizer, [batch_of(index) for index in range(3)]))
    for (loss, norm, tokens, role_turn_sums), report in zip(parallel_result["reports"], reports, strict=True):
        assert loss == pytest.approx(report.loss, rel=1e-5)
        assert norm == pytest.approx(report.grad_norm, rel=1e-4)
        assert tokens == report.tokens
        torch.testing.assert_close(role_turn_sums, report.role_turn_sums, rtol=1e-5, atol=1e-6)
    assert reports[0].grad_norm > 0.05  # it was clipped
    assert parallel_result["weights"].keys() == model.state_dict().keys()
    assert parallel_result["unlike before"] == [False] * len(parallel_result["unlike before"])
    assert parallel_result["sharded"] == (kind == "fsdp")
    assert parallel_result["part"] == [True, True, True]
    model.load_state_dict(parallel_result["weights"])
    model.eval()
    torch.testing.assert_close(
        parallel_result["logits"], model(torch.arange(8)[None]).logits.detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_non_finite_loss_of_one_rank_stops_all_before_the_update(found):
    for messages, unchanged, slots in found["not finite"]:
        assert len(messages) == SIZE
        assert len(set(messages)) == 1
        assert messages[0].startswith("step 3: the loss (nan on rank 1) or the norm of its gradient (")
        assert unchanged
        assert slots == 0


@pytest.mark.slow
def test_failure_of_a_rank_is_printed_once(tmp_path):
    with forked((2, fail_on_rank1, ""), tmp_path, entry=launch_group) as job:
        code, output = job.ended()
    assert code == 1
    assert output.startswith("rank 1 of 2, step 7: Traceback")
    assert output.count("rank 1 of 2") == 1


class _Ended(BaseException):
    """In the place of the end of a process."""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError(["a=1: is wrong"]), 2, "1 error in the configuration:\n  - a=1: is wrong"),
        (TrainingError("it cannot go on"), 1, "rank 1 of 2, step 7: it cannot go on"),
        (DistributedError("they differ"), 1, "rank 1 of 2, step 7: they differ"),
        (FileNotFoundError(2, "No such file", "/a/b"), 1, "rank 1 of 2, step 7: /a/b: No such file"),
        (KeyboardInterrupt(), 130, "interrupted before there was anything to save"),
        (SystemExit(75), 75, "rank 1 of 2, step 7: ended at the third signal"),
        (RuntimeError("[/gloo/pair.cc:5] Connection closed by peer [::1]:3"), 1, "rank 0 of 2 is gone, step 7 (rank 1 saw: Connection closed by peer [::1]:3). The saved checkpoints are complete"),
        (RuntimeError("gloo: Timed out waiting 5ms for recv"), 1, "rank 0 of 2 does not answer, step 7 ("),
        (ZeroDivisionError("a cause"), 1, "rank 1 of 2, step 7: Traceback"),
        (RuntimeError("shape mismatch"), 1, "rank 1 of 2, step 7: Traceback"),
    ],
)  # fmt: skip
def test_message_of_an_error(monkeypatch, capsys, error, code, text):
    def end(number):
        raise _Ended(number)

    def work():
        raise error

    monkeypatch.setattr("dialog_trainer.distributed.failures._exit", end)
    monkeypatch.setattr("dialog_trainer.distributed.failures.ROLL_CALL_SECONDS", 0.1)
    monkeypatch.setattr(collectives, "_stage", "step 7")
    control = ControlStore(dist.HashStore(), RankInfo(1, 2, 1, 2, 0))
    with pytest.raises(_Ended) as ended:
        run_as_rank(control, work, prints=True)
    assert ended.value.args == (code,)
    failure = control.first_failure()
    assert (failure.rank, failure.exit_code) == (1, code)
    assert failure.text.startswith(text)
    assert capsys.readouterr().err == failure.text + "\n"


def test_second_failure_is_not_printed(monkeypatch, capsys):
    def end(number):
        raise _Ended(number)

    def work():
        raise ZeroDivisionError

    monkeypatch.setattr("dialog_trainer.distributed.failures._exit", end)
    control = ControlStore(dist.HashStore(), RankInfo(1, 2, 1, 2, 0))
    first = Failure(0, "the first", 2, (1,))
    assert control.report(first)
    assert not control.report(Failure(1, "the second", 1))
    with pytest.raises(_Ended, match="2"):
        run_as_rank(control, work, prints=True)
    assert (control.first_failure().text, list(control.first_failure().gone)) == ("the first", [1])
    assert capsys.readouterr().err == ""


def test_waiting_rank_learns_of_a_failure():
    control = ControlStore(dist.HashStore(), RankInfo(1, 2, 1, 2, 0))
    timer = threading.Timer(0.2, lambda: control.report(Failure(0, "no job", 2)))
    timer.start()
    with pytest.raises(PeerFailed, match="no job"):
        control.wait("job")
    timer.join()
    control.put("later", "한")
    assert control.wait("later") == "한"


def test_local_rank0_releases_its_own_machine():
    """Two machines of two: none waits for the other machine."""
    store = dist.HashStore()
    stores = [ControlStore(store, RankInfo(rank, 4, rank % 2, 2, rank // 2)) for rank in range(4)]
    for first, second in ((stores[2], stores[3]), (stores[0], stores[1])):
        for _ in range(2):
            with first.local_rank0_first():
                pass
            with second.local_rank0_first():
                pass


def test_one_process_is_a_group_of_one():
    values = torch.tensor([1.0, 2.0])
    assert (
        collectives.world_size(),
        collectives.rank(),
        collectives.is_rank0(),
        collectives.local_rank(),
        collectives.local_size(),
    ) == (1, 0, True, 0, 1)
    assert collectives.all_reduce_sum(values) is values
    assert collectives.all_gather_rows(values).tolist() == [[1.0, 2.0]]
    assert collectives.all_gather_objects("a") == ["a"]
    assert collectives.broadcast_from_rank0(lambda: 3) == 3
    assert (collectives.all_reduce_max(-2.0), collectives.any_rank(True), collectives.any_rank(False)) == (
        -2.0,
        True,
        False,
    )
    assert (collectives.stop_seen(True), collectives.stop_seen(False)) == (True, False)
    collectives.assert_same_on_all_ranks({"a": "1"}, "never said")
    with collectives.local_rank0_first():
        pass
    loss = PackedLoss(model_of(True))
    assert parallel.parallelize(loss, "fsdp", (), None) is loss
