"""The page of a comparison in a browser: nothing of a stranger runs, nothing is requested, all is there at 400 pixels."""

import pytest
from helpers.run_folders import make_run

from dialog_trainer.cli.commands.report import collect_folder
from dialog_trainer.config.command_groups import NO_REPORT, ReportConfig
from dialog_trainer.reporting.report.report import build_report, write_report

pytestmark = pytest.mark.slow
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>&\u202e\x07'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = []
    for value, losses in {"a": [3.0, 3.1, 3.2], HOSTILE: [2.9, 3.02, 3.11]}.items():
        for seed, loss in enumerate(losses):
            settings = {"model.pretrained_model": value, "seed": seed, "data.cache_dir": HOSTILE}
            place = make_run(
                folder / f"{len(runs)}-<b>", loss, settings=settings, typed=[f"model.pretrained_model={value}"],
                scored=[loss + 0.1 * number for number in range(5)],
            )  # fmt: skip
            runs.append(collect_folder(place, None))
    report = build_report(f"Report on {HOSTILE}", runs, [("<i>gone</i>", HOSTILE)], ReportConfig(**NO_REPORT))
    write_report(folder, report, with_figures=True)
    return folder / "report.html"


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_is_whole_and_runs_nothing_of_others(browser, page, width):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(page.as_uri())
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('b, i, img[src=x], body script ~ script').length") == browser.run(
        "document.querySelectorAll('.warnings b').length"
    )
    assert HOSTILE[:20] in browser.run("document.body.innerText")
    assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 500 && image.alt)")
    hidden = "[...document.querySelectorAll('td')].filter(cell => !cell.getClientRects().length).length"
    assert browser.run(hidden) == 0


def test_tables_sort_by_a_click_and_back(browser, page):
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.open(page.as_uri())
    column = "[...[...document.querySelectorAll('table')].at(-1).tBodies[0].rows].map(row => row.cells[7].textContent)"
    button = "[...document.querySelectorAll('table')].at(-1).tHead.rows[0].cells[7].querySelector('button').click()"
    browser.run(button)
    rising = browser.run(column)
    numbers = [float(text) for text in rising if text != "-"]
    assert numbers == sorted(numbers)
    assert rising[-1] == "-"
    browser.run(button)
    assert browser.run(column)[:2] == ["-", f"{max(numbers):g}"]


def test_figures_have_their_numbers_as_text(browser, page):
    browser.open(page.as_uri())
    first = browser.run("document.images[0].alt")
    assert first.startswith("differences of assistant_nll: ")
    assert " ± " in first


def test_a_dark_page_has_dark_figures_and_its_print_light_ones(browser, page):
    browser.open(page.as_uri())
    # The browser chooses once more in the frame after the change.
    frame = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))"
    chosen = f"{frame}.then(() => document.images[0].decode()).then(() => document.images[0].currentSrc)"
    sources = {}
    for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", media=media, features=features)
        sources[media, scheme] = browser.run(chosen)
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert sources["screen", "light"] == sources["print", "dark"] != sources["screen", "dark"]
