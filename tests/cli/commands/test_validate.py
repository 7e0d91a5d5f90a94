"""mode=validate through the command line: files, comparisons, baselines, contamination."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from dialog_trainer.build import data as build_data
from dialog_trainer.build.data import load_dialogues, measure_contamination
from dialog_trainer.cli.commands import validate as validate_command
from dialog_trainer.cli.commands.validate import _name_run
from dialog_trainer.cli.main import main
from dialog_trainer.data.contamination import find_contamination
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.data.truncation import split
from dialog_trainer.evaluation import protocols
from dialog_trainer.evaluation.analysis import collect_statistics
from dialog_trainer.evaluation.baselines import drop_human_reference, make_baselines_for
from dialog_trainer.evaluation.protocols import generate_replies
from dialog_trainer.evaluation.results import read_scores
from dialog_trainer.metrics.registry import SCORES, score_replies
from dialog_trainer.training.loop import train_step
from dialog_trainer.types import Reply
from tests.helpers.configs import compose_config

pytestmark = pytest.mark.slow

NAMES = ["bleu2", "ppl", "nist2", "distinct1", "length", "length_ratio", "chrf"]
KEYS = [
    "checkpoint", "step", "split", "request", "protocol", "signature", "version", "data", "validation_loss", "losses", "dialogues",
    "replies", "words", "scores", "baselines", "clean", "by_depth", "mask_digest",
]  # fmt: skip
FROM_CONTEXT, FROM_TRAINING = ["echo", "gold"], ["frequent", "random", "nearest"]
FILES = {"scores.json", "scores.md", "replies.jsonl", "dialogues.jsonl"}
# Training dialogues that are also in the validation split (exactly, and in other spelling) and in the test split.
LEAKED = {2: ("validation", 1), 5: ("validation", 3), 11: ("test", 2)}
ROLES = ("user", "assistant")


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(jsonl_folder, tmp_path_factory):
    """The made-up dialogues, some of them also in training, one begun by a system turn, one by the assistant."""
    folder = tmp_path_factory.mktemp("data")
    rows = {of: rows_of(jsonl_folder / f"{of}.jsonl") for of in ("train", "validation", "test")}
    for place, (of, other) in LEAKED.items():
        turns = rows[of][other]["turns"]
        rows["train"][place] = {"turns": [text.upper() for text in turns] if place == 5 else turns}
    for of in ("validation", "test"):
        for place, role in ((0, "system"), (2, "assistant")):
            texts = rows[of][place]["turns"]
            turns = [{"role": ROLES[(i + 1) % 2], "content": text} for i, text in enumerate(texts)]
            turns[0]["role"] = role
            rows[of][place] = {"messages": turns}
    for of, found in rows.items():
        write(folder / f"{of}.jsonl", found)
    for row in rows["test"]:
        turns = row.get("turns") or [turn["content"] for turn in row["messages"]]
        row["references"] = [[text, "Yes , the sea .", "I heard that ."] for text in turns[1:]]
    write(folder / "several.jsonl", rows["test"])
    return folder


def options(data, runs, name: str) -> list[str]:
    return [
        "model=gpt2_tiny", "model.layers=1", "model.heads=2", "model.width=16", "model.positions=64", "model.max_len=48",
        "model.vocab_size=300", "data=jsonl", *(f"data.{s}_data_path='{data}/{s}.jsonl'" for s in ("train", "validation", "test")),
        "batch_size=8", "steps=3", "scheduler.warmup_steps=1", "optim.lr0=1e-2", "prediction_print_n=1",
        f"metrics.names=[{','.join(NAMES)}]", "metrics.max_dialogues=3", "metrics.max_new_tokens=6", "micro_batch_tokens=128",
        f"project='{runs}'", f"name={name}", "device=cpu", "precision=fp32", "figures.enabled=false",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Two runs of three steps that differ in their mask."""
    runs = tmp_path_factory.mktemp("runs")
    for name, switch in (("one", 0.0), ("two", 1.0)):
        assert main([*options(data, runs, name), f"train_user_turn_mask_step={switch}"]) == 0
    torch.use_deterministic_algorithms(False)
    return runs


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of the two runs, without validations."""
    shutil.copytree(trained, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


@pytest.fixture
def validate(dialog_trainer, runs):
    """`validate(*options, of="one", code=0)` returns what it printed and where it wrote."""

    def run(*arguments: str, of: str = "one", code: int = 0) -> tuple[str, str]:
        found, out, err = dialog_trainer("mode=validate", f"resume_model_dir='{runs / of}'", *arguments)
        assert found == code, out + err
        assert "Traceback" not in out + err
        return out if code == 0 else err

    return run


def scores_in(place) -> dict:
    return json.loads((place / "scores.json").read_text())


@pytest.mark.parametrize("protocol", ["response", "all_turns", "rollout", "original"])
def test_the_files_of_each_protocol(validate, runs, protocol):
    typed = (
        [] if protocol == "response" else [f"metrics={protocol}", "metrics.max_new_tokens=6", "metrics.max_dialogues=3"]
    )
    typed += [] if protocol in ("response", "original") else [f"metrics.names=[{','.join(NAMES)}]"]
    out = validate(*typed, "figures.enabled=true")
    place = runs / "one/validation/validation" / protocol
    scored = scores_in(place)
    whole = protocol == "original"
    assert {path.name for path in place.iterdir()} == (FILES if whole else FILES | {"by_depth.png"})
    assert list(scored) == KEYS
    assert (scored["protocol"], scored["split"], scored["step"]) == (protocol, "validation", 3)
    assert scored["checkpoint"] == "one/weights/step-00000003"
    names = ["ppl", "bleu2", "bleu4", "nist2", "nist4"] if whole else NAMES
    assert list(scored["scores"]) == names
    replies, dialogues = rows_of(place / "replies.jsonl"), rows_of(place / "dialogues.jsonl")
    assert len(replies) == scored["replies"]
    assert scored["dialogues"] == 3
    assert len(dialogues) == 8  # all have a loss
    for name, one in scored["scores"].items():
        assert list(one) == ["value", "low", "high"]
        without = name in ({"distinct1"} if not whole else {"bleu2", "bleu4", "nist2", "nist4"})
        assert (one["low"] is None) == without
    if whole:
        assert (scored["baselines"], scored["clean"], scored["by_depth"]) == ({}, None, [])
    else:
        assert list(scored["baselines"]) == [*FROM_CONTEXT, *FROM_TRAINING]
        for name, one in scored["baselines"].items():
            assert list(one) == [name for name in NAMES if name != "ppl"]
            assert name != "gold" or one["bleu2"] == pytest.approx(1)
        assert sum(one["replies"] for one in scored["by_depth"]) == scored["replies"]
    assert scored["signature"] in out
    page = (place / "scores.md").read_text()
    assert scored["signature"] in page
    assert page.startswith("# Scores of one/weights/step-00000003 on split validation\n")


@pytest.mark.parametrize("protocol", ["response", "all_turns", "rollout"])
def test_files_reproduce_the_scores_and_baselines_reply_to_the_same_turns(validate, runs, monkeypatch, protocol):
    made = {}
    monkeypatch.setattr(
        validate_command, "make_baselines_for", lambda *given: made.update(make_baselines_for(*given)) or dict(made)
    )
    typed = ["metrics.max_dialogues=null", "metrics.max_new_tokens=6", f"metrics.names=[{','.join(NAMES)}]"]
    validate(f"metrics={protocol}", *typed)
    place = runs / "one/validation/validation" / protocol
    scored, statistics = read_scores(place, SCORES)
    rows = rows_of(place / "replies.jsonl")
    replies = [
        Reply(r["dialogue_id"], r["turn_index"], tuple(r["history"]), r["reference"], r["reply"], r["ended"])
        for r in rows
    ]
    texts = score_replies(NAMES, replies)
    assert {name: scored["scores"][name]["value"] for name in texts} == texts
    again = collect_statistics(
        {name: SCORES[name] for name in NAMES}, replies, statistics.ids["ppl"], statistics.rows["ppl"]
    )
    assert again.ids == statistics.ids
    for name, found in again.rows.items():
        assert found == pytest.approx(statistics.rows[name])
    for name, one in made.items():
        assert [(r.dialogue_id, r.turn_index) for r in one] == [(r.dialogue_id, r.turn_index) for r in replies], name
    assert scored["baselines"] == {name: pytest.approx(score_replies(NAMES, one)) for name, one in made.items()}
    # Dialogues 1 and 3 of the validation split also stand in training.
    clean = scored["clean"]
    kept = [reply for reply in replies if reply.dialogue_id not in dirty(statistics)]
    assert clean["replies"] == len(kept) < len(replies)
    assert clean["dialogues"] == len({reply.dialogue_id for reply in kept})
    for name in ("bleu2", "distinct1", "length_ratio", "chrf"):
        assert clean["scores"][name]["value"] == pytest.approx(score_replies(NAMES, kept)[name])
        of_echo = [reply for reply in made["echo"] if reply.dialogue_id not in dirty(statistics)]
        assert clean["baselines"]["echo"][name] == pytest.approx(score_replies(NAMES, of_echo)[name])


def dirty(statistics) -> set[str]:
    return {statistics.ids["ppl"][place] for of, place in LEAKED.values() if of == "validation"}


def test_several_references_add_the_human_baseline(validate, runs, data):
    out = validate("split=test", f"data.test_data_path='{data}/several.jsonl'", "metrics.max_dialogues=null")
    scored = scores_in(runs / "one/validation/test/response")
    columns = ["echo", "gold", "human", *FROM_TRAINING, "model (as human)"]
    assert list(scored["baselines"]) == columns
    assert "|refs:3|" in scored["signature"]
    assert "model (as human)" in out
    assert "the training split is read from other files" not in out
    # Without its validation file a share of the training dialogues is held out.
    out = validate("split=test", "data.validation_data_path=null")
    assert "note: the training split is read from other files than in the training" in out
    validate("split=test", f"data.test_data_path='{data}/several.jsonl'", "metrics.max_dialogues=null")
    replies = rows_of(runs / "one/validation/test/response/replies.jsonl")
    assert all(len(row["references"]) == 3 for row in replies)
    assert list(scored["clean"]["baselines"]) == columns
    made = [
        Reply(
            r["dialogue_id"], r["turn_index"], tuple(r["history"]), r["reference"], r["reply"], r["ended"],
            tuple(r["references"]),
        )
        for r in replies
    ]  # fmt: skip
    assert scored["baselines"]["model (as human)"] == pytest.approx(score_replies(NAMES, drop_human_reference(made)))
    assert {name: one["value"] for name, one in scored["scores"].items() if name != "ppl"} == score_replies(NAMES, made)


@pytest.mark.parametrize("form", ["a folder without it", "a file that is gone", "no path"])
def test_scores_without_training_data(validate, runs, data, tmp_path, form):
    folder = tmp_path / "gone"
    shutil.copytree(data, folder)
    (folder / "train.jsonl").unlink()
    typed = {
        "a folder without it": ["data=dailydialog", f"data.path='{folder}'"],
        "a file that is gone": [f"data.train_data_path='{folder}/train.jsonl'"],
        "no path": ["data.train_data_path=null"],
    }[form]
    for of in ("test", "validation"):
        out = validate(f"split={of}", *typed)
        scored = scores_in(runs / "one/validation" / of / "response")
        assert list(scored["baselines"]) == FROM_CONTEXT
        assert scored["clean"] is None
        assert list(scored["scores"]) == NAMES
        (note,) = [line for line in out.splitlines() if line.startswith("note: ")]
        assert note.startswith("note: no baselines from training replies and no contamination check: ")


def test_missing_training_data_is_an_error_where_needed(validate, tmp_path):
    gone = f"data.train_data_path='{tmp_path}/gone.jsonl'"
    assert "gone.jsonl: does not exist" in validate("split=train", gone, code=2)
    assert "gone.jsonl: does not exist" in validate(gone, "data.validation_data_path=null", code=2)


def test_training_data_without_a_reply_of_the_role(validate, runs, data, tmp_path):
    write(tmp_path / "short.jsonl", [{"turns": ["a b", "c d"]}] * 3)
    train = f"data.train_data_path='{tmp_path}/short.jsonl'"
    out = validate("split=test", train, "metrics=all_turns", "metrics.max_new_tokens=6")
    assert "note: no baselines from training replies: a baseline needs replies of the user" in out
    assert list(scores_in(runs / "one/validation/test/all_turns")["baselines"]) == FROM_CONTEXT


def test_the_training_split_has_no_training_baselines(validate, runs):
    validate("split=train")
    scored = scores_in(runs / "one/validation/train/response")
    assert list(scored["baselines"]) == FROM_CONTEXT
    assert scored["clean"] is None


ONE = ({"turns": ["the sea", "is cold", "why ?"]},)
NO_ASSISTANT = (
    {"messages": [{"role": "assistant", "content": "hi there"}, {"role": "user", "content": "hello"}]},
    {"messages": [{"role": "user", "content": "hi there"}, {"role": "user", "content": "hello"}]},
)


@pytest.mark.parametrize(("rows", "dialogues", "replies"), [(ONE, 1, 1), (NO_ASSISTANT, 2, 0)])
def test_one_dialogue_and_no_reply(validate, runs, tmp_path, rows, dialogues, replies):
    write(tmp_path / "few.jsonl", list(rows))
    few = ("split=test", f"data.test_data_path='{tmp_path}/few.jsonl'")
    validate(*few)
    place = runs / "one/validation/test/response"
    scored = scores_in(place)
    assert (scored["dialogues"], scored["replies"]) == (dialogues, replies)
    assert scored["scores"]["bleu2"]["low"] is None
    assert (
        (scored["scores"]["bleu2"]["value"] is None) == (scored["scores"]["length"]["value"] is None) == (replies == 0)
    )
    assert (scored["scores"]["ppl"]["low"] is None) == (dialogues == 1)
    assert bool(scored["baselines"]) == bool(scored["by_depth"]) == bool(replies)
    out = validate(*few, f"compare_with='{place}'")
    missing = "bleu2, ppl, nist2, distinct1, length, length_ratio, chrf" if dialogues == 1 else "distinct1"
    assert f"Not compared (no sums over the same two or more dialogues): {missing}" in out or replies == 0


def test_empty_replies_score_0(validate, runs, monkeypatch):
    def silent(contexts, **_):
        return [context.make_reply("", ended=True) for context in contexts]

    monkeypatch.setattr(protocols, "generate_replies", silent)
    for protocol in ("response", "rollout"):
        validate(f"metrics={protocol}", f"metrics.names=[{','.join(NAMES)}]")
        scored = scores_in(runs / "one/validation/validation" / protocol)
        zero = {"value": 0.0, "low": 0.0, "high": 0.0}
        assert scored["scores"]["bleu2"] == scored["scores"]["nist2"] == scored["scores"]["length"] == zero


def test_compared_with_itself_nothing_differs(validate, runs):
    validate()
    place = runs / "one/validation/validation/response"
    for other in (runs / "one", place):
        out = validate(f"compare_with='{other}'")
        found = scores_in(place)["compared"]
        assert list(found) == ["with", "signature", "same_signature", "differences"]
        assert (found["with"], found["same_signature"]) == ("one/weights/step-00000003", True)
        same = {"difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
        assert found["differences"] == dict.fromkeys(["bleu2", "ppl", "nist2", "length", "length_ratio", "chrf"], same)
        assert "Difference from one/weights/step-00000003" in out
        assert "two or more dialogues): distinct1" in out
        assert "another signature" not in out


@pytest.mark.parametrize(("run", "name"), [("runs/one", "one"), ("multirun/study/0", "study/0"), ("/12", "/12")])
def test_a_job_of_a_sweep_is_named_with_its_sweep(run, name):
    assert _name_run(Path(run)) == name


def test_two_runs_are_compared(validate, runs):
    validate(of="two")
    out = validate(f"compare_with='{runs / 'two'}'")
    ours, theirs = (scores_in(runs / name / "validation/validation/response") for name in ("one", "two"))
    differences = ours["compared"]["differences"]
    for name, one in differences.items():
        assert one["difference"] == pytest.approx(ours["scores"][name]["value"] - theirs["scores"][name]["value"])
        assert one["low"] <= one["high"]
    assert differences["ppl"]["difference"] != 0
    assert "Difference from two/weights/step-00000003" in out
    assert "compared" not in theirs


def test_another_signature_is_noted(validate, runs):
    validate(of="two")
    out = validate(f"compare_with='{runs / 'two'}'", "metrics.max_new_tokens=5")
    assert "Compared with scores of another signature: protocol:response|" in out
    assert scores_in(runs / "one/validation/validation/response")["compared"]["same_signature"] is False


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["split=test"], "those scores are of split validation by protocol response"),
        (["metrics=rollout", "metrics.max_new_tokens=6"], "those scores are of split validation by protocol response"),
        (["mask_schedule.trained_role=user"], "(role:assistant instead of role:user)"),
        (["DATA"], "of data "),
        (
            ["metrics.max_dialogues=4"],
            "those scores are of 3 dialogues; these would be of 4: pass metrics.max_dialogues=3",
        ),
    ],
)
def test_scores_of_other_dialogues_are_refused_early(validate, runs, data, tmp_path, monkeypatch, change, reason):
    validate(of="two")
    write(tmp_path / "other.jsonl", rows_of(data / "validation.jsonl")[:-1])
    change = [f"data.validation_data_path='{tmp_path}/other.jsonl'" if text == "DATA" else text for text in change]
    monkeypatch.setattr(validate_command, "load_saved_model", lambda *_: pytest.fail("the model was loaded"))
    err = validate(f"compare_with='{runs}/two/validation/validation/response'", *change, code=2)
    assert f"\ncompare_with={runs}/two/validation/validation/response: " in f"\n{err}"
    assert reason in err
    assert not (runs / "one/validation").exists()


@pytest.mark.parametrize(
    ("name", "content"), [("scores.json", "{"), ("dialogues.jsonl", '{"dialogue_id'), ("scores.json", None)]
)
def test_broken_scores_are_refused_early(validate, runs, monkeypatch, name, content):
    validate(of="two")
    path = runs / "two/validation/validation/response" / name
    path.write_text(content) if content else path.unlink()
    monkeypatch.setattr(validate_command, "load_saved_model", lambda *_: pytest.fail("the model was loaded"))
    err = validate(f"compare_with='{runs / 'two'}'", code=2)
    assert ("holds no scores of this version" if content else f"has no {name} yet") in err


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (["compare_with='no/such'"], "compare_with=no/such: there is no such folder"),
        (["compare_with=''"], "compare_with=: must be a text that is not empty"),
        (
            ["metrics=original", "metrics.names=[chrf,bleu2]", "metrics.best={bleu2: 1}"],
            "chrf is no score of metrics=original",
        ),
        (["metrics.names=[blue2]"], "metrics.names=['blue2']: must be a list of ppl"),
        (["metrics.protocol=reply"], "metrics.protocol=reply: must be response or all_turns or rollout or original"),
    ],
)
def test_errors_in_options(validate, typed, reason):
    assert reason in validate(*typed, code=2)


def test_metrics_best_is_ignored(validate):
    validate("metrics.names=[chrf]")  # the run's metrics.best names another score


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_writes_nothing_but_its_log(dialog_trainer, runs, monkeypatch, number, code):
    def interrupted(contexts, **keys):
        signal.raise_signal(number)
        return generate_replies(contexts, **keys)

    monkeypatch.setattr(protocols, "generate_replies", interrupted)
    before = set(runs.rglob("*"))
    found, out, err = dialog_trainer("mode=validate", f"resume_model_dir='{runs}/one'")
    log = runs / "one/logs/validate.log"
    assert (found, err) == (code, "")
    assert out.endswith("interrupted: no scores were written\n")
    assert set(runs.rglob("*")) == before | {log}
    assert "validating split" in log.read_text()
    assert log.read_text().endswith("interrupted: no scores were written\n")


@pytest.fixture
def trains(dialog_trainer, data, tmp_path, monkeypatch):
    """`trains(*options)` trains a run and returns its output and the ids of every sequence that it was trained on."""
    seen: set[tuple[int, ...]] = set()

    def noting(learner, batches, **keys):
        batches = list(batches)
        for batch in batches:
            seen.update(tuple(part.tolist()) for part in batch.ids.split(list(batch.lengths)))
        return train_step(learner, batches, **keys)

    monkeypatch.setattr("dialog_trainer.training.loop.train_step", noting)

    def train(*arguments: str) -> tuple[str, set[tuple[int, ...]]]:
        seen.clear()
        code, out, err = dialog_trainer(*arguments)
        assert code == 0, out + err
        return out, set(seen)

    return train


def sequences_of(places, data, run) -> set[tuple[int, ...]]:
    """The token sequences of the training dialogues at `places`."""
    words = DialogueTokenizer.pretrained(str(run / "weights/last"))
    rows = rows_of(data / "train.jsonl")
    found = set()
    for place in places:
        texts = rows[place]["turns"]
        turns = words.chat_format.encode_turns(texts, [1 + index % 2 for index in range(len(texts))])
        found |= {tuple(sequence.ids) for sequence in split(turns, words.special_tokens, 48)}
    return found


def test_drop_leaks_drops_exactly_those_dialogues(trains, data, tmp_path):
    base = [
        *options(data, tmp_path / "runs", "run"),
        "steps=2",
        "batch_size=500",
        "metrics.max_dialogues=1",
        "metrics.max_new_tokens=2",
    ]
    found = "validation: 1 of 8 dialogues are in the training split exactly, 2 after normalization, 2 nearly"
    out, everything = trains(*base)
    assert found in out
    assert "left out" not in out
    assert "test dialogues" not in out
    run = tmp_path / "runs/run"
    assert everything == sequences_of(range(36), data, run)
    out, kept = trains(*base, "data.drop_leaks=true")
    assert found in out
    assert "test: 1 of 4 dialogues are in the training split exactly" in out
    assert "data.drop_leaks: 3 training dialogues are left out" in out
    assert kept == sequences_of(set(range(36)) - set(LEAKED), data, run)
    assert everything - kept == sequences_of(LEAKED, data, run)


def test_drop_leaks_without_a_test_split(trains, data, tmp_path):
    base = [option for option in options(data, tmp_path / "runs", "run") if "test_data_path" not in option]
    out, kept = trains(*base, "steps=2", "batch_size=500", "metrics.max_dialogues=1", "data.drop_leaks=true")
    assert "note: data.drop_leaks looks at the validation split alone: there is no test data" in out
    assert "data.drop_leaks: 2 training dialogues are left out" in out
    assert kept == sequences_of(set(range(36)) - {2, 5}, data, tmp_path / "runs/run")


def test_a_resume_with_drop_leaks_notes_other_data(dialog_trainer, runs):
    before = json.loads((runs / "one/weights/last/trainer/state.json").read_text())["digest"]
    for option, said in (("data.drop_leaks=false", False), ("data.drop_leaks=true", True)):
        steps = 4 + said
        code, out, err = dialog_trainer(
            "mode=resume", "load_model_type=last", f"resume_model_dir='{runs}/one'", f"steps={steps}", option
        )
        assert code == 0, out + err
        after = json.loads((runs / "one/weights/last/trainer/state.json").read_text())["digest"]
        assert {name for name in before if before[name] != after[name]} == ({"data", "whole"} if said else set())
        assert ("the training data differs from the checkpoint's" in out) == said
        assert ("with other values of data.drop_leaks training goes on, but not exactly" in out) == said


def test_an_error_if_all_of_training_leaks(dialog_trainer, data, tmp_path):
    typed = options(data, tmp_path / "runs", "run")
    same = f"data.validation_data_path='{data}/train.jsonl'"
    code, out, err = dialog_trainer(*typed, same, "data.drop_leaks=true")
    assert code == 2, out
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_contamination_is_cached_and_announced(data, tmp_path, monkeypatch):
    looked, lines = [], []
    leaks = find_contamination
    monkeypatch.setattr(build_data, "MIN_ANNOUNCED", 1)
    monkeypatch.setattr(build_data, "find_contamination", lambda *tables: looked.append(tables) or leaks(*tables))
    paths = [f"data.{name}_data_path='{data}/{name}.jsonl'" for name in ("train", "validation", "test")]
    config = compose_config("data=jsonl", f"data.cache_dir='{tmp_path}/cache'", *paths)
    training, validation, test = (
        load_dialogues(config, name, lambda line: None) for name in ("train", "validation", "test")
    )
    first = measure_contamination(config, training, validation, lines.append)
    assert first == leaks(training, validation) == measure_contamination(config, training, validation, lines.append)
    assert len(looked) == 1
    measure_contamination(config, training, test, lines.append)
    assert len(looked) == 2
    for name, other in (("MIN_JACCARD", 0.8), ("GRAM_WORDS", 3)):
        monkeypatch.setattr(build_data, name, other)
        measure_contamination(config, training, validation, lines.append)
    assert len(looked) == len(lines) == 4
    assert lines[0] == f"looking for {len(validation):,} held-out dialogues among {len(training):,} training dialogues"
    monkeypatch.setattr("dialog_trainer.data.contamination.MAX_COMPARED", 10)
    without = leaks(training, validation)
    assert without.near is None
    monkeypatch.setattr(build_data, "find_contamination", lambda *tables: without)
    monkeypatch.setattr(build_data, "MIN_JACCARD", 0.9)
    assert measure_contamination(config, training, validation, lines.append) == without
    assert measure_contamination(config, training, validation, lines.append) == without
