"""The figures of a run: the data they show, their words, and the files."""

from functools import partial
from types import SimpleNamespace

import pytest
from helpers.contrast import contrast

from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights, linear, random_turns, step
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.reporting import plotting
from dialog_trainer.reporting.curves import plot_curves
from dialog_trainer.reporting.mask_curves import (
    WeightsAtStep,
    plot_alignment,
    plot_lengths,
    plot_loss_by_role,
    plot_loss_by_turn,
    plot_schedule,
    plot_weights,
)
from dialog_trainer.reporting.plotting import DARK, LIGHT, FigureStyle, format_tick, save_figures
from dialog_trainer.tracking.jsonl import MetricWriter
from dialog_trainer.types import Role

STYLE = FigureStyle("run7")
USER, ASSISTANT = (LIGHT.user, "--"), (LIGHT.assistant, "-")


@pytest.fixture
def metrics(tmp_path):
    """Rows of 6 steps with validations after 3 and 6; the fourth step had no token with weight."""
    path = tmp_path / "metrics.jsonl"
    log = MetricWriter(path.parent, path.name, 0)
    for at in range(6):
        values = {"train_loss": None if at == 3 else 6.0 - at, "lr": 0.1 * at}
        log.add(step=at, epoch=0, split="train", values=values)
        if at % 3 == 2:
            values = {"validation_loss": 5.0 - at, "bleu2": 0.1 * at, "ppl": 20.0 - at, "length": 7.0}
            log.add(step=at + 1, epoch=0, split="validation", values=values)
    log.close()
    return path


def points(axes) -> list[list[tuple[float, float]]]:
    """The curves of a panel, without the mark of the switch and the line at 0."""
    return [list(zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_gid() is None]


def switches(axes) -> list[int]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_gid() == "switch"]


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def notes(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def plan(schedule, schedule_steps: int, **mask) -> tuple[int, WeightsAtStep]:
    """The step from which a schedule is final and its weights over the steps, as a run has them."""
    built = Mask(schedule, **mask)
    timeline = build_timeline(built, schedule_steps)
    return timeline.final_from_step, lambda at: built.weigh_roles(timeline.progress(at))


def schedule_figure(schedule, *, steps: int, schedule_steps: int, **mask):
    switch, weights = plan(schedule, schedule_steps, **mask)
    return plot_schedule(
        STYLE, steps=steps, learning_rate=lambda at: 1.0 / (at + 1), role_weights=weights, switch=switch
    )


def weights_of(axes) -> dict[str, list[tuple[float, float]]]:
    """The curves of the weights by the name in the legend."""
    lines = [line for line in axes.lines if line.get_gid() is None]
    assert all(line.get_drawstyle() == "steps-post" for line in lines)
    assert {line.get_label(): (line.get_color(), line.get_linestyle()) for line in lines} == {
        "assistant turns": ASSISTANT,
        "user turns": USER,
    }
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in lines}


@pytest.mark.parametrize(
    ("steps", "schedule_steps", "share", "switch"),
    [(10, 10, 0.5, 5), (10, 10, 0.0, None), (10, 10, 1.0, None), (6, 12, 0.5, None), (7, 12, 0.5, 6), (20, 10, 0.25, 3),
     (1, 10, 0.5, None)],
)  # fmt: skip
def test_the_schedule_shows_every_step_of_a_short_run(steps, schedule_steps, share, switch):
    at = partial(step, train_user_turn_mask_step=share)
    upper, lower = schedule_figure(at, steps=steps, schedule_steps=schedule_steps).axes
    assert points(upper) == [[(step, 1.0 / (step + 1)) for step in range(steps)]]
    until = {0.0: 0, 1.0: steps}.get(share, -(-share * schedule_steps // 1))
    assert weights_of(lower) == {
        "user turns": [(step, float(step < until)) for step in range(steps)],
        "assistant turns": [(step, 1.0) for step in range(steps)],
    }
    for axes in (upper, lower):
        assert switches(axes) == ([switch] if switch else [])
        assert (f"mask final from step {switch}" in legend(axes)) == bool(switch)


def test_a_long_schedule_is_thinned_but_keeps_both_sides_of_the_switch():
    at = partial(step, train_user_turn_mask_step=0.4567)
    upper, lower = schedule_figure(at, steps=30_000, schedule_steps=30_000).axes
    weights = weights_of(lower)["user turns"]
    assert len(weights) < 1100
    assert (weights[0], weights[-1]) == ((0, 1.0), (29_999, 0.0))
    switch = 13_701
    assert (switch - 1, 1.0) in weights
    assert (switch, 0.0) in weights
    assert all(weight == float(step < switch) for step, weight in weights)
    assert all(rate == 1.0 / (step + 1) for step, rate in points(upper)[0])
    assert "mask final from step 13,701" in legend(lower)


def test_a_gradual_schedule_shows_both_weights_and_where_it_ends():
    fade = partial(linear, start=0.2, end=0.6, start_weight=1.0, end_weight=0.2)
    upper, lower = schedule_figure(fade, steps=10, schedule_steps=10, trained_role=Role.USER).axes
    own = [1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2]
    assert weights_of(lower) == {
        "user turns": [(step, 1.0) for step in range(10)],
        "assistant turns": [(step, pytest.approx(weight)) for step, weight in enumerate(own)],
    }
    assert switches(upper) == [6]


def test_turns_drawn_at_random_have_a_band_and_a_name():
    figure = schedule_figure(partial(random_turns, train_user_turn_mask_step=0.5), steps=4, schedule_steps=4)
    (_, lower) = figure.axes
    assert weights_of(lower)["user turns"] == [(0, 1), (1, 1), (2, 0), (3, 0)]
    assert "turns drawn at random" in legend(lower)
    (band,) = lower.patches
    assert (band.get_x(), band.get_width()) == (0, 3)


@pytest.mark.parametrize(("share", "switch"), [(0.5, [5]), (0.0, []), (1.0, [])])
def test_the_weights_alone_cover_the_schedule(share, switch):
    final_from, weights = plan(partial(step, train_user_turn_mask_step=share), 10)
    (axes,) = plot_weights(STYLE, schedule_steps=10, role_weights=weights, switch=final_from).axes
    until = {0.5: 5, 0.0: 0, 1.0: 11}[share]
    assert weights_of(axes)["user turns"] == [(step, float(step < until)) for step in range(11)]
    assert switches(axes) == switch


@pytest.fixture
def by_role(tmp_path):
    """Rows of 6 steps of which the last three train the assistant alone, validations after 3 and 6, probes at 0 and 4."""
    path = tmp_path / "by_role.jsonl"
    log = MetricWriter(path.parent, path.name, 0)
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


def test_the_loss_by_role_is_shown_over_the_schedule(by_role):
    switch, weights = plan(partial(step, train_user_turn_mask_step=0.5), 6)
    upper, middle, lower = plot_loss_by_role(STYLE, by_role, role_weights=weights, switch=switch).axes
    curves = {
        line.get_label(): (line.get_color(), line.get_linestyle(), list(zip(*line.get_data(), strict=True)))
        for line in upper.lines
        if line.get_gid() is None
    }
    assert curves == {
        "user (training)": (LIGHT.user_thin, "-", [(0, 6.0), (1, 6.0), (2, 6.0)]),
        "user (validation)": (*USER, [(3, 8.0), (6, 11.0)]),
        "assistant (training)": (LIGHT.assistant_thin, "-", [(step, 5.0 - 0.5 * step) for step in range(6)]),
        "assistant (validation)": (*ASSISTANT, [(3, 2.0), (6, -1.0)]),
        "end of dialogue (validation)": (LIGHT.end, "-", [(3, 1.0), (6, 2.5)]),
    }
    assert weights_of(lower)["user turns"] == [(step, float(step < 3)) for step in range(7)]
    assert points(middle) == [[(3, 6.0), (6, 12.0)]]
    assert [switches(axes) for axes in (upper, middle, lower)] == [[3]] * 3


def test_the_loss_by_turn_ends_with_the_last_turn_that_has_one(by_role):
    (axes,) = plot_loss_by_turn(STYLE, by_role).axes
    assert points(axes) == [[(turn, 1.0 + turn) for turn in range(4)], [(turn, turn - 2.0) for turn in range(4)]]
    assert legend(axes) == ["step 3", "step 6"]
    assert axes.get_xlim()[1] < 4


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 3, 4, 5]), (9, [1, 3, 5, 7, 9]), (100, [1, 26, 51, 75, 100])],
)
def test_of_many_validations_five_are_shown_by_turn(tmp_path, count, shown):
    log = MetricWriter(tmp_path, "metrics.jsonl", 0)
    for at in range(1, count + 1):
        log.add(step=at, epoch=0, split="validation", values={"nll_turn_00": float(at)})
    log.close()
    assert points(plot_loss_by_turn(STYLE, tmp_path / "metrics.jsonl").axes[0]) == [[(0, float(at))] for at in shown]


@pytest.mark.parametrize(("switch", "shown"), [(0, []), (3, [3]), (4, [4]), (5, [])])
def test_cosines_and_norms_are_shown_over_the_probes(by_role, switch, shown):
    upper, lower = plot_alignment(STYLE, by_role, switch=switch).axes
    curves = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in upper.lines if not line.get_gid()}
    assert curves == {
        "embeddings": [(0, 0.0), (4, 0.4)],
        "block 00": [(0, 0.3)],
        "all weights": [(0, 0.5), (4, pytest.approx(-0.3))],
    }
    norms = {line.get_label(): list(line.get_ydata()) for line in lower.lines if not line.get_gid()}
    assert norms == {"user": [2, 6], "assistant": [1, 1]}
    assert switches(upper) == switches(lower) == shown


def test_lengths_are_counted_up_to_the_longest_allowed():
    (axes,) = plot_lengths(STYLE, [1, 2, 2, 7, 8], 8).axes
    assert [int(bar.get_height()) for bar in axes.patches] == [0, 1, 2, 0, 0, 0, 0, 2]
    assert axes.patches[0].get_x() == 0
    assert axes.patches[-1].get_x() + axes.patches[-1].get_width() == 8


SCORES = {"bleu2": "higher", "ppl": "lower", "length": "neither"}


def test_curves_are_the_rows_that_have_a_value(metrics):
    common = ("train_loss", "validation_loss", "lr")
    figures = plot_curves(STYLE, metrics, common=common, scores=SCORES, switch=2)
    assert set(figures) == {"loss", "lr", "scores"}
    train, validation = points(figures["loss"].axes[0])
    assert train == [(0, 6.0), (1, 5.0), (2, 4.0), (4, 2.0), (5, 1.0)]
    assert validation == [(3, 3.0), (6, 0.0)]
    assert points(figures["lr"].axes[0]) == [[(step, 0.1 * step) for step in range(6)]]
    bleu, ppl, length = figures["scores"].axes
    assert (points(bleu), points(ppl)) == ([[(3, 0.2), (6, 0.5)]], [[(3, 18.0), (6, 15.0)]])
    labels = [axes.get_ylabel() for axes in (bleu, ppl, length)]
    assert labels == ["bleu2\n(higher is better)", "ppl\n(lower is better)", "length"]


def test_scores_mark_the_best_the_switch_and_the_interval(tmp_path):
    log = MetricWriter(tmp_path, "metrics.jsonl", 0)
    for at, bleu, ppl in ((10, 0.1, 30.0), (20, 0.3, 20.0), (30, 0.2, 25.0)):
        values = {"bleu2": bleu, "bleu2_low": bleu - 0.05, "bleu2_high": bleu + 0.05, "ppl": ppl, "length": ppl}
        log.add(step=at, epoch=0, split="validation", values=values)
    log.close()
    figures = plot_curves(STYLE, tmp_path / "metrics.jsonl", common=(), scores=SCORES, switch=15)
    bleu, ppl, length = figures["scores"].axes
    switch = "mask final from step 15"
    assert sorted(legend(bleu)) == ["95 % interval", "best 0.3 (step 20)", "bleu2", switch]
    assert sorted(legend(ppl)) == ["best 20 (step 20)", switch, "ppl"]
    assert sorted(legend(length)) == ["length", switch]
    assert bleu.collections[0].get_paths()[0].get_extents().y1 == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("common", "scores", "names"),
    [(("train_loss",), {}, {"loss"}), (("lr",), {}, {"lr"}), ((), SCORES, {"scores"}), ((), {}, set())],
)
def test_only_the_chosen_curves_are_drawn(metrics, common, scores, names):
    assert set(plot_curves(STYLE, metrics, common=common, scores=scores, switch=0)) == names


@pytest.mark.parametrize(("switch", "shown"), [(0, []), (1, [1]), (5, [5]), (7, []), (100, [])])
def test_the_switch_is_marked_within_the_rows(metrics, switch, shown):
    figures = plot_curves(STYLE, metrics, common=("train_loss", "lr"), scores={}, switch=switch)
    assert switches(figures["loss"].axes[0]) == switches(figures["lr"].axes[0]) == shown


def all_figures(style, metrics, by_role):
    schedule = partial(random_turns, train_user_turn_mask_step=0.5)
    switch, weights = plan(schedule, 6)
    return {
        **plot_curves(style, metrics, common=("train_loss", "lr"), scores=SCORES, switch=3),
        "lr_schedule": plot_schedule(style, steps=6, learning_rate=float, role_weights=weights, switch=switch),
        "weights": plot_weights(style, schedule_steps=6, role_weights=weights, switch=switch),
        "by_role": plot_loss_by_role(style, by_role, role_weights=weights, switch=switch),
        "by_turn": plot_loss_by_turn(style, by_role),
        "alignment": plot_alignment(style, by_role, switch=3),
        "lengths": plot_lengths(style, [1, 2], 8),
    }


def test_every_figure_names_its_run_and_every_axis(metrics, by_role):
    for name, figure in all_figures(STYLE, metrics, by_role).items():
        assert figure.get_suptitle().endswith("(run\N{NO-BREAK SPACE}run7)")
        assert all(axes.get_ylabel() for axes in figure.axes)
        unit = {"by_turn": "turn of the dialogue", "lengths": "length (tokens)"}.get(name, "step")
        assert figure.axes[-1].get_xlabel().startswith(unit)


@pytest.mark.slow
def test_legends_and_titles_lie_outside_the_panels(metrics, by_role):
    for figure in all_figures(STYLE, metrics, by_role).values():
        figure.draw_without_rendering()
        for axes in figure.axes:
            box = axes.get_window_extent()
            assert box.y1 <= figure.texts[0].get_window_extent().y0 if figure.texts else True
            if axes.get_legend():
                assert axes.get_legend().get_window_extent().y0 >= box.y1 - 1
                assert axes.get_legend().get_window_extent().x1 <= figure.bbox.x1


def test_one_point_or_none_is_said_instead_of_an_axis(tmp_path):
    log = MetricWriter(tmp_path, "metrics.jsonl", 0)
    log.add(step=20, epoch=0, split="validation", values={"bleu2": 0.25})
    log.close()
    figures = plot_curves(STYLE, tmp_path / "metrics.jsonl", common=("lr",), scores=SCORES, switch=10)
    bleu, ppl, _ = figures["scores"].axes
    assert (notes(bleu), notes(ppl)) == (["one point so far"], ["no values yet"])
    assert (bleu.get_xticks().tolist(), bleu.get_yticks().tolist()) == ([20], [0.25])
    assert ppl.get_yticks().tolist() == []
    assert notes(figures["lr"].axes[0]) == ["no values yet"]


def test_a_run_without_rows_has_empty_curves(tmp_path):
    none = tmp_path / "none.jsonl"
    figures = plot_curves(STYLE, none, common=("train_loss", "lr"), scores={"bleu2": "higher"}, switch=3)
    assert [points(figure.axes[0]) for figure in figures.values()] == [[[]], [[]], [[]]]
    weights = lambda step: RoleWeights(1.0)  # noqa: E731
    figure = plot_loss_by_role(STYLE, none, role_weights=weights, switch=3)
    assert points(figure.axes[0]) == [[]] * 5
    assert points(plot_loss_by_turn(STYLE, none).axes[0]) == []
    assert points(plot_alignment(STYLE, none, switch=3).axes[0]) == [[]]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colors_have_enough_contrast(theme):
    text_and_strong = [theme.ink, theme.user, theme.assistant, theme.end, theme.accent, theme.muted]
    assert min(contrast(color, theme.background) for color in text_and_strong) >= 4.5
    thin = [theme.thin, theme.user_thin, theme.assistant_thin, *(c for n in (1, 2, 5, 30) for c in theme.shades(n))]
    assert min(contrast(color, theme.background) for color in thin) >= 3
    shades = [contrast(color, theme.background) for color in theme.shades(5)]
    assert shades == sorted(shades)
    assert theme.shades(1) == theme.shades(2)[1:]


@pytest.mark.parametrize(
    ("value", "text"), [(30_000, "30,000"), (0.1 + 0.2, "0.3"), (8e-6, "8e-06"), (-1e-17, "0"), (7.75, "7.75")]
)
def test_ticks_have_separators_and_no_rounding_noise(value, text):
    assert format_tick(value) == text


@pytest.mark.slow
@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG\r\n\x1a\n"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figures_are_files_of_the_chosen_format(tmp_path, metrics, by_role, format, start):
    style = FigureStyle("run7", format)
    figures = dict(list(all_figures(style, metrics, by_role).items())[:3])
    save_figures(tmp_path, "vis outputs", style, figures)
    files = sorted((tmp_path / "vis outputs").iterdir())
    assert [file.name for file in files] == sorted(f"{name}.{format}" for name in figures)
    assert all(file.read_bytes().startswith(start) for file in files)


def test_equal_best_scores_are_all_marked_and_the_scale_begins_at_0(tmp_path):
    log = MetricWriter(tmp_path, "metrics.jsonl", 0)
    for at, ppl in ((10, 30.0), (20, 20.0), (30, 20.0)):
        log.add(step=at, epoch=0, split="validation", values={"bleu2": 0.5, "ppl": ppl, "length": None})
    log.close()
    figures = plot_curves(STYLE, tmp_path / "metrics.jsonl", common=(), scores=SCORES, switch=0)
    bleu, ppl, length = figures["scores"].axes
    assert "best 0.5 (3 equal ones)" in legend(bleu)
    assert "best 20 (2 equal ones)" in legend(ppl)
    assert [axes.get_ylim() for axes in (bleu, length)] == [(0, 0.65), (0, 1)]


def test_a_font_is_found_for_what_the_own_one_lacks(monkeypatch):
    fonts = {"Serif": "中", "Some CJK": "中文", "Nanum": "글"}

    entries = [SimpleNamespace(name=name, fname=name, weight=400) for name in fonts]
    newly_installed = entries.pop()
    get_font = plotting.get_font
    add = lambda path: entries.append(newly_installed)  # noqa: E731
    monkeypatch.setattr(plotting, "fontManager", SimpleNamespace(ttflist=entries, addfont=add))
    monkeypatch.setattr(plotting, "findSystemFonts", lambda: ["Serif", "Some CJK", "Nanum"])
    monkeypatch.setattr(
        plotting,
        "get_font",
        lambda name: (
            SimpleNamespace(get_charmap=lambda: dict.fromkeys(map(ord, fonts[name])))
            if name in fonts
            else get_font(name)
        ),
    )
    plotting.find_font.cache_clear()
    assert [plotting.find_font(text) for text in ("run 7\nä", "中 a", "文 b", "글", "한")] == [
        "",
        "Some CJK",
        "Some CJK",
        "Nanum",
        None,
    ]
    assert len(entries) == 3
    assert plotting.describe_missing_font("中文") is None
    assert "no installed font has the characters of 한: " in plotting.describe_missing_font("한")
    plotting.find_font.cache_clear()
