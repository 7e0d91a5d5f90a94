"""The held-out loss against a slow reference."""

import pytest
import torch

from dialog_trainer.data import tables
from dialog_trainer.data.order import seed_of
from dialog_trainer.data.rows import alternating
from dialog_trainer.evaluation import held_out
from dialog_trainer.evaluation.held_out import held_out_loss
from dialog_trainer.model.packed import padded_attention
from dialog_trainer.records import Role

MAX_LEN = 48


class Made:
    """A source of dialogues that are in memory; roles by parity."""

    def __init__(self, turns: list[list[str]]):
        self.turns = turns

    def digest(self, split: str) -> str:
        return str(seed_of(split, self.turns))

    def describe(self, split: str) -> str:
        return f"the {split} dialogues of this test"

    def dialogues(self, split: str):
        for number, texts in enumerate(self.turns):
            yield str(number), alternating(texts)


@pytest.fixture
def tokens_of(vocabulary, tmp_path):
    def make(turns: list[list[str]]) -> tables.TokenTable:
        dialogues = tables.open_dialogues(Made(turns), "validation", tmp_path, lambda line: None)
        return tables.open_tokens(
            dialogues, vocabulary, max_len=MAX_LEN, truncation="split", workers=1, cache_dir=tmp_path
        )

    return make


def slow_loss(model, table: tables.TokenTable) -> tuple[float, int]:
    """Nats and number of the assistant's and the end's tokens, a sequence and a token at a time."""
    nats, count = 0.0, 0
    model.eval()
    for row in table.rows.with_format(None):
        ids = torch.tensor([row["ids"]])
        with torch.no_grad(), padded_attention(model):
            logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
        for t in range(1, len(row["ids"])):
            if row["roles"][t] in (Role.ASSISTANT, Role.END):
                nats -= float(logs[t - 1, row["ids"][t]])
                count += 1
    return nats, count


@pytest.mark.parametrize("max_tokens", [1, 100, 100_000])
def test_the_loss_is_that_of_the_slow_reference_however_it_is_batched(
    tiny_model, tokens_of, dialogue_turns, max_tokens, monkeypatch
):
    monkeypatch.setattr(held_out, "CHUNK", 5)  # several chunks, the last one shorter
    table = tokens_of(dialogue_turns[:13])
    nats, count = slow_loss(tiny_model, table)
    found = held_out_loss(tiny_model, table, max_tokens=max_tokens)
    assert float(found.nats) == pytest.approx(nats, rel=1e-6)
    assert (found.weight, found.trained_tokens, found.tokens) == (count, count, int(table.lengths.sum()))
    assert len(table) > 13  # long dialogues are several sequences
    assert not found.nats.requires_grad


def test_the_users_words_have_no_part_as_targets(tiny_model, tokens_of, vocabulary):
    """In a model that attends to nothing but the token before, only what the assistant says counts."""
    for parameter in tiny_model.transformer.h.parameters():
        parameter.data.zero_()
    tiny_model.transformer.wpe.weight.data.zero_()
    quiet, loud = (tokens_of([[user, "Yes , the sea ."]]) for user in ("my brother", "a teacher wants a new hat"))
    losses = [held_out_loss(tiny_model, table, max_tokens=1000) for table in (quiet, loud)]
    assert float(losses[0].nats) == pytest.approx(float(losses[1].nats), rel=1e-6)
    assert losses[0].weight == losses[1].weight == len(vocabulary.encode_batch(["Yes , the sea ."])[0]) + 2
    assert losses[0].tokens < losses[1].tokens


def test_it_says_how_far_it_is_and_evaluates_without_dropout(tiny_model, tokens_of, dialogue_turns):
    table, done = tokens_of(dialogue_turns[:9]), []
    tiny_model.transformer.drop.p = 0.5
    first = held_out_loss(tiny_model.train(), table, max_tokens=60, advance=done.append)
    assert sum(done) == len(table)
    assert len(done) > 3
    assert torch.equal(first.nats, held_out_loss(tiny_model.train(), table, max_tokens=60).nats)


def test_once_stopped_it_gives_none(tiny_model, tokens_of, dialogue_turns):
    table, done = tokens_of(dialogue_turns[:9]), []
    assert held_out_loss(tiny_model, table, max_tokens=60, advance=done.append, stopped=lambda: len(done) == 2) is None
    assert len(done) == 2
