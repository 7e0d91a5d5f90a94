"""Small files in the forms in which dialogues are published: each gives the same two dialogues, without conversion."""

from pathlib import Path

import pytest

from dialog_trainer.data.sources import DailyDialog, Files
from dialog_trainer.data.sources.cleaning import ReadCounts, clean_dialogues

FORMS = Path(__file__).parent / "forms"
STAMPS = ["Do you sell stamps ?", "Yes , at the counter .", "Two , please .", "Here you are ."]
RAIN = ["Is it raining ?", "Only a little ."]
CALL = 'assistant {"name": "look_out"'
OF_TOOLS = ["user Is it raining ?", CALL + ', "arguments": {"window": 2}}', "tool drops", "assistant Only a little ."]

# File or folder, `data.columns`, `data.roles`, what stands before the first dialogue, the second one where it is another.
PLAIN = [
    ("turns.jsonl", {}, {}),
    ("prompt_completion.jsonl", {}, {}),
    ("utterances.csv", {}, {"assistant": "Nora"}),
    ("by_id.json", {"turns": "content"}, {"agent_1": "user", "agent_2": "assistant"}),
    ("pairs.json", {"prompt": "user_message", "completion": "system_message"}, {}),
    ("agent_is_system.json", {}, {"system": "assistant"}),
    ("wrapped.json", {}, {}),
    ("one_file_each", {"role": "interlocutor_id"}, {"user": "first_speaker"}),
    ("hub", {}, {}),
    ("hub/data/tr*.parquet", {}, {}),
    ("packed.jsonl.gz", {}, {}),
    ("packed.tsv.zst", {}, {}),
]


def read(source, split="train"):
    counts = ReadCounts()
    return [
        [f"{turn.label or turn.role.name.lower()} {turn.text}" for turn in dialogue.turns]
        for dialogue in clean_dialogues(source.dialogues(split), counts)
    ]


def files(name, columns=None, roles=None):
    place = str(FORMS / name)
    return Files(place, place, None, 0.1, columns, roles)


def speak(texts):
    return [f"{'assistant' if index % 2 else 'user'} {text}" for index, text in enumerate(texts)]


@pytest.mark.parametrize(("name", "columns", "roles"), PLAIN)
def test_each_form_gives_its_dialogues(name, columns, roles):
    source = files(name, columns, roles)
    assert read(source) == [speak(STAMPS), speak(RAIN)]
    assert len({identifier for identifier, _ in source.dialogues("train")}) == 2


def test_forms_with_more_than_two_roles():
    system = "system You sell stamps ."
    assert read(files("messages.json")) == [[system, *speak(STAMPS)], OF_TOOLS]
    _, turns = next(files("messages.json").dialogues("train"))
    assert [turn.weight for turn in turns] == [1, 0, 1, 0, 1]
    calls = ['system [{"name": "look_out"}]', OF_TOOLS[0], CALL + "}", *OF_TOOLS[2:]]
    assert read(files("sharegpt.json")) == [[system, *speak(STAMPS)], calls]


def test_forms_of_single_questions():
    assert read(files("questions.csv")) == [speak(STAMPS[:2]), speak(RAIN)]
    asked = ["system Be brief .", "user Answer the question .\nIs it raining ?", "assistant Only a little ."]
    assert read(files("alpaca.json")) == [speak(STAMPS), asked]


def test_label_columns_of_the_text_form_are_no_turns():
    source = DailyDialog(str(FORMS / "xdailydialog"), "", None, "")
    assert read(source) == [speak(STAMPS), speak(RAIN)]
    assert source.parser.unread() == {"columns after the last __eou__": 2}


def test_the_splits_of_a_folder_are_told_apart():
    source = Files(str(FORMS / "hub"), None, None, 0.5)
    assert read(source, "test") == [speak(STAMPS)]
    assert source.describe("train").endswith("train-00000-of-00001.parquet without the 0.5 that is held out")
    assert source.describe("test").endswith("hub/data/test-00000-of-00001.parquet")


def test_the_keys_that_are_not_read_are_counted():
    unread = {}
    for name, columns, roles in PLAIN:
        source = files(name, columns, roles)
        read(source)
        unread[name] = source.parser.unread()
    assert unread["turns.jsonl"] == {}
    assert unread["wrapped.json"] == {"version": 1}
    assert unread["by_id.json"] == {"content[].sentiment": 6, "article_url": 2, "config": 2}
    assert unread["utterances.csv"] == {"Sr No.": 6, "Emotion": 6, "Utterance_ID": 6}
