"""Replies by depth."""

from made_up import reply

from dialog_trainer.metrics.depth import BINS, by_depth


def test_each_depth_is_in_its_bin():
    depths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 30]
    expected = ["1", "2", "3", "4", "5-6", "5-6", "7-10", "7-10", "7-10", "7-10", ">10", ">10"]
    found = by_depth([reply("x", turn=depth) for depth in depths])
    assert [name for depth in range(len(depths)) for name, places in found.items() if depth in places] == expected
    assert list(found) == list(BINS)


def test_the_indices_are_those_of_the_replies_as_they_come():
    found = by_depth([reply("x", turn=turn) for turn in (7, 1, 40, 1)])
    assert {name: places.tolist() for name, places in found.items() if len(places)} == {
        "1": [1, 3],
        "7-10": [0],
        ">10": [2],
    }
    assert all(not len(places) for places in by_depth([]).values())
