"""One validation of a tiny model."""

import math

import numpy as np
import pytest
import torch
from helpers.progress import RecordingProgress

from dialog_trainer.data.dataset import open_dialogues, open_tokens
from dialog_trainer.data.sources import Jsonl
from dialog_trainer.errors import TrainingError
from dialog_trainer.evaluation import evaluator, protocols
from dialog_trainer.evaluation.contexts import sample_dialogues
from dialog_trainer.evaluation.evaluator import ValidationPlan, ValidationResult, _reply_to_split, evaluate
from dialog_trainer.evaluation.losses import HeldOutLosses, measure_held_out_losses, nll_by_role, nll_by_turn
from dialog_trainer.evaluation.progress import SILENT
from dialog_trainer.evaluation.protocols import ReplySettings, TurnProtocol, generate_replies
from dialog_trainer.metrics.registry import SCORES, score_replies
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import NUM_TURN_BINS, Dialogue, Reply, Role, Turn

NAMES = ("nist2", "ppl", "bleu2")
WINDOW, NEW = 48, 5


@pytest.fixture(scope="module")
def split(jsonl_folder, tokenizer, tmp_path_factory):
    """The dialogues and tokens of `train.jsonl`."""
    cache = tmp_path_factory.mktemp("tables")
    dialogues = open_dialogues(
        Jsonl(str(jsonl_folder / "train.jsonl"), None, None, 0.0), "train", cache, lambda line: None
    )
    return dialogues, open_tokens(dialogues, tokenizer, max_len=WINDOW, truncation="split", workers=1, cache_dir=cache)


def validated(model, tokenizer, split, *, progress=SILENT, **changes) -> ValidationResult | None:
    """A validation by `response`; `changes` are fields of the plan or of the reply settings."""
    settings = {"role": Role.ASSISTANT, "max_new_tokens": NEW, "window": WINDOW, "batch_tokens": 300}
    plan = {"names": NAMES, "max_dialogues": 4, "max_seconds": None, "max_tokens": 200}
    settings |= {key: value for key, value in changes.items() if key in settings}
    plan |= {key: value for key, value in changes.items() if key in plan}
    protocol = TurnProtocol("response", ReplySettings(**settings))
    metrics = {name: SCORES[name] for name in plan.pop("names")}
    return evaluate(model, tokenizer, *split, ValidationPlan(protocol, metrics, **plan), progress)


@pytest.mark.parametrize("role", [Role.ASSISTANT, Role.USER])
def test_loss_and_scores_are_those_of_the_split(tiny_model, tokenizer, split, role):
    result = validated(tiny_model, tokenizer, split, role=role)
    losses = measure_held_out_losses(tiny_model, split[1], max_tokens=10_000)
    nats, tokens = losses.sum_roles((role, Role.END)).sum(0)
    assert result.loss == pytest.approx(nats / tokens, rel=1e-6)
    assert result.loss_sums[:, :2] == pytest.approx(losses.sum_roles((role, Role.END)), rel=1e-5)
    assert not result.loss_sums[:, 2:].any()  # no score asks for words and bytes
    role_turn_sums = measure_held_out_losses(tiny_model, split[1], max_tokens=200).role_turn_sums
    assert result.losses == nll_by_role(role_turn_sums) | nll_by_turn(role_turn_sums)
    assert len(result.losses) == 6 + 11
    assert result.scores == score_replies(NAMES, result.replies) | {"ppl": math.exp(result.loss)}
    assert list(result.scores) == list(NAMES)


@pytest.mark.parametrize("role", [Role.ASSISTANT, Role.USER])
def test_words_and_bytes_are_of_the_scored_tokens(tiny_model, tokenizer, split, role):
    result = validated(tiny_model, tokenizer, split, role=role, names=["ppl_word", "ppl_byte"])
    nats, _, words, size = result.loss_sums.sum(0)
    assert result.scores["ppl_word"] == pytest.approx(math.exp(nats / words))
    assert result.scores["ppl_byte"] == pytest.approx(math.exp(nats / size))
    rows = split[1].rows.table.to_pylist()
    cut = {row["dialogue"] for row in rows if any(row["lost"])}
    for index in range(36):
        texts = [turn.text for turn in split[0][index].turns if turn.role == role]
        known = [sum(len(text.split()) for text in texts), sum(map(len, texts))]
        found = result.loss_sums[index, 2:].tolist()
        assert found == known if index not in cut else found <= known
    assert 0 < len(cut) < 18


@pytest.mark.parametrize("max_dialogues", [1, 4, 36, 1000, None])
@pytest.mark.parametrize(("role", "first"), [(Role.ASSISTANT, 1), (Role.USER, 2)])
def test_each_turn_of_the_role_gets_a_reply(tiny_model, tokenizer, split, max_dialogues, role, first):
    result = validated(tiny_model, tokenizer, split, max_dialogues=max_dialogues, role=role)
    indices = sample_dialogues(split[0], max_dialogues)
    expected = [(split[0][i].id, turn) for i in indices for turn in range(first, len(split[0][i].turns), 2)]
    assert [(reply.dialogue_id, reply.turn_index) for reply in result.replies] == expected
    assert result.num_replied == len(indices)


def test_context_and_reply_fit_the_window_and_use_it(tiny_model, tokenizer, split, monkeypatch):
    widths = []

    def watched(contexts, **options):
        widths.extend(len(context.ids) + NEW for context in contexts)
        return generate_replies(contexts, **options)

    monkeypatch.setattr(protocols, "generate_replies", watched)
    unused = []
    for window in (20, 30, 40, 50, 60):
        widths.clear()
        validated(tiny_model, tokenizer, split, window=window, max_dialogues=None)
        unused.append(window - max(widths))
    assert min(unused) == 0


def test_progress_reaches_the_totals(tiny_model, tokenizer, split):
    progress = RecordingProgress()
    validated(tiny_model, tokenizer, split, progress=progress)
    assert progress.stages == [("loss", len(split[1])), ("dialogues replied to", 4)]
    assert progress.done == dict(progress.stages)


@pytest.mark.parametrize("stage", ["loss", "dialogues replied to"])
def test_a_stop_gives_none(tiny_model, tokenizer, split, stage):
    progress = RecordingProgress(stop=lambda progress: progress.done.get(stage, 0) > 0)
    assert validated(tiny_model, tokenizer, split, progress=progress, max_tokens=50, batch_tokens=1) is None
    assert 0 < progress.done[stage] < dict(progress.stages)[stage]


def test_a_loss_that_is_not_finite_is_an_error(tiny_model, tokenizer, split):
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight[5] = math.nan
    with pytest.raises(TrainingError, match=r"the validation loss is nan: the weights hold values that are not finite"):
        validated(tiny_model, tokenizer, split)


def test_a_split_without_the_role_is_an_error(tiny_model, tokenizer, split, monkeypatch):
    nothing = HeldOutLosses(torch.zeros(2, len(Role), NUM_TURN_BINS), np.zeros((36, len(Role), 2)))
    nothing.by_dialogue[:, Role.USER] = 1.0
    monkeypatch.setattr(evaluator, "measure_held_out_losses", lambda *arguments, **keys: nothing)
    with pytest.raises(TrainingError, match=r"the validation loss is nan: this split has no turn of that role"):
        validated(tiny_model, tokenizer, split)


def replies(turns: int) -> list[Reply]:
    return [Reply("d", turn, ("a",), "b", f"reply {turn}", True) for turn in range(turns)]


def test_samples_are_always_the_same_contexts():
    def contexts(replies: list[Reply], count: int) -> list[int]:
        return [
            reply.turn_index
            for reply in ValidationResult(0.0, {}, np.zeros((1, 4)), {}, replies, 1, np.zeros((1, 5, 2))).samples(count)
        ]

    said = replies(30)
    unsaid = [Reply("d", reply.turn_index, ("a",), "b", "", False) for reply in reversed(said)]
    assert contexts(said, 5) == contexts(unsaid, 5)
    assert contexts(said, 8)[:5] == contexts(said, 5)
    assert contexts(said, 5) != [0, 1, 2, 3, 4]
    assert sorted(contexts(said, 100)) == list(range(30))
    assert contexts(said, 0) == []


class Table:
    """As much of a `DialogueDataset` as replying reads."""

    def __init__(self, size: int):
        self.rows = [{"id": f"d{index}"} for index in range(size)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Dialogue:
        return Dialogue(
            self.rows[index]["id"], (Turn(Role.USER, "a"), Turn(Role.ASSISTANT, "b"), Turn(Role.ASSISTANT, "c"))
        )


@pytest.mark.parametrize(("seconds", "looks"), [(None, 4), (0.5, 1), (1.0, 1), (1.5, 2), (2.5, 3), (3.5, 4), (99.0, 4)])
def test_max_seconds_stops_between_dialogues_in_the_order_of_the_hash(monkeypatch, seconds, looks):
    """Each part of 16 dialogues takes a second; the last has 2 of the 50."""
    clock = [0.0]
    asked: list[list[str]] = []

    class Timed:
        def produce_replies(self, dialogues, model, tokenizer, progress):
            clock[0] += 1.0
            asked.append([dialogue.id for dialogue in dialogues])
            return [Reply(one.id, turn, (), "b", "c", True) for one in dialogues for turn in (1, 2)]

    monkeypatch.setattr(evaluator.time, "monotonic", lambda: clock[0])
    plan = ValidationPlan(Timed(), {}, max_dialogues=None, max_seconds=seconds, max_tokens=1)
    replies, count = _reply_to_split(None, None, Table(50), np.ones(50), plan, SILENT)
    by_hash = sorted(range(50), key=lambda index: derive_seed("draw", f"d{index}"))
    done = sorted(by_hash[: 16 * looks])
    assert [(reply.dialogue_id, reply.turn_index) for reply in replies] == [
        (f"d{index}", turn) for index in done for turn in (1, 2)
    ]
    assert count == len(done)
    if seconds is None:
        assert asked == [[f"d{index}" for index in range(50)]]
    else:
        assert [one for part in asked for one in part] == [f"d{index}" for index in by_hash[: 16 * looks]]
