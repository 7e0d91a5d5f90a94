"""The held-out loss against a slow reference."""

import pytest
import torch
from helpers.progress import RecordingProgress

from dialog_trainer.data.dataset import TokenDataset, open_dialogues, open_tokens
from dialog_trainer.data.sources.row_format import parse_row
from dialog_trainer.evaluation import losses as losses_module
from dialog_trainer.evaluation.losses import measure_held_out_losses
from dialog_trainer.model.packed_forward import padded_attention
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import NUM_TURN_BINS, Role

MAX_LEN = 48


class Made:
    """A source of rows `{"turns": ...}` that are in memory; roles by parity."""

    def __init__(self, turns: list[list]):
        self.turns = turns

    def digest(self, split: str) -> str:
        return str(derive_seed(split, self.turns))

    def describe(self, split: str) -> str:
        return f"the {split} dialogues of this test"

    def dialogues(self, split: str):
        for number, texts in enumerate(self.turns):
            yield str(number), parse_row({"turns": texts})


@pytest.fixture
def tokens_of(tokenizer, tmp_path):
    def make(turns: list[list[str]]) -> TokenDataset:
        dialogues = open_dialogues(Made(turns), "validation", tmp_path, lambda line: None)
        return open_tokens(dialogues, tokenizer, max_len=MAX_LEN, truncation="split", workers=1, cache_dir=tmp_path)

    return make


def slow_cells(model, table: TokenDataset, only: int | None = None) -> torch.Tensor:
    """Nats and number of all tokens of turns and ends by role and turn, a sequence and a token at a time; of one dialogue."""
    role_turn_sums = torch.zeros(2, len(Role), NUM_TURN_BINS, dtype=torch.float64)
    model.eval()
    for row in table.rows.table.to_pylist():
        if only is not None and row["dialogue"] != only:
            continue
        ids = torch.tensor([row["ids"]])
        runs = zip(row["roles"], row["turns"], row["lengths"], strict=True)
        of_token = [(role, turn) for role, turn, length in runs for _ in range(length)]
        with torch.no_grad(), padded_attention(model):
            logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
        for t in range(1, len(row["ids"])):
            role, turn = of_token[t]
            if role in (Role.USER, Role.ASSISTANT, Role.END):
                role_turn_sums[0, role, min(turn, NUM_TURN_BINS - 1)] -= logs[t - 1, row["ids"][t]]
                role_turn_sums[1, role, min(turn, NUM_TURN_BINS - 1)] += 1
    return role_turn_sums


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [1, 100, 100_000])
def test_loss_equals_the_reference_in_batches_of_any_size(
    tiny_model, tokens_of, dialogue_turns, max_tokens, monkeypatch
):
    monkeypatch.setattr(losses_module, "SEQUENCES_PER_CHUNK", 5)  # several chunks, the last one shorter
    table = tokens_of([*dialogue_turns[:12], dialogue_turns[12] * 3])  # the last of 18 turns
    expected = slow_cells(tiny_model, table)
    losses = measure_held_out_losses(tiny_model, table, max_tokens=max_tokens)
    found = losses.role_turn_sums
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    for dialogue, (own,) in enumerate(zip(losses.by_dialogue, strict=True)):
        alone = slow_cells(tiny_model, table, only=dialogue).sum(2).T
        torch.testing.assert_close(torch.from_numpy(own), alone, rtol=1e-5, atol=0)
    of_two = losses.sum_roles((Role.USER, Role.END))
    assert of_two.tolist() == losses.by_dialogue[:, [Role.USER, Role.END]].sum(1).tolist()
    assert len(table) > 13  # long dialogues are several sequences
    assert found[1].sum() == table.lengths.sum() - len(table)  # all but the [CLS] of each
    assert found[1, Role.END].sum() == 13
    assert (found[1, [Role.USER, Role.ASSISTANT]].sum(0) > 0).all()
    assert not found.requires_grad


def test_weights_in_the_data_are_ignored(tiny_model, tokens_of):
    texts = ["my brother", "Yes , the sea .", "long walks", "No ."]
    said = [
        {"text": texts[0], "weight": 7},
        {"text": texts[1], "train": False},
        texts[2],
        {"text": texts[3], "weight": 0.1},
    ]
    plain, weighed = tokens_of([texts]), tokens_of([said])
    assert weighed.columns([0])[1].weights.tolist() == pytest.approx([7, 7, 0, 1, 0.1, 0.1])
    losses = [measure_held_out_losses(tiny_model, table, max_tokens=1000) for table in (plain, weighed)]
    assert torch.equal(*(one.role_turn_sums for one in losses))
    assert losses[0].by_dialogue.tolist() == losses[1].by_dialogue.tolist()


@pytest.mark.parametrize("role", [Role.USER, Role.ASSISTANT])
def test_tokens_of_the_other_role_are_no_targets(tiny_model, tokens_of, tokenizer, role):
    """In a model that attends to nothing but the token before, only what the role says counts for it."""
    for parameter in tiny_model.transformer.h.parameters():
        parameter.data.zero_()
    tiny_model.transformer.wpe.weight.data.zero_()
    same, quiet, loud = "Yes , the sea .", "my brother", "a teacher wants a new hat"
    pairs = [[same, other] if role == Role.USER else [other, same] for other in (quiet, loud)]
    role_turn_sums = [
        measure_held_out_losses(tiny_model, tokens_of([pair]), max_tokens=1000).role_turn_sums for pair in pairs
    ]
    of_role = [one[:, role].sum(1).tolist() for one in role_turn_sums]
    assert of_role[0] == pytest.approx(of_role[1], rel=1e-6)
    assert of_role[0][1] == len(tokenizer.encode_batch([same])[0]) + 1
    other = Role.ASSISTANT if role == Role.USER else Role.USER
    assert [int(one[1, other].sum()) for one in role_turn_sums] == [
        len(tokenizer.encode_batch([t])[0]) + 1 for t in (quiet, loud)
    ]


def test_progress_and_no_dropout(tiny_model, tokens_of, dialogue_turns):
    table, progress = tokens_of(dialogue_turns[:9]), RecordingProgress()
    tiny_model.transformer.drop.p = 0.5
    first = measure_held_out_losses(tiny_model.train(), table, max_tokens=60, progress=progress)
    assert sum(progress.counts) == len(table)
    assert len(progress.counts) > 3
    again = measure_held_out_losses(tiny_model.train(), table, max_tokens=60)
    assert torch.equal(first.role_turn_sums, again.role_turn_sums)
    assert first.by_dialogue.tolist() == again.by_dialogue.tolist()


def test_a_stop_gives_none(tiny_model, tokens_of, dialogue_turns):
    table, progress = tokens_of(dialogue_turns[:9]), RecordingProgress(stop=lambda progress: len(progress.counts) == 2)
    assert measure_held_out_losses(tiny_model, table, max_tokens=60, progress=progress) is None
    assert len(progress.counts) == 2
