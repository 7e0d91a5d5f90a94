"""The table of what was understood of the data, and the refusal of a split in which nobody is trained."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from helpers.configs import compose_config

from dialog_trainer.errors import DataError
from dialog_trainer.masking import schedules
from dialog_trainer.masking.coverage import MaskCounts, SplitSummary
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.reporting.split_table import report_splits
from dialog_trainer.types import NUM_TURN_BINS, Role

TOKENS = np.zeros((len(Role), NUM_TURN_BINS), dtype=int)
TOKENS[:, 0] = 400, 9_000, 12_000, 100, 100
COUNTS = MaskCounts(
    sequences=100,
    tokens=TOKENS,
    trained=np.array([]),
    untrained=np.array([]),
    turns=2_215,
    lost_tokens=1_400,
    cut_turns=1_001,
    lost_turns=2,
    lost_ends=0,
)
TRAIN = SplitSummary(
    name="train",
    turns_by_role={"user": 1_000, "assistant": 1_200, "system": 10, "tool": 5},
    counts=COUNTS,
    before=np.array([0, 9_000, 9_000, 100, 0]),
    after=np.array([0, 0, 9_000, 100, 0]),
    unknown=216,
    unread={"emotion": 900, "a" * 99: 3, **{str(n): 1 for n in range(9)}},
    by_position=7,
)
VALIDATION = dataclasses.replace(
    TRAIN,
    name="validation",
    turns_by_role={"user": 1_000_000, "assistant": 9},
    counts=dataclasses.replace(COUNTS, lost_tokens=0),
    unknown=0,
    unread={},
    by_position=0,
)


switch = partial(schedules.step, train_user_turn_mask_step=0.5)
constant = partial(schedules.constant, end_weight=1.0)


def report(*summaries, schedule=switch, steps=30_000, role=Role.ASSISTANT):
    lines = []
    config = compose_config("model=gpt2_tiny", "data=chitchat", "data.truncation=keep_end")
    report_splits(summaries, build_timeline(Mask(schedule), steps), role, config, lines.append)
    return lines


def test_each_role_has_its_turns_tokens_and_loss():
    lines = report(TRAIN)
    rows = {line[11:21].strip(): line[21:].split() for line in lines[2:7]}
    assert lines[1].split() == ["split", "role", "turns", "tokens", "at", "first", "from", "step", "15,000"]
    assert rows == {
        "user": ["1,000", "9,000", "100.0%", "0.0%"], "assistant": ["1,200", "12,000", "75.0%", "75.0%"],
        "system": ["15", "400", "0.0%", "0.0%"], "end": ["100", "100.0%", "100.0%"], "format": ["100", "0.0%", "0.0%"],
    }  # fmt: skip
    assert lines[7:] == [
        f"train: keys not read: emotion (900), {'a' * 40} (3), 0 (1), 1 (1), 2 (1), 3 (1) and 5 more",
        "train: turns that count as the system's: 5 of tool",
        "train: dialogues without names of roles: 7 (turns alternate, the user first)",
        "train: truncation takes 6.1% of the tokens of turns: 1,001 turns cut, 2 removed "
        "(model.max_len=128, data.truncation=keep_end)",
        "train: 1.0% of all its tokens are unknown to the vocabulary: does the model know this language?",
    ]


def test_keys_of_the_same_rows_are_named_once():
    lines = report(*(dataclasses.replace(TRAIN, name=name, unread={"mood": 9}) for name in ("train", "validation")))
    assert [line for line in lines if "not read" in line] == ["train and validation: keys not read: mood (9)"]


def test_held_out_dialogues_are_split_whatever_the_truncation_of_training():
    assert report(dataclasses.replace(VALIDATION, counts=COUNTS))[-1] == (
        "validation: truncation takes 6.1% of the tokens of turns: 1,001 turns cut, 2 removed "
        "(model.max_len=128, held-out dialogues are split)"
    )


@pytest.mark.parametrize("schedule", [switch, constant])
def test_the_table_fits_a_terminal(schedule):
    lines = report(
        TRAIN,
        dataclasses.replace(VALIDATION, counts=dataclasses.replace(COUNTS, tokens=TOKENS * 10**5)),
        schedule=schedule,
        steps=3_000_000,
    )
    assert max(map(len, lines[:12])) <= 80


@pytest.mark.parametrize(
    ("summary", "reason"),
    [
        (
            dataclasses.replace(
                TRAIN, turns_by_role={"user": 3, "system": 4}, before=TRAIN.before * 0, after=TRAIN.after * 0
            ),
            r"train: no turn is the assistant's; the roles are user \(3\), system \(4\). .*'data.roles=\{system: assistant\}'",
        ),
        (
            dataclasses.replace(VALIDATION, before=TRAIN.before * 0, after=TRAIN.after * 0),
            "validation: none of the 9 turns of the assistant carries loss: the data give them weight 0",
        ),
    ],
)
def test_a_split_without_the_trained_role_is_refused_with_the_table(summary, reason):
    with pytest.raises(DataError, match=reason) as error:
        report(summary)
    assert "tokens that carry loss" in str(error.value)
