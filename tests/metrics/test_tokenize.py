"""The tokenizer of words by script, and BLEU over its words against sacrebleu's own command."""

import pytest
from helpers.replies import replies_of

from dialog_trainer.metrics import tokenize
from dialog_trainer.metrics.registry import build_scores, score_replies
from dialog_trainer.metrics.tokenize import choose_tokenizer, describe_unfit, joins_words, split_words

ENGLISH = ["I will return the books at eight tomorrow.", "Yes, thank you!"]
GERMAN = ["Ich bringe die Bücher morgen um acht zurück.", "Ja, sehr gerne – „danke“!"]
KOREAN = ["내일 여덟 시에 책을 반납할게요.", "네, 감사해요!"]
CHINESE = ["我明天早上八点去图书馆还书。", "好的，谢谢你！"]
JAPANESE = ["明日の八時に本を返します。", "はい、ありがとうございます！"]
RUSSIAN = ["Я верну книги завтра в восемь.", "Да, большое спасибо!"]

# By the command: sacrebleu references -i replies -m bleu -lc --tokenize <tokenizer> -w 6
BY_COMMAND = [
    ("13a", ["I will return the books at nine tomorrow.", "Yes, thanks!"], ENGLISH, 52.401242),
    ("13a", ["Ich bringe die Bücher morgen um neun zurück.", "Ja, gerne – „danke“!"], GERMAN, 60.424686),
    ("char", ["내일 아홉 시에 책을 반납할게요.", "네, 고마워요!"], KOREAN, 57.015645),
    ("zh", ["我明天早上九点去图书馆还书。", "好的，谢谢！"], CHINESE, 74.767834),
    ("char", ["明日の九時に本を返します。", "はい、ありがとう！"], JAPANESE, 64.659546),
    ("intl", ["Я верну книги завтра в девять.", "Да, спасибо!"], RUSSIAN, 51.840419),
]


@pytest.fixture(autouse=True)
def no_analyzers(monkeypatch):
    monkeypatch.setattr(tokenize, "has_analyzer", lambda name: name not in tokenize.ANALYZERS)


@pytest.mark.parametrize(("tokenizer", "texts", "references", "expected"), BY_COMMAND)
def test_bleu_equals_sacrebleus_command(tokenizer, texts, references, expected):
    assert choose_tokenizer(references)[0] == tokenizer
    found = score_replies(["bleu4"], replies_of(texts, [[one] for one in references]), build_scores(tokenizer))
    assert found["bleu4"] == pytest.approx(expected / 100, abs=1e-8)


@pytest.mark.parametrize("references", [ENGLISH, GERMAN, KOREAN, CHINESE, JAPANESE, RUSSIAN])
def test_references_score_1_against_themselves(references):
    scores = build_scores(choose_tokenizer(references)[0])
    names = ["bleu1", "bleu2", "bleu3", "bleu4", "length_ratio", "chrf"]
    found = score_replies(names, replies_of(references, [[one] for one in references]), scores)
    assert found == pytest.approx(dict.fromkeys(names, 1.0))


@pytest.mark.parametrize(
    ("text", "tokenizer", "script"),
    [
        ("", "13a", "Latin script"),
        ("42 !?", "13a", "Latin script"),
        ("👍👍 🙂", "13a", "Latin script"),
        ("Cảm ơn bạn rất nhiều", "13a", "Latin script"),
        ("The ramen place is called 一蘭, I think", "13a", "Latin script"),
        ("我用 Python 写代码", "zh", "Chinese"),  # 5 of 11 letters
        ("这是の店里的面条很好吃真的很好吃", "zh", "Chinese"),
        ("韓國語를 배웁니다", "char", "Korean"),
        ("カラオケ", "char", "Japanese"),
        ("東京大学に行く", "char", "Japanese"),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8", "char", "Korean"),  # decomposed
        ("สวัสดีครับ", "char", "a script without spaces"),
        ("ကျေးဇူးတင်ပါတယ်", "char", "a script without spaces"),
        ("مرحبا كيف حالك", "intl", "other script"),
        ("आप कैसे हैं", "intl", "other script"),
        ("Γειά σου Κόσμε", "intl", "other script"),
    ],
)
def test_the_script_chooses_the_tokenizer(text, tokenizer, script):
    assert choose_tokenizer([text]) == (tokenizer, script)


@pytest.mark.parametrize(
    ("texts", "analyzer"), [(JAPANESE, "ja-mecab"), (KOREAN, "ko-mecab"), (CHINESE, "zh"), (ENGLISH, "13a")]
)
def test_an_installed_analyzer_is_taken(monkeypatch, texts, analyzer):
    monkeypatch.setattr(tokenize, "has_analyzer", lambda name: True)
    assert choose_tokenizer(texts)[0] == analyzer


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char"])
def test_every_word_score_uses_the_tokenizer(tokenizer):
    texts = ["ein Haus „am See“ 好的"]
    words, pairs = split_words(texts[0], tokenizer), build_scores(tokenizer)
    found = score_replies(["length", "distinct1", "nist1", "bleu1"], replies_of(texts, [texts]), pairs)
    assert found == pytest.approx({
        "length": len(words), "distinct1": len(set(words)) / len(words), "bleu1": 1, "nist1": found["nist1"],
    })  # fmt: skip
    named = [pairs[name].signature for name in ("bleu2", "nist4", "length", "length_ratio", "distinct2", "entropy4")]
    assert all(f"|tok:{tokenizer}" in signature for signature in named)


@pytest.mark.parametrize(
    ("tokenizer", "names", "error"),
    [
        ("auto", ["ppl_word"], None),
        ("13a", ["ppl_word"], None),
        ("zh", ["ppl", "ppl_byte"], None),
        ("zh", ["ppl_word"], "ppl_word has no meaning with metrics.tokenize=zh"),
        ("char", ["bleu2", "ppl_word"], "use ppl_byte"),
        ("ja-mecab", ["bleu2"], "install sacrebleu[ja], or pass char"),
    ],
)
def test_what_does_not_fit_is_named(tokenizer, names, error):
    found = describe_unfit(tokenizer, names)
    assert len(found) == (error is not None)
    assert not error or error in found[0]


@pytest.mark.parametrize(
    ("texts", "tokenizer", "joined"),
    [(CHINESE, "13a", True), (JAPANESE, "intl", True), (CHINESE, "zh", False), (KOREAN, "13a", False), (ENGLISH, "13a", False)],
)  # fmt: skip
def test_a_tokenizer_that_joins_words_is_seen(texts, tokenizer, joined):
    assert joins_words(texts, tokenizer) == joined
