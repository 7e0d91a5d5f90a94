"""The history of a chat and the context that the model sees."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.model.generation.conversation import Conversation, LineTooLong

WINDOW, NEW = 60, 20
LINE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).map(str.strip).filter(bool)


def talk(tokenizer, window: int = 10_000) -> Conversation:
    return Conversation(tokenizer, window=window, max_new_tokens=NEW)


def by_template(tokenizer, texts: list[str]) -> list[int]:
    """The ids of the saved chat template, which is the training format."""
    names = ("user", "assistant")
    messages = [{"role": names[index % 2], "content": text} for index, text in enumerate(texts)]
    return tokenizer.hf_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def test_context_equals_chat_template(tokenizer):
    conversation, texts = talk(tokenizer), []
    for line, reply in [
        ("I heard that my brother likes tea .", "Yes , the sea ."),
        ("why ?", "good books"),
        ("ok", "x"),
    ]:
        texts.append(line)
        assert conversation.ask(line) == by_template(tokenizer, texts)
        conversation.answer(reply)
        texts.append(reply)


def test_typed_separator_ends_no_turn(tokenizer):
    context = talk(tokenizer).ask("a [SEP] b <|endoftext|> [CLS]")
    assert [
        context.count(mark)
        for mark in (tokenizer.special_tokens.start, tokenizer.special_tokens.separator, tokenizer.end_id)
    ] == [1, 1, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LINE, LINE | st.just("")), min_size=1, max_size=8))
def test_full_window_drops_whole_turns_from_the_left(tokenizer, exchanges):
    conversation, texts = talk(tokenizer, WINDOW), []
    for line, reply in exchanges:
        try:
            context = conversation.ask(line)
        except LineTooLong:
            assert len(by_template(tokenizer, [line])) > WINDOW - NEW
            continue
        texts.append(line)
        suffixes = [by_template(tokenizer, texts[start:]) for start in range(0, len(texts), 2)]
        assert context == next(ids for ids in suffixes if len(ids) <= WINDOW - NEW)
        conversation.answer(reply)
        texts = [*texts, reply] if reply else texts[:-1]


def test_a_long_conversation_is_not_encoded_again_and_again(tokenizer, monkeypatch):
    encoded, encode = [], tokenizer.chat_format.encode_contexts

    def count(turns, *arguments):
        encoded.append(len(turns))
        return encode(turns, *arguments)

    monkeypatch.setattr(tokenizer.chat_format, "encode_contexts", count)
    conversation = talk(tokenizer, WINDOW)
    for _ in range(100):
        conversation.ask("a b")
        conversation.answer("c d")
    assert max(encoded) <= WINDOW - NEW
    assert len(encoded) < 400


def test_reset_forgets(tokenizer):
    conversation = talk(tokenizer)
    conversation.ask("one")
    conversation.answer("two")
    conversation.reset()
    assert conversation.ask("three") == by_template(tokenizer, ["three"])


def test_empty_reply_removes_its_line(tokenizer):
    conversation = talk(tokenizer)
    conversation.ask("one")
    conversation.answer("")
    assert conversation.ask("two") == by_template(tokenizer, ["two"])


def test_line_too_long_is_refused_and_forgotten(tokenizer):
    conversation = talk(tokenizer, WINDOW)
    room = WINDOW - NEW
    (token,) = tokenizer.encode_batch(["!"])[0]
    assert tokenizer.encode_batch(["!" * 500])[0] == [token] * 500
    with pytest.raises(
        LineTooLong, match=rf"takes {room + 1:,} tokens, and there is room for {room:,}: send a shorter"
    ):
        conversation.ask("!" * (room - 1))
    assert conversation.ask("ok") == by_template(tokenizer, ["ok"])
    conversation.reset()
    assert len(conversation.ask("!" * (room - 2))) == room
