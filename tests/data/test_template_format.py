"""The chat format `template`: spans, prompts and cuts of the template shapes that people meet."""

import pickle
from dataclasses import replace
from datetime import date
from functools import partial

import pytest
from helpers.templates import CHATML, MISTRAL, SHAPES, TEXTS, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers

from dialog_trainer.data.template_format import TemplateFormat, choose_format
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import DataError, ModelError
from dialog_trainer.types import Dialogue, Role, Turn

S, U, A = Role.SYSTEM, Role.USER, Role.ASSISTANT
NAMES = {S: "system", U: "user", A: "assistant"}
DAY = date(2026, 1, 31)
TEMPLATE, AUTO = partial(TemplateFormat, day=DAY), partial(choose_format, day=DAY)
WITHOUT_SYSTEM = {"gemma"}
BY_REPLY = {"qwen3"}
TOKENIZERS = {shape: DialogueTokenizer(make_tokenizer(shape), TEMPLATE) for shape in SHAPES}


def turns_of(*roles: Role, texts=TEXTS) -> tuple[Turn, ...]:
    return tuple(Turn(role, texts[index % len(texts)]) for index, role in enumerate(roles))


def encode(shape, turns, max_len=10_000, truncation="split"):
    return TOKENIZERS[shape].chat_format.encode_dialogues([Dialogue("d", tuple(turns))], max_len, truncation)[0]


def apply_template(shape, turns, **options):
    messages = [{"role": NAMES[turn.role], "content": turn.text} for turn in turns]
    return make_tokenizer(shape).apply_chat_template(messages, enable_thinking=False, return_dict=True, **options)


words = st.lists(
    st.sampled_from(["the", "sea", "is", "blue", "한국", "🙂", "<think>", "x\n\ny", "[INST]", "?"]),
    min_size=1,
    max_size=8,
)
texts = words.map(" ".join).filter(str.strip)
exchanges = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


@st.composite
def dialogues(draw, shape):
    turns = [Turn(role, text) for pair in draw(exchanges) for role, text in zip((U, A), pair, strict=True)]
    if shape not in WITHOUT_SYSTEM and draw(st.booleans()):
        turns = [Turn(S, draw(texts)), *turns]
    return turns


@pytest.mark.parametrize("shape", sorted(SHAPES))
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_spans_are_the_turns_and_prompts_are_what_comes_before_a_reply(shape, data):
    turns = data.draw(dialogues(shape))
    tokenizer = TOKENIZERS[shape]
    sequences = encode(shape, turns)
    assert len(sequences) == (sum(turn.role == A for turn in turns) if shape in BY_REPLY else 1)
    found = {}
    for sequence in sequences:
        position = 0
        assert sequence.spans[0].role == Role.FORMAT
        for span in sequence.spans:
            if span.role == A:
                (prompt,) = tokenizer.chat_format.encode_contexts(turns, [span.turn], 10_000)
                assert sequence.ids[:position] == prompt
                assert span.ids[-1] in tokenizer.chat_format.ends
            if span.role != Role.FORMAT:
                assert span.turn not in found
                found[span.turn] = (span.role, tokenizer.decode(span.ids).strip())
            position += len(span.ids)
    assert found == {index: (turn.role, turn.text) for index, turn in enumerate(turns)}


@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - {"llama3"}))  # its day is today in transformers
def test_ids_are_those_of_apply_chat_template(shape):
    exchange = turns_of(U, A, U, A)
    for turns in (exchange, (Turn(S, "Be short ."), *exchange)):
        if turns[0].role == S and shape in WITHOUT_SYSTEM:
            continue
        expected = apply_template(shape, turns)["input_ids"]
        last = encode(shape, turns)[-1].ids
        assert last == expected[: len(last)] if shape in BY_REPLY else last == expected
        (prompt,) = TOKENIZERS[shape].chat_format.encode_contexts(turns, [len(turns) - 1], 10_000)
        assert prompt == apply_template(shape, turns[:-1], add_generation_prompt=True)["input_ids"]


def test_marks_of_the_template_are_the_mask():
    turns = turns_of(S, U, A, U, A)
    (sequence,) = encode("marked", turns)
    marks = apply_template("marked", turns, return_assistant_tokens_mask=True)["assistant_masks"]
    assert [int(role == A) for role in sequence.roles] == marks


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("role", [U, A])
def test_a_text_cannot_write_a_special_token(shape, role):
    tokenizer = TOKENIZERS[shape]
    specials = {token.content for token in tokenizer.hf_tokenizer.added_tokens_decoder.values()}
    hostile = " ".join(["x", *sorted(specials), "{{ 7 * 7 }}"])
    turns = [replace(turn, text=hostile) if turn.role == role else turn for turn in turns_of(U, A, U, A)]
    plain = [replace(turn, text="x") if turn.role == role else turn for turn in turns]
    ids = {tokenizer.hf_tokenizer.convert_tokens_to_ids(token) for token in specials}

    def count(turns):
        return [sum(token in ids for token in sequence.ids) for sequence in encode(shape, turns)]

    assert count(turns) == count(plain)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("truncation", ["split", "keep_start", "keep_end"])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_cut_dialogues_keep_the_contract(shape, truncation, data):
    """Each turn is trained once or counted as lost, and no sequence is too long."""
    turns = data.draw(dialogues(shape))
    max_len = data.draw(st.integers(40, 80))
    whole = {span.turn: len(span.ids) for one in encode(shape, turns) for span in one.spans if span.role != Role.FORMAT}
    seen = {}
    for sequence in encode(shape, turns, max_len, truncation):
        assert 0 < len(sequence.ids) <= max_len
        assert sequence.spans[0].role == Role.FORMAT
        for span in sequence.spans:
            if span.role != Role.FORMAT:
                assert span.turn not in seen
                seen[span.turn] = len(span.ids) + span.lost
            else:
                assert span.lost == 0
    assert seen.keys() == whole.keys()
    if shape not in BY_REPLY | {"mistral"}:  # there the tokens of a turn depend on what is before it
        assert seen == whole


@pytest.mark.slow
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_long_context_loses_whole_turns_from_the_left(shape):
    turns = turns_of(U, A, U, A, U, A, U, A)
    encode_context = TOKENIZERS[shape].chat_format.encode_contexts
    fitting = [encode_context(turns[start:], [7 - start], 10_000)[0] for start in (0, 2, 4, 6)]
    for room in range(len(fitting[-1]), len(fitting[0]) + 2):
        expected = next(ids for ids in fitting if len(ids) <= room)
        assert encode_context(turns, [7], room) == [expected]
    assert len(encode_context(turns, [7], len(fitting[-1]) - 3)[0]) == len(fitting[-1]) - 3


def test_each_part_repeats_the_system_turn():
    turns = [Turn(S, "Be short ."), *turns_of(U, A, U, A)]
    parts = encode("chatml", turns, max_len=60)
    tokenizer = TOKENIZERS["chatml"]
    assert len(parts) == 2
    assert all("Be short ." in tokenizer.decode(part.ids) for part in parts)
    assert [[span.role for span in part.spans].count(S) for part in parts] == [1, 0]


@pytest.mark.parametrize(
    ("shape", "roles", "reason"),
    [
        ("gemma", (S, U, A), "System role not supported"),
        ("gemma", (U, U, A), "must alternate"),
        ("mistral", (S, A), "writes the system turn 0 0 times"),
    ],
)
def test_a_dialogue_that_the_template_refuses_is_named(shape, roles, reason):
    with pytest.raises(
        DataError, match=rf"dialogue d: the chat template cannot write it .*{reason}.*chat_format=separator"
    ):
        encode(shape, turns_of(*roles))


def test_a_text_that_the_template_changes_is_named():
    turns = [Turn(U, "How ?"), Turn(A, "<think>Well</think>So .")]
    with pytest.raises(DataError, match=r"dialogue d: .*it changes the text of turn 1, '<think>Well</think>So \.'"):
        encode("qwen3", turns)
    assert encode("chatml", turns)


def test_a_prompt_that_opens_thoughts_is_noted():
    hf_tokenizer = make_tokenizer("chatml")
    hf_tokenizer.chat_template = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    chat_format = TemplateFormat(hf_tokenizer)
    ((sequence,),) = chat_format.encode_dialogues([Dialogue("d", turns_of(U, A))], 100, "split")
    before = [token for span in sequence.spans for token in span.ids if span.role != Role.ASSISTANT]
    assert hf_tokenizer.decode(before).endswith("assistant\n<think>\n")
    assert "opens a reply with <think>" in chat_format.notes[0]
    assert TemplateFormat(make_tokenizer("chatml")).notes == TemplateFormat(make_tokenizer("qwen3")).notes == ()


CHANGES = ["m.content | lower", "m.content[:5]", "m.content.split() | join(' ')", "m.content | replace('fine', 'x')"]


@pytest.mark.parametrize("change", CHANGES)
def test_each_way_to_change_a_text_is_noticed(change):
    hf_tokenizer = make_tokenizer("chatml")
    hf_tokenizer.chat_template = CHATML.replace("m['content']", f"({change})")
    chat_format = TemplateFormat(hf_tokenizer)
    dialogue = Dialogue("d", (Turn(U, "hi"), Turn(A, "Well,\n  I am fine")))
    with pytest.raises(DataError, match="it changes the text of turn 1"):
        chat_format.encode_dialogues([dialogue], 100, "split")


@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - {"gemma"}))
def test_an_assistant_that_speaks_first_is_trained(shape):
    sequences = encode(shape, turns_of(A, U, A))
    spans = [span for one in sequences for span in one.spans if span.role != Role.FORMAT]
    assert [(span.role, span.turn) for span in spans] == [(A, 0), (U, 1), (A, 2)]


def test_no_token_reaches_from_a_prompt_into_a_reply():
    hf_tokenizer = make_tokenizer("mistral")
    hf_tokenizer.chat_template = MISTRAL.replace("' ' + m.content + eos", "m.content + eos")
    backend = hf_tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    chat_format = TemplateFormat(hf_tokenizer)
    for text in ("Fine", "] Fine", "[/INST]x"):
        turns = (Turn(U, "Hi"), Turn(A, text))
        ((sequence,),) = chat_format.encode_dialogues([Dialogue("d", turns)], 100, "split")
        (prompt,) = chat_format.encode_contexts(turns, [1], 100)
        assert sequence.ids[: len(prompt)] == prompt
        assert len(sequence.spans[-1].ids) > 1


def test_what_a_chat_cannot_write_before_a_reply_is_refused():
    hf_tokenizer = make_tokenizer("chatml")
    hf_tokenizer.chat_template = CHATML.replace(
        "m['content']", "('final: ' if m.role == 'assistant' else '') + m['content']"
    )
    with pytest.raises(ModelError, match="it writes 'final:' between what opens a reply and its text"):
        TemplateFormat(hf_tokenizer)


def test_every_end_of_a_reply_stops_one():
    hf_tokenizer = make_tokenizer("chatml")
    hf_tokenizer.add_special_tokens({"additional_special_tokens": ["<|last|>"]})
    hf_tokenizer.chat_template = CHATML.replace("'<|im_end|>'", "('<|last|>' if loop.last else '<|im_end|>')")
    chat_format = TemplateFormat(hf_tokenizer)
    assert set(hf_tokenizer.convert_ids_to_tokens(chat_format.ends)) == {"<|im_end|>", "<|last|>", "</s>"}


def test_the_end_of_text_token_is_part_of_the_digest():
    made = [make_tokenizer("mistral") for _ in range(2)]
    made[1].eos_token = "<s>"
    first, second = (TemplateFormat(one).digest() for one in made)
    assert first != second


def test_a_format_can_be_sent_to_another_process():
    for shape in SHAPES:
        copy = pickle.loads(pickle.dumps(TOKENIZERS[shape].chat_format))
        turns = turns_of(U, A, U, A)
        assert copy.encode_dialogues([Dialogue("d", turns)], 999, "split") == [encode(shape, turns)]


def test_of_several_templates_the_default_is_taken(tmp_path):
    hf_tokenizer = make_tokenizer("chatml")
    hf_tokenizer.chat_template = {"default": CHATML, "tool_use": "x"}
    assert choose_format(hf_tokenizer, DAY).template == CHATML


def test_the_day_of_a_clock_is_fixed_and_part_of_the_digest():
    first, second = (
        DialogueTokenizer(make_tokenizer("llama3"), partial(TemplateFormat, day=day))
        for day in (DAY, date(2027, 2, 28))
    )
    turns = turns_of(U, A)
    assert "31 Jan 2026" in first.hf_tokenizer.decode(encode("llama3", turns)[0].ids)
    assert first.digest() != second.digest()
    assert first.chat_format.day == DAY
    assert TOKENIZERS["chatml"].chat_format.day is None


def test_the_template_is_saved_as_it_came(tmp_path):
    for shape in ("chatml", "qwen3"):
        DialogueTokenizer(make_tokenizer(shape), TemplateFormat).save(tmp_path)
        assert (tmp_path / "chat_template.jinja").read_text() == SHAPES[shape][0]
        assert len(DialogueTokenizer.pretrained(str(tmp_path), TemplateFormat)) == len(TOKENIZERS[shape])


@pytest.mark.parametrize(
    ("template", "found", "note"),
    [
        (CHATML, "template", "auto is template"),
        (None, "separator", None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "separator", "without a special token"),
        ("{{ messages[0].content }}", "separator", "writes the assistant turn 1 0 times"),
        ("{% for", "separator", "no Jinja template"),
        ("{% for i in range(9**9) %}{% endfor %}", "separator", "for small numbers alone"),
        ("{{ 'x' * 1000000000 }}", "separator", "builds texts or lists of more than"),
        ("{{ ''.__class__.__mro__ }}", "separator", "unsafe"),
    ],
)
def test_auto_takes_a_template_that_can_be_trained(template, found, note, tmp_path):
    hf_tokenizer = make_tokenizer("chatml")
    hf_tokenizer.chat_template = template
    hf_tokenizer.save_pretrained(tmp_path)
    tokenizer = DialogueTokenizer.pretrained(str(tmp_path), AUTO)
    assert tokenizer.chat_format.name == found
    assert any(note in line for line in tokenizer.chat_format.notes) if note else not tokenizer.chat_format.notes
    if found == "separator" and note:
        with pytest.raises(ModelError, match=r"chat_format=separator"):
            DialogueTokenizer.pretrained(str(tmp_path), TemplateFormat)


def test_auto_keeps_the_format_of_a_run_of_this_program(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = DialogueTokenizer.pretrained(str(tmp_path), AUTO)
    assert (again.chat_format.name, again.chat_format.notes, again.digest()) == ("separator", (), tokenizer.digest())


def test_reply_of_either_role_has_a_prompt():
    turns = turns_of(U, A, U, A)
    for shape in SHAPES:
        tokenizer = TOKENIZERS[shape]
        (prompt,) = tokenizer.chat_format.encode_contexts(turns, [2], 10_000)
        if shape in BY_REPLY:
            continue
        ids = encode(shape, turns)[0].ids
        assert ids[: len(prompt)] == prompt
        assert tokenizer.decode(ids[len(prompt) :]).strip().startswith(turns[2].text)


def test_a_template_that_begins_with_text_marks_its_start():
    """A tokenizer that marks the start of an input alone, before a template without a token there."""
    hf_tokenizer = make_tokenizer("mistral")
    hf_tokenizer.chat_template = MISTRAL.replace("{{ bos_token }}", "")
    hf_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="[", prepend_scheme="first")
    chat_format = TemplateFormat(hf_tokenizer)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Fine"}]
    ((sequence,),) = chat_format.encode_dialogues([Dialogue("d", (Turn(U, "Hi"), Turn(A, "Fine")))], 100, "split")
    assert sequence.ids == hf_tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]


def test_a_token_that_transformers_finds_otherwise_is_refused():
    hf_tokenizer = make_tokenizer("chatml")
    hf_tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|odd|>", single_word=True)]})
    hf_tokenizer.chat_template = CHATML.replace("'<|im_end|>'", "'<|odd|>'")
    with pytest.raises(ModelError, match=r"<\|odd\|> in another way: .*single_word"):
        TemplateFormat(hf_tokenizer)
