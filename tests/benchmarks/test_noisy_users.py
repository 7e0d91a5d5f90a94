"""Noise in the user's turns: only there, as much as was asked for, and the same for one seed."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIALOGUES = [
    [f"how are you today {number} ?", f"fine , thank you {number} .", "what shall we do ?"] for number in range(200)
]


@pytest.fixture
def noisy_users(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("noisy_users")


def test_only_words_of_the_user_change(noisy_users):
    assert noisy_users.replace_words(DIALOGUES, 0, 0) == DIALOGUES
    made = noisy_users.replace_words(DIALOGUES, 1, 0)
    assert made == noisy_users.replace_words(DIALOGUES, 1, 0) != noisy_users.replace_words(DIALOGUES, 1, 1)
    assert [turns[1] for turns in made] == [turns[1] for turns in DIALOGUES]
    assert [[len(turn.split()) for turn in turns] for turns in made] == [
        [len(turn.split()) for turn in turns] for turns in DIALOGUES
    ]
    of_users = {word for turns in DIALOGUES for turn in turns[::2] for word in turn.split()}
    assert {word for turns in made for turn in turns[::2] for word in turn.split()} <= of_users


def test_a_share_of_the_words_is_replaced(noisy_users):
    dialogues = [[" ".join(f"w{number}-{place}" for place in range(50))] for number in range(100)]
    made = noisy_users.replace_words(dialogues, 0.5, 0)
    changed = [
        a != b
        for before, after in zip(dialogues, made, strict=True)
        for a, b in zip(before[0].split(), after[0].split(), strict=True)
    ]
    assert 0.46 < sum(changed) / len(changed) < 0.54  # 5,000 words: four standard deviations
