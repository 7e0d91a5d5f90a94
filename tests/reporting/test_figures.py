"""The figures of a run: the drawn data, and the files."""

from functools import partial

import pytest

from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights, linear, random_turns, step
from dialog_trainer.masking.timeline import ScheduleTimeline, build_timeline
from dialog_trainer.reporting import curves, mask_curves
from dialog_trainer.reporting.curves import draw_curves
from dialog_trainer.reporting.mask_curves import (
    Weights,
    draw_alignment,
    draw_lengths,
    draw_loss_by_role,
    draw_loss_by_turn,
    draw_weights,
)
from dialog_trainer.reporting.plotting import ASSISTANT, END, USER
from dialog_trainer.tracking.jsonl import MetricWriter
from dialog_trainer.types import Role

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, by the name of their file."""
    saved = {}
    for module in (curves, mask_curves):
        monkeypatch.setattr(module, "save", lambda figure, path: saved.update({path.name: figure}))
    return saved


@pytest.fixture
def metrics(tmp_path):
    """Rows of 6 steps with validations after 3 and 6; the fourth step had no token with weight."""
    path = tmp_path / "metrics.jsonl"
    log = MetricWriter(path, 0)
    for at in range(6):
        values = {"train_loss": None if at == 3 else 6.0 - at, "lr": 0.1 * at}
        log.add(step=at, epoch=0, split="train", values=values)
        if at % 3 == 2:
            values = {"validation_loss": 5.0 - at, "bleu2": 0.1 * at, "ppl": 20.0 - at}
            log.add(step=at + 1, epoch=0, split="validation", values=values)
    log.close()
    return path


def points(axes) -> list[list[tuple[float, float]]]:
    """The curves of an axes; the vertical line of the switch is not one."""
    return [list(zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_linestyle() != ":"]


def marked(axes) -> list[int]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]


def planned(schedule, schedule_steps: int, **mask) -> tuple[ScheduleTimeline, Weights]:
    """The outline of a schedule and its weights over the steps, as a run has them."""
    whole = Mask(schedule, **mask)
    looked_at = build_timeline(whole, schedule_steps)
    return looked_at, lambda step: whole.at(looked_at.progress(step))


def draw_schedule(tmp_path, schedule, *, steps: int, schedule_steps: int, **mask) -> None:
    whole, weights = planned(schedule, schedule_steps, **mask)
    mask_curves.draw_schedule(
        tmp_path / "lr_schedule.png",
        steps=steps,
        learning_rate=lambda step: 1.0 / (step + 1),
        role_weights=weights,
        switch=whole.final_from_step,
    )


def weights_of(axes) -> dict[str, list[tuple[float, float]]]:
    """The drawn weights by the name that the legend gives them."""
    named = dict(zip([text.get_text() for text in axes.get_legend().get_texts()], points(axes), strict=True))
    assert all(line.get_drawstyle() == "steps-post" for line in axes.lines if line.get_linestyle() != ":")
    return named


@pytest.mark.parametrize(
    ("steps", "schedule_steps", "share", "switch"),
    [(10, 10, 0.5, 5), (10, 10, 0.0, None), (10, 10, 1.0, None), (6, 12, 0.5, None), (7, 12, 0.5, 6), (20, 10, 0.25, 3),
     (1, 10, 0.5, None)],
)  # fmt: skip
def test_the_schedule_shows_every_step_of_a_short_run(tmp_path, drawn, steps, schedule_steps, share, switch):
    at = partial(step, train_user_turn_mask_step=share)
    draw_schedule(tmp_path, at, steps=steps, schedule_steps=schedule_steps)
    left, right = drawn["lr_schedule.png"].axes
    assert points(left) == [[(step, 1.0 / (step + 1)) for step in range(steps)]]
    until = {0.0: 0, 1.0: steps}.get(share, -(-share * schedule_steps // 1))
    assert weights_of(right) == {
        "user": [(step, float(step < until)) for step in range(steps)],
        "assistant": [(step, 1.0) for step in range(steps)],
    }
    assert {line.get_label(): line.get_color() for line in right.lines} == {"user": USER, "assistant": ASSISTANT}
    assert marked(left) == ([switch] if switch else [])
    assert [text.get_text() for text in left.texts] == ([f"mask final from step {switch}"] if switch else [])


def test_a_long_schedule_is_thinned_but_keeps_both_sides_of_the_switch(tmp_path, drawn):
    at = partial(step, train_user_turn_mask_step=0.4567)
    draw_schedule(tmp_path, at, steps=30_000, schedule_steps=30_000)
    left, right = drawn["lr_schedule.png"].axes
    weights = weights_of(right)["user"]
    assert len(weights) < 1100
    assert (weights[0], weights[-1]) == ((0, 1.0), (29_999, 0.0))
    switch = 13_701
    assert (switch - 1, 1.0) in weights
    assert (switch, 0.0) in weights
    assert all(weight == float(step < switch) for step, weight in weights)
    assert all(rate == 1.0 / (step + 1) for step, rate in points(left)[0])


def test_a_gradual_schedule_is_drawn_with_both_weights_and_marked_where_it_ends(tmp_path, drawn):
    fade = partial(linear, start=0.2, end=0.6, start_weight=1.0, end_weight=0.2)
    draw_schedule(tmp_path, fade, steps=10, schedule_steps=10, trained_role=Role.USER)
    left, right = drawn["lr_schedule.png"].axes
    own = [1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2]
    assert weights_of(right) == {
        "user": [(step, 1.0) for step in range(10)],
        "assistant": [(step, pytest.approx(weight)) for step, weight in enumerate(own)],
    }
    assert marked(left) == [6]


def test_the_weights_of_turns_drawn_by_lot_are_named_as_such(tmp_path, drawn):
    draw_schedule(tmp_path, partial(random_turns, train_user_turn_mask_step=0.5), steps=4, schedule_steps=4)
    assert weights_of(drawn["lr_schedule.png"].axes[1]) == {
        "drawn as the user's": [(0, 1), (1, 1), (2, 0), (3, 0)],
        "drawn as the assistant's": [(step, 1) for step in range(4)],
    }


@pytest.mark.parametrize(("share", "switch"), [(0.5, [5]), (0.0, []), (1.0, [])])
def test_the_weights_alone_are_drawn_over_the_whole_plan(tmp_path, drawn, share, switch):
    whole, weights = planned(partial(step, train_user_turn_mask_step=share), 10)
    path = tmp_path / "weights.png"
    draw_weights(path, schedule_steps=10, role_weights=weights, switch=whole.final_from_step)
    (axes,) = drawn["weights.png"].axes
    until = {0.5: 5, 0.0: 0, 1.0: 11}[share]
    assert weights_of(axes)["user"] == [(step, float(step < until)) for step in range(11)]
    assert marked(axes) == switch


@pytest.fixture
def by_role(tmp_path):
    """Rows of 6 steps of which the last three train the assistant alone, validations after 3 and 6, probes at 0 and 4."""
    path = tmp_path / "by_role.jsonl"
    log = MetricWriter(path, 0)
    for at in range(6):
        if at % 4 == 0:
            values = {
                "alignment_cosine": 0.5 - 0.2 * at,
                "alignment_user_norm": 2.0 + at,
                "alignment_assistant_norm": 1.0,
            }
            values |= {"alignment_cosine_embeddings": 0.1 * at, "alignment_cosine_block_00": None if at else 0.3}
            log.add(step=at, epoch=0, split="probe", values=values)
        values = {"assistant_nll": 5.0 - 0.5 * at, "end_nll": 1.0} | ({"user_nll": 6.0} if at < 3 else {})
        log.add(step=at, epoch=0, split="train", values=values)
        if at % 3 == 2:
            turns = {f"nll_turn_{turn:02d}": 3.0 + turn - at if turn < 4 else None for turn in range(11)}
            values = {"assistant_nll": 4.0 - at, "user_nll": 6.0 + at, "end_nll": 0.5 * at} | turns
            log.add(step=at + 1, epoch=0, split="validation", values=values)
    log.close()
    return path


def test_the_loss_by_role_is_drawn_over_the_schedule(tmp_path, drawn, by_role):
    whole, weights = planned(partial(step, train_user_turn_mask_step=0.5), 6)
    draw_loss_by_role(tmp_path / "loss_by_role.png", by_role, role_weights=weights, switch=whole.final_from_step)
    axes, between, below = drawn["loss_by_role.png"].axes
    curves = [
        (line.get_color(), list(zip(*line.get_data(), strict=True)))
        for line in axes.lines
        if line.get_linestyle() == "-"
    ]
    assert curves == [
        (USER, [(0, 6.0), (1, 6.0), (2, 6.0)]),
        (USER, [(3, 8.0), (6, 11.0)]),
        (ASSISTANT, [(step, 5.0 - 0.5 * step) for step in range(6)]),
        (ASSISTANT, [(3, 2.0), (6, -1.0)]),
        (END, [(3, 1.0), (6, 2.5)]),
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["user_nll", "assistant_nll", "end_nll"]
    assert weights_of(below)["user"] == [(step, float(step < 3)) for step in range(7)]
    difference = list(zip(*between.lines[0].get_data(), strict=True))
    assert difference == [(3, 6.0), (6, 12.0)]
    assert (marked(axes), marked(between), marked(below)) == ([3], [3], [3])
    said = [text.get_text() for one in drawn["loss_by_role.png"].axes for text in one.texts]
    assert said == ["mask final from step 3"]


def test_the_loss_by_turn_is_drawn_for_validations_from_first_to_last(tmp_path, drawn, by_role):
    draw_loss_by_turn(tmp_path / "loss_by_turn.png", by_role)
    (axes,) = drawn["loss_by_turn.png"].axes
    assert points(axes) == [[(turn, 1.0 + turn) for turn in range(4)], [(turn, turn - 2.0) for turn in range(4)]]
    assert [line.get_label() for line in axes.lines] == ["after 3 updates", "after 6 updates"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 3, 4, 5]), (9, [1, 3, 5, 7, 9]), (100, [1, 26, 51, 75, 100])],
)
def test_of_many_validations_five_are_shown_by_turn(tmp_path, drawn, count, shown):
    log = MetricWriter(tmp_path / "metrics.jsonl", 0)
    for at in range(1, count + 1):
        log.add(step=at, epoch=0, split="validation", values={"nll_turn_00": float(at)})
    log.close()
    draw_loss_by_turn(tmp_path / "loss_by_turn.png", tmp_path / "metrics.jsonl")
    assert points(drawn["loss_by_turn.png"].axes[0]) == [[(0, float(at))] for at in shown]


def test_a_validation_without_a_turn_of_any_role_has_an_empty_curve(tmp_path, drawn):
    log = MetricWriter(tmp_path / "metrics.jsonl", 0)
    log.add(step=1, epoch=0, split="validation", values={f"nll_turn_{turn:02d}": None for turn in range(11)})
    log.close()
    draw_loss_by_turn(tmp_path / "loss_by_turn.png", tmp_path / "metrics.jsonl")
    assert points(drawn["loss_by_turn.png"].axes[0]) == [[]]


@pytest.mark.parametrize(("switch", "shown"), [(0, []), (3, [3]), (4, [4]), (5, [])])
def test_cosines_and_norms_are_drawn_over_the_probes(tmp_path, drawn, by_role, switch, shown):
    draw_alignment(tmp_path / "alignment.png", by_role, switch=switch)
    axes, below = drawn["alignment.png"].axes
    curves = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert {name: curve for name, curve in curves.items() if not name.startswith("_")} == {
        "embeddings": [(0, 0.0), (4, 0.4)],
        "block 00": [(0, 0.3)],
        "all weights": [(0, 0.5), (4, pytest.approx(-0.3))],
    }
    assert {line.get_label(): list(line.get_ydata()) for line in below.lines} == {"user": [2, 6], "assistant": [1, 1]}
    assert marked(axes) == shown


def test_lengths_are_counted_up_to_the_longest_that_may_be(tmp_path, drawn):
    draw_lengths(tmp_path / "lengths.png", [1, 2, 2, 7, 8], 8)
    (axes,) = drawn["lengths.png"].axes
    assert [int(bar.get_height()) for bar in axes.patches] == [0, 1, 2, 0, 0, 0, 0, 2]
    assert axes.patches[0].get_x() == 0
    assert axes.patches[-1].get_x() + axes.patches[-1].get_width() == 8


def test_curves_are_the_rows_without_the_steps_that_have_no_value(tmp_path, drawn, metrics):
    common = ("train_loss", "validation_loss", "lr")
    draw_curves(tmp_path, metrics, common=common, names=("bleu2", "ppl"), switch=2)
    assert set(drawn) == {"loss.png", "lr.png", "scores.png"}
    train, validation = points(drawn["loss.png"].axes[0])
    assert train == [(0, 6.0), (1, 5.0), (2, 4.0), (4, 2.0), (5, 1.0)]
    assert validation == [(3, 3.0), (6, 0.0)]
    assert points(drawn["lr.png"].axes[0]) == [[(step, 0.1 * step) for step in range(6)]]
    bleu, ppl = drawn["scores.png"].axes
    assert (points(bleu), points(ppl)) == ([[(3, 0.2), (6, 0.5)]], [[(3, 18.0), (6, 15.0)]])
    assert (bleu.get_ylabel(), ppl.get_ylabel()) == ("bleu2", "ppl")


@pytest.mark.parametrize(
    ("common", "names", "files"),
    [
        (("train_loss",), (), {"loss.png"}),
        (("lr",), (), {"lr.png"}),
        ((), ("bleu2",), {"scores.png"}),
        ((), (), set()),
    ],
)
def test_only_what_was_asked_for_is_drawn(tmp_path, drawn, metrics, common, names, files):
    draw_curves(tmp_path, metrics, common=common, names=names, switch=0)
    assert set(drawn) == files


@pytest.mark.parametrize(("switch", "shown"), [(0, []), (1, [1]), (5, [5]), (6, []), (100, [])])
def test_the_switch_is_marked_where_it_lies_within_the_rows(tmp_path, drawn, metrics, switch, shown):
    draw_curves(tmp_path, metrics, common=("train_loss", "lr"), names=(), switch=switch)
    assert marked(drawn["loss.png"].axes[0]) == marked(drawn["lr.png"].axes[0]) == shown


@pytest.mark.slow
def test_the_files_are_pictures(tmp_path, metrics, by_role):
    folder = tmp_path / "vis outputs"
    draw_schedule(folder, partial(step, train_user_turn_mask_step=0.5), steps=5, schedule_steps=5)
    draw_curves(folder, metrics, common=("train_loss", "lr"), names=("bleu2",), switch=3)
    weights = lambda step: RoleWeights(1.0)  # noqa: E731
    draw_loss_by_role(folder / "by_role.png", by_role, role_weights=weights, switch=3)
    draw_loss_by_turn(folder / "by_turn.png", by_role)
    draw_alignment(folder / "cosine.png", by_role, switch=3)
    draw_lengths(folder / "lengths.png", [1, 2], 8)
    files = sorted(folder.iterdir())
    names = ["by_role", "by_turn", "cosine", "lengths", "loss", "lr", "lr_schedule", "scores"]
    assert [file.name for file in files] == [f"{name}.png" for name in names]
    assert all(file.read_bytes().startswith(PNG) for file in files)


def test_a_run_without_rows_has_empty_curves(tmp_path, drawn):
    draw_curves(tmp_path, tmp_path / "none.jsonl", common=("train_loss", "lr"), names=("bleu2",), switch=3)
    assert [points(figure.axes[0]) for figure in drawn.values()] == [[[]], [[]], [[]]]
    drawn.clear()
    weights = lambda step: RoleWeights(1.0)  # noqa: E731
    draw_loss_by_role(tmp_path / "by_role.png", tmp_path / "none.jsonl", role_weights=weights, switch=3)
    assert points(drawn["by_role.png"].axes[0]) == [[]] * 5
