"""Each campaign of `make torture` at its smallest size, so that it keeps running."""

import random

import pytest

from tests.torture import attacks, damage, disk, groups, kills, report, sweeps, trials
from tests.torture.trials import Row, compare, train_straight

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return train_straight(tmp_path_factory.mktemp("straight") / "run")


@pytest.mark.parametrize(("campaign", "count"), [(kills, 1), (damage, 1), (disk, 1), (groups, 1)])
def test_a_small_campaign_has_no_bad_trial(campaign, count, straight, tmp_path):
    rows = campaign.run(count, 1, tmp_path, straight)
    assert [problem for row in rows for problem in row.problems] == []
    assert sum(row.trials for row in rows) >= count


def test_a_killed_sweep_of_two_jobs_ends_as_another(straight, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "SWITCHES", (0, 1))
    monkeypatch.setattr(sweeps, "MOMENTS", ("training",))
    campaign = sweeps.Campaign(tmp_path, straight.parents[1])
    assert campaign.kill(tmp_path / "killed", "all processes", random.Random(1)) is None
    assert campaign.kills["all processes"] >= 1


@pytest.mark.parametrize("name", ["S2 metrics.jsonl as a link", "S4 tensors of other shapes"])
def test_an_attack_leaves_the_canary_whole(name, straight, tmp_path):
    for mode in attacks.ATTACKS[name][1]:
        assert attacks.attack(tmp_path / mode, straight, name, mode) is None


def test_harm_and_differences_are_noticed(straight, tmp_path):
    stranger = attacks.Stranger(tmp_path / "stranger", straight)
    assert stranger.find_harm() is compare(stranger.run, straight) is None
    (stranger.outside / "victim").write_text("poor")
    assert stranger.find_harm() == "victim has changed"
    with (stranger.run / "metrics.jsonl").open("a") as file:
        file.write('{"half')
    assert compare(stranger.run, straight) == "1 lines cannot be parsed"
    damage.flip(stranger.run / "weights/last/model.safetensors", straight, random.Random(0))
    assert compare(stranger.run, straight) == "weights/last/model.safetensors differs"
    start = "13 steps an epoch, steps 4 to 30, validated every 10"
    assert kills.check_start(start, 6, 8) is not None
    assert kills.check_start("", 6, 4) is not None
    assert kills.check_start(start, 4, 8) is None


def test_what_a_killed_process_left_is_not_taken_for_a_new_one(tmp_path):
    (tmp_path / "output.txt").write_text("of an earlier command")
    with trials.command(["mode=chat"], tmp_path, tmp_path) as job:
        assert "earlier" not in job.output()
    (tmp_path / "weights/.aside-1").mkdir(parents=True)
    begins = kills.begins_to_write(tmp_path / "weights")
    assert not begins()
    (tmp_path / "weights/.aside-2").mkdir()
    assert begins()


def test_the_page_has_the_table_of_the_run(tmp_path):
    row = Row("an example")
    row.add(None)
    row.try_out(lambda: 1 / 0)
    row.notes.append("a note")
    page = tmp_path / "page.md"
    report.write_page(page, [report.Result("kills", [row], 61.0)], 0.5, 3, 120.0)
    text = page.read_text()
    assert "| kills | an example | 2 | 1 | 1 |" in text
    assert "seed 3, 2 minutes on" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "- an example: a note." in text
    assert "<!--" not in text
