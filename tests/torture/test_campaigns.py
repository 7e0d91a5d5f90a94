"""Each campaign of `make torture` at its smallest size, so that it keeps running."""

import pytest

from tests.torture import attacks, damage, disk, groups, kills, report
from tests.torture.trials import Row

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("campaign", "count"), [(kills, 2), (damage, 1), (disk, 2), (groups, 1)])
def test_a_small_campaign_has_no_bad_trial(campaign, count, tmp_path):
    rows = campaign.run(count, 1, tmp_path)
    assert [problem for row in rows for problem in row.problems] == []
    assert sum(row.trials for row in rows) >= count


@pytest.mark.parametrize("name", ["S2 metrics.jsonl as a link", "S4 tensors of other shapes"])
def test_an_attack_leaves_the_canary_whole(name, tmp_path):
    straight = attacks.train_straight(tmp_path / "straight")
    for mode in attacks.ATTACKS[name][1]:
        assert attacks.attack(tmp_path / mode, straight, name, mode) is None


def test_the_page_has_the_table_of_the_run(tmp_path):
    row = Row("an example")
    row.add(None)
    row.try_out(lambda: 1 / 0)
    row.notes.append("a note")
    page = tmp_path / "page.md"
    report.write_page(page, [report.Result("kills", [row], 61.0)], 0.5, 3)
    text = page.read_text()
    assert "| kills | an example | 2 | 1 | 1 |" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "- an example: a note." in text
    assert "<!--" not in text
