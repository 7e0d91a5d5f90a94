"""The figures of a run: the drawn data, and the files."""

from functools import partial

import pytest

from dialog_trainer.masking import schedules
from dialog_trainer.reports import figures
from dialog_trainer.tracking import MetricLog

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, by the name of their file."""
    saved = {}
    monkeypatch.setattr(figures, "_save", lambda figure, path: saved.update({path.name: figure}))
    return saved


@pytest.fixture
def metrics(tmp_path):
    """Rows of 6 steps with validations after 3 and 6; the fourth step had no token with weight."""
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path, 0)
    for step in range(6):
        values = {"train_loss": None if step == 3 else 6.0 - step, "lr": 0.1 * step}
        log.add(step=step, epoch=0, split="train", values=values)
        if step % 3 == 2:
            values = {"validation_loss": 5.0 - step, "bleu2": 0.1 * step, "ppl": 20.0 - step}
            log.add(step=step + 1, epoch=0, split="validation", values=values)
    log.close()
    return path


def mask_at(share: float) -> schedules.MaskSchedule:
    return partial(schedules.step, train_user_turn_mask_step=share)


def points(axes) -> list[list[tuple[float, float]]]:
    """The curves of an axes; the vertical line of the switch is not one."""
    return [list(zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_linestyle() != ":"]


def marked(axes) -> list[int]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]


def draw_schedule(tmp_path, *, steps: int, schedule_steps: int, share: float) -> None:
    figures.draw_schedule(
        tmp_path / "lr_schedule.png",
        steps=steps,
        schedule_steps=schedule_steps,
        learning_rate=lambda step: 1.0 / (step + 1),
        mask=mask_at(share),
    )


@pytest.mark.parametrize(
    ("steps", "schedule_steps", "share", "switch"),
    [(10, 10, 0.5, 5), (10, 10, 0.0, None), (10, 10, 1.0, None), (6, 12, 0.5, None), (7, 12, 0.5, 6), (20, 10, 0.25, 3),
     (1, 10, 0.5, None)],
)  # fmt: skip
def test_the_schedule_shows_every_step_of_a_short_run(tmp_path, drawn, steps, schedule_steps, share, switch):
    draw_schedule(tmp_path, steps=steps, schedule_steps=schedule_steps, share=share)
    left, right = drawn["lr_schedule.png"].axes
    assert points(left) == [[(step, 1.0 / (step + 1)) for step in range(steps)]]
    until = {0.0: 0, 1.0: steps}.get(share, -(-share * schedule_steps // 1))
    assert points(right) == [[(step, float(step < until)) for step in range(steps)]]
    assert right.lines[0].get_drawstyle() == "steps-post"
    assert marked(left) == ([switch] if switch else [])
    assert [text.get_text() for text in left.texts] == ([f"mask final from step {switch}"] if switch else [])


def test_a_long_schedule_is_thinned_but_keeps_both_sides_of_the_switch(tmp_path, drawn):
    draw_schedule(tmp_path, steps=30_000, schedule_steps=30_000, share=0.4567)
    left, right = drawn["lr_schedule.png"].axes
    (weights,) = points(right)
    assert len(weights) < 1100
    assert (weights[0], weights[-1]) == ((0, 1.0), (29_999, 0.0))
    switch = 13_701
    assert (switch - 1, 1.0) in weights
    assert (switch, 0.0) in weights
    assert all(weight == float(step < switch) for step, weight in weights)
    assert all(rate == 1.0 / (step + 1) for step, rate in points(left)[0])


def test_curves_are_the_rows_without_the_steps_that_have_no_value(tmp_path, drawn, metrics):
    common = ("train_loss", "validation_loss", "lr")
    figures.draw_curves(tmp_path, metrics, common=common, names=("bleu2", "ppl"), switch=2)
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
    figures.draw_curves(tmp_path, metrics, common=common, names=names, switch=0)
    assert set(drawn) == files


@pytest.mark.parametrize(("switch", "shown"), [(0, []), (1, [1]), (5, [5]), (6, []), (100, [])])
def test_the_switch_is_marked_where_it_lies_within_the_rows(tmp_path, drawn, metrics, switch, shown):
    figures.draw_curves(tmp_path, metrics, common=("train_loss", "lr"), names=(), switch=switch)
    assert marked(drawn["loss.png"].axes[0]) == marked(drawn["lr.png"].axes[0]) == shown


def test_the_files_are_pictures(tmp_path, metrics):
    folder = tmp_path / "vis outputs"
    draw_schedule(folder, steps=5, schedule_steps=5, share=0.5)
    figures.draw_curves(folder, metrics, common=("train_loss", "lr"), names=("bleu2",), switch=3)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["loss.png", "lr.png", "lr_schedule.png", "scores.png"]
    assert all(file.read_bytes().startswith(PNG) for file in files)


def test_a_run_without_rows_has_empty_curves(tmp_path, drawn):
    figures.draw_curves(tmp_path, tmp_path / "none.jsonl", common=("train_loss", "lr"), names=("bleu2",), switch=3)
    assert [points(figure.axes[0]) for figure in drawn.values()] == [[[]], [[]], [[]]]
