"""A run's own page: what it says of a run, from the files of its folder."""

import json

import pytest
from helpers.run_folders import make_run, write

from dialog_trainer.cli.commands.report import collect_folder
from dialog_trainer.metrics.registry import SCORE_NAMES
from dialog_trainer.reporting.report.run_page import PAGE, describe_run, explain_score, write_run_page

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)


def described(folder, **options):
    return describe_run(collect_folder(make_run(folder, **options), None))


def test_every_score_is_explained():
    assert [name for name in SCORE_NAMES if not explain_score(name)] == []
    assert "up to 4 words" in explain_score("bleu4")
    assert explain_score("own_score") == ""


@pytest.mark.parametrize(
    ("options", "headline"),
    [
        ({}, "Finished at step 40 of 40: validation loss 3.0000 nats per token, its lowest."),
        ({"step": 20}, "Incomplete: step 20 of 40: validation loss 3.0000 nats per token, its lowest."),
        ({"step": 20, "bad_validations": 5}, "Stopped early at step 20 of 40: validation loss 3.0000"),
    ],
)
def test_the_headline_says_how_it_ended_and_how_well(tmp_path, options, headline):
    found = described(tmp_path / "run", **options)["headline"]
    assert found[0].startswith(headline)
    assert found[1].endswith("1,000 tokens on a-machine.")


def test_scores_come_from_the_last_validation_until_the_run_is_scored(tmp_path):
    before = described(tmp_path / "a")
    assert [row[0] for row in before["tables"][0].rows] == ["ppl", "bleu2"]
    assert before["unscored"].startswith("mode=validate")
    after = described(tmp_path / "b", scored=[3.0, 3.2])
    assert after["tables"][0].title == "Scores on test/response: 2 replies in 2 dialogues, checkpoint of step 40"
    assert after["tables"][0].head[3] == "95 % interval (rough)"
    assert after["unscored"] is None


def test_replies_are_those_of_the_last_validation_and_the_data_table_is_that_of_the_log(tmp_path):
    folder = make_run(tmp_path / "run")
    rows = [
        {"step": step, "history": ["a", "hi"], "reply": reply, "reference": "hello"}
        for step, reply in ((10, "old"), (20, "new"))
    ]
    write(folder / "replies.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 20, "history": 3}]))
    table = (
        "what was understood of the data; at the right ...\nsplit      role\ntrain      user   3\n           end    1\n"
    )
    write(folder / "logs/rank-0.log", f"first\n{table}memory: 1 GB\n")
    found = describe_run(collect_folder(folder, None))
    assert found["replies"] == [{"given": "hi", "model": "new", "gold": "hello"}]
    assert found["data"] == [table]


@pytest.mark.slow
def test_the_page_is_whole_in_a_browser_and_runs_nothing_of_others(browser, tmp_path):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b"
    folder = make_run(tmp_path / "run-<i>", settings={"name": hostile}, scored=[3.0, 3.2])
    write(
        folder / "replies.jsonl",
        json.dumps({"step": 1, "history": [hostile], "reply": hostile, "reference": "\ud800"}) + "\n",
    )
    write(folder / "environment.json", json.dumps({"git": hostile}))
    write(folder / "logs/rank-0.log", f"what was understood of the data{hostile}\n")
    (folder / "vis_outputs").mkdir()
    (folder / "vis_outputs/loss.png").write_bytes(PIXEL)
    write_run_page(collect_folder(folder, None))
    for width in (400, 1200):
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        browser.open((folder / PAGE).as_uri())
        assert browser.complaints() == []
        assert browser.requests() == [(folder / PAGE).as_uri()]
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("document.querySelectorAll('img[src=x], i, body script').length") == 1  # the page's own
    assert browser.run("document.body.innerText").count("<script>alert(1)") == 5
    browser.call("Emulation.clearDeviceMetricsOverride")
