"""A whole validation of a tiny model."""

import math

import numpy as np
import pytest
import torch

from dialog_trainer.data.dataset import open_dialogues, open_tokens
from dialog_trainer.data.sources.jsonl import Jsonl
from dialog_trainer.errors import TrainingError
from dialog_trainer.evaluation import evaluator, protocols
from dialog_trainer.evaluation.contexts import generate_replies, sample_dialogues
from dialog_trainer.evaluation.evaluator import ValidationResult, evaluate
from dialog_trainer.evaluation.losses import HeldOutLosses, measure_held_out_losses, nll_by_role, nll_by_turn
from dialog_trainer.evaluation.protocols import ReplySettings
from dialog_trainer.metrics.registry import score_replies
from dialog_trainer.model.generation.sampling import GREEDY
from dialog_trainer.types import NUM_TURN_BINS, Reply, Role

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


def replying(**changes) -> ReplySettings:
    values = {"protocol": "response", "role": Role.ASSISTANT, "max_new_tokens": NEW, "window": WINDOW}
    return ReplySettings(**(values | {"batch_tokens": 300, "decoding": GREEDY, "seed": 0} | changes))


def no_stage(name: str, total: int):
    return lambda count: None


def validated(model, tokenizer, split, *, stage=no_stage, stopped=lambda: False, **changes) -> ValidationResult | None:
    own = {"names": NAMES, "max_dialogues": 4, "max_seconds": None, "max_tokens": 200}
    own |= {key: changes.pop(key) for key in own.keys() & changes.keys()}
    return evaluate(model, tokenizer, *split, replying(**changes), **own, stage=stage, stopped=stopped)


@pytest.mark.parametrize("role", [Role.ASSISTANT, Role.USER])
def test_loss_and_scores_are_those_of_the_split(tiny_model, tokenizer, split, role):
    result = validated(tiny_model, tokenizer, split, role=role)
    losses = measure_held_out_losses(tiny_model, split[1], max_tokens=10_000)
    nats, tokens = losses.of((role, Role.END)).sum(0)
    assert result.loss == pytest.approx(nats / tokens, rel=1e-6)
    assert result.loss_sums[:, :2] == pytest.approx(losses.of((role, Role.END)), rel=1e-5)
    assert not result.loss_sums[:, 2:].any()  # no score asks for words and bytes
    role_turn_sums = measure_held_out_losses(tiny_model, split[1], max_tokens=200).role_turn_sums
    assert result.losses == nll_by_role(role_turn_sums) | nll_by_turn(role_turn_sums)
    assert len(result.losses) == 6 + 11
    assert result.scores == score_replies(NAMES, result.replies) | {"ppl": math.exp(result.loss)}
    assert list(result.scores) == list(NAMES)


@pytest.mark.parametrize("role", [Role.ASSISTANT, Role.USER])
def test_words_and_bytes_are_those_of_the_tokens_that_gave_the_nats(tiny_model, tokenizer, split, role):
    result = validated(tiny_model, tokenizer, split, role=role, names=["ppl_word", "ppl_byte"])
    nats, _, words, size = result.loss_sums.sum(0)
    assert result.scores["ppl_word"] == pytest.approx(math.exp(nats / words))
    assert result.scores["ppl_byte"] == pytest.approx(math.exp(nats / size))
    rows = split[1].rows.with_format(None)
    cut = {row["dialogue"] for row in rows if any(row["lost"])}
    for index in range(36):
        texts = [turn.text for turn in split[0][index].turns if turn.role == role]
        known = [sum(len(text.split()) for text in texts), sum(map(len, texts))]
        found = result.loss_sums[index, 2:].tolist()
        assert found == known if index not in cut else found <= known
    assert 0 < len(cut) < 18


@pytest.mark.parametrize("max_dialogues", [1, 4, 36, 1000, None])
@pytest.mark.parametrize(("role", "first"), [(Role.ASSISTANT, 1), (Role.USER, 2)])
def test_replies_are_to_every_turn_of_the_role_in_the_drawn_dialogues(
    tiny_model, tokenizer, split, max_dialogues, role, first
):
    result = validated(tiny_model, tokenizer, split, max_dialogues=max_dialogues, role=role)
    indices = sample_dialogues(split[0], max_dialogues)
    expected = [(split[0][i].id, turn) for i in indices for turn in range(first, len(split[0][i].turns), 2)]
    assert [(reply.dialogue_id, reply.turn_index) for reply in result.replies] == expected
    assert result.num_replied == len(indices)


def test_context_and_reply_fit_the_window_and_use_it(tiny_model, tokenizer, split, monkeypatch):
    widths = []

    def watched(contexts, *arguments, max_new_tokens, **options):
        widths.extend(len(context.ids) + max_new_tokens for context in contexts)
        return generate_replies(contexts, *arguments, max_new_tokens=max_new_tokens, **options)

    monkeypatch.setattr(protocols, "generate_replies", watched)
    unused = []
    for window in (20, 30, 40, 50, 60):
        widths.clear()
        validated(tiny_model, tokenizer, split, window=window, max_dialogues=None)
        unused.append(window - max(widths))
    assert min(unused) == 0


def test_the_stages_are_opened_with_their_totals_and_advanced_to_them(tiny_model, tokenizer, split):
    opened, done = [], {"loss": 0, "dialogues replied to": 0}

    def stage(name: str, total: int):
        opened.append((name, total))

        def advance(count: int) -> None:
            done[name] += count

        return advance

    validated(tiny_model, tokenizer, split, stage=stage)
    assert opened == [("loss", len(split[1])), ("dialogues replied to", 4)]
    assert done == dict(opened)


@pytest.mark.parametrize("within", ["loss", "dialogues replied to"])
def test_once_stopped_it_gives_none(tiny_model, tokenizer, split, within):
    reached = []

    def stage(name: str, total: int):
        return lambda count: reached.append(name)

    small = {"max_tokens": 50, "batch_tokens": 1}
    stopped = lambda: within in reached  # noqa: E731
    assert validated(tiny_model, tokenizer, split, stage=stage, stopped=stopped, **small) is None
    assert reached.count(within) == 1


def test_a_loss_that_is_not_finite_is_an_error_that_says_where_it_comes_from(tiny_model, tokenizer, split):
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight[5] = math.nan
    with pytest.raises(TrainingError, match=r"the validation loss is nan: the weights hold values that are not finite"):
        validated(tiny_model, tokenizer, split)


def test_a_split_without_a_turn_of_the_role_and_without_an_end_is_an_error(tiny_model, tokenizer, split, monkeypatch):
    nothing = HeldOutLosses(torch.zeros(2, len(Role), NUM_TURN_BINS), np.zeros((36, len(Role), 2)))
    nothing.by_dialogue[:, Role.USER] = 1.0
    monkeypatch.setattr(evaluator, "measure_held_out_losses", lambda *arguments, **keys: nothing)
    with pytest.raises(TrainingError, match=r"the validation loss is nan: this split has no turn of that role"):
        validated(tiny_model, tokenizer, split)


def replies(turns: int) -> list[Reply]:
    return [Reply("d", turn, ("a",), "b", f"reply {turn}", True) for turn in range(turns)]


def test_samples_are_the_same_contexts_whatever_was_said_and_in_which_order():
    def contexts(of: list[Reply], count: int) -> list[int]:
        return [reply.turn_index for reply in ValidationResult(0.0, {}, np.zeros((1, 4)), {}, of, 1).samples(count)]

    said = replies(30)
    unsaid = [Reply("d", reply.turn_index, ("a",), "b", "", False) for reply in reversed(said)]
    assert contexts(said, 5) == contexts(unsaid, 5)
    assert contexts(said, 8)[:5] == contexts(said, 5)
    assert contexts(said, 5) != [0, 1, 2, 3, 4]
    assert sorted(contexts(said, 100)) == list(range(30))
    assert contexts(said, 0) == []
