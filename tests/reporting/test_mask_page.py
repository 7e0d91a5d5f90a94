"""The mask page: the file, and its behavior in a browser."""

import base64
import copy
import json
import math
import re
from bisect import bisect_right

import pytest
from helpers import chromium
from helpers.contrast import contrast
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dialog_trainer.reporting.mask_page.page import PLACE, TEMPLATE, render_mask_page
from dialog_trainer.reporting.plotting import ASSISTANT_DASHES, DARK, LIGHT, USER_DASHES, render_figure

pytestmark = pytest.mark.slow

SCHEDULES = {
    "step": [[0.0, 1.0, 1.0, False], [0.5, 0.0, 1.0, False]],
    "linear": [[k / 1000, max(0.0, min(1.0, (0.75 - k / 1000) / 0.5)), 1.0, False] for k in range(1001)],
    "random": [[0.0, 1.0, 0.8, False], [0.5, 0.0, 1.0, True]],
}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--",
    "<!--<script>",
    "-->]]>",
    "&lt;b&gt; &amp;",
    "'\"`\\ \\u003c ${1} {{content}}",
    "\u2028\u2029",
    "\x00\x01\r\n\t \x7f",
    "x" * 10_000,
    " " * 300,
    "שלום \u202e העולם",
    "\ufeff\u200b\ufffd",
    "👩\u200d👩\u200d👧 e\u0301",
    "javascript:alert(1)",
    "",
]


def span(role: str, turn: int, position: int, words: str, weight: list, at_random: list | None = None) -> dict:
    texts = re.findall(r"\s?\S+", words)
    ids = [100 * turn + position + index for index in range(len(texts))]
    return {
        "role": role, "turn": turn, "position": position, "ids": ids, "texts": texts, "weight": weight,
        **({} if at_random is None else {"random_weight": at_random}),
    }  # fmt: skip


def sequence(identifier: str, spans: list[dict], **changes) -> dict:
    values = {"part": 1, "parts": 1, "tokens": sum(len(one["ids"]) for one in spans), "lost_tokens": 0, "lost_turns": 0}
    return {"id": identifier, **values, "note": "", "tags": [], "spans": spans} | changes


def content(kind: str = "step", **changes) -> dict:
    """Three sequences: a complete one, a truncated one with turns of other weights, one of a user alone."""
    start = span("format", 0, 0, "[CLS]", [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    whole = [
        start,
        span("system", 0, 1, "Be kind [SEP]", [0.0, 0.0, 0.0]),
        span("user", 1, 4, "Green tea ? [SEP]", [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
        span("assistant", 2, 8, "Yes , tea [SEP]", [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]),
        span("end", 2, 12, "<|endoftext|>", [0.0, 0.0, 1.0], None),
    ]
    cut = [
        start,
        span("user", 0, 1, "The sea [SEP]", [0.3, 0.0, 0.0], [0.0, 0.3, 0.0]),
        span("assistant", 1, 4, "Which sea", [0.0, 2.5, 0.1], [0.0, 2.5, 0.0]),
    ]
    alone = [start, span("user", 0, 1, "Hello [SEP]", [1.0, 0.0, 0.0], [1.0, 0.0, 0.0])]
    values = {
        "title": "What carries the loss: dailydialog",
        "facts": [["data", "train.jsonl: 3 dialogues"], ["mask", "all turns, assistant turns from step 15,000"]],
        "points": [0.0, 1 / 3, 0.5, 1.0],
        "schedule_steps": 30000,
        "schedule": SCHEDULES[kind],
        "sequences": [
            sequence("12", whole),
            sequence("train/3456", cut, part=2, parts=3, lost_tokens=1200, lost_turns=1, tags=["cut", "longest"]),
            sequence("120", alone, note="dropped"),
        ],
        "tables": [],
        "figures": [],
    }
    return copy.deepcopy(values | changes)


def weights_at(given: dict, progress: float) -> list[float]:
    entries = given["schedule"]
    _, user, assistant, at_random = entries[bisect_right([entry[0] for entry in entries], progress) - 1]
    rows = [
        one.get("random_weight") if at_random and one.get("random_weight") else one["weight"]
        for sequence in given["sequences"]
        for one in sequence["spans"]
    ]
    return [a * user + b * assistant + c for a, b, c in rows]


def embedded(page: str) -> str:
    return re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)[1]


# The file.


def test_content_is_read_back_as_it_was():
    given = content("random", title="".join(HOSTILE), facts=[[text, text] for text in HOSTILE])
    assert json.loads(embedded(render_mask_page(given))) == given


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_escaped_reversibly_and_fits_a_file(text):
    escaped = embedded(render_mask_page(content(title=text)).encode("utf-8").decode("utf-8"))
    assert not set("<>&\u2028\u2029") & set(escaped)
    assert json.loads(escaped)["title"] == text


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_mask_page(content(points=[number]))


def test_the_template_has_one_place_and_no_way_for_text_to_become_markup():
    template = TEMPLATE.read_text(encoding="utf-8")
    assert template.count(PLACE) == 1
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|srcdoc", template)
    assert set(re.findall(r"https?://[^\"]+", template)) == {"http://www.w3.org/2000/svg"}


# In a browser.


class Shown:
    """A page in the browser: what is done to it, and what is then to be seen."""

    def __init__(self, browser: chromium.Page, folder):
        self.browser, self.folder = browser, folder
        self.url = (folder / "masks.html").as_uri()

    def open(self, given: dict, fragment: str = "") -> "Shown":
        (self.folder / "masks.html").write_text(render_mask_page(given), encoding="utf-8")
        self.browser.open(self.url + fragment)
        return self

    def run(self, expression: str):
        return self.browser.run(expression)

    def all(self, selector: str, what: str) -> list:
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => {what})")

    def one(self, selector: str, what: str):
        [value] = self.all(selector, what)
        return value

    def slide(self, progress: float, event: str = "input") -> None:
        self.run(f"byId('progress').value = {progress}; byId('progress').dispatchEvent(new Event('{event}'))")

    def click(self, selector: str) -> None:
        self.one(selector, "one.click()")

    def type(self, text: str) -> None:
        self.run(f"byId('find').value = {json.dumps(text)}; byId('find').dispatchEvent(new Event('input'))")

    def hover(self, selector: str) -> None:
        self.one(selector, "one.scrollIntoView({ block: 'center' })")
        box = "(({ left, top, width, height }) => [left + width / 2, top + height / 2])(one.getClientRects()[0])"
        self.browser.move_mouse(*self.one(selector, box))

    def weights(self) -> list[float]:
        return [float(text) for text in self.all("[data-weight]", "one.dataset.weight")]

    def sequences(self) -> list[str]:
        return self.all(".sequence:not([hidden])", "one.dataset.dialogue")

    def facts(self) -> dict[str, str]:
        lines = self.one("#token-facts:not([hidden])", "one.textContent").strip().split("\n")
        return dict([("text", json.loads(lines[0])), *(line.split(" ") for line in lines[1:])])

    def address(self) -> str:
        return self.run("location.hash")


@pytest.fixture
def shown(browser, tmp_path):
    """The page loads nothing but its file and logs no error."""
    browser.call("Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", features=[])
    browser.move_mouse(0, 0)
    page = Shown(browser, tmp_path)
    yield page
    page.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert {url.partition("#")[0] for url in browser.requests()} <= {page.url}
    assert browser.complaints() == []


def shading(shown: Shown, role: str) -> tuple[float, str]:
    """How opaque the first token of that role is filled, and the colour of its text."""
    token = f".sequence:first-child [data-role={role}] .token[data-id]:first-child"
    fill, ink = shown.one(token, "[getComputedStyle(one).backgroundColor, getComputedStyle(one).color]")
    parts = [float(part) for part in re.findall(r"[\d.]+", fill)]
    return (parts[3] if len(parts) == 4 else 1.0), ink


def test_a_page_opens_without_other_files(shown):
    shown.open(content())
    assert shown.browser.requests() == [shown.url]
    assert shown.run("document.title") == "What carries the loss: dailydialog"
    assert shown.all("#facts div", "one.textContent")[0] == "datatrain.jsonl: 3 dialogues"
    assert shown.all(".sequence:nth-child(2) header > :not([hidden])", "one.textContent") == [
        "Dialogue train/3456", "part 2 of 3", "6 tokens", "1,200 tokens truncated", "1 turn removed", "truncated", "longest",
    ]  # fmt: skip
    labels = shown.all(".sequence:first-child .label", "one.textContent")
    assert labels == ["format", "system 0", "user 1", "assistant 2", "end"]
    assert shown.all("nav a", "one.textContent") == []


@pytest.mark.parametrize(
    "action",
    [
        "fetch('figure.png').catch(() => 0)",
        "new Image().src = 'http://127.0.0.1:9/'",
        "byId('list').append(make('iframe', { src: 'x' }))",
    ],
)
def test_the_page_cannot_load_or_send(shown, action):
    shown.open(content())
    stopped = "new Promise((done) => document.addEventListener('securitypolicyviolation', (event) => done(event.disposition)))"
    assert shown.run(f"(() => {{ const stopped = {stopped}; {action}; return stopped; }})()") == "enforce"
    shown.browser.events.clear()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_weights_are_those_of_the_coefficients_at_every_point(shown, kind):
    given = content(kind)
    shown.open(given)
    assert shown.weights() == pytest.approx(weights_at(given, 0.0))
    points = sorted({*range(0, 1001, 37), 249, 250, 251, 499, 500, 501, 750, 1000})
    weights = shown.run(
        f"""{points}.map((point) => {{
            byId("progress").value = point / 1000;
            byId("progress").dispatchEvent(new Event("input"));
            return [...document.querySelectorAll("[data-weight]")].map((one) => Number(one.dataset.weight));
        }})"""
    )
    for point, found in zip(points, weights, strict=True):
        assert found == pytest.approx(weights_at(given, point / 1000), rel=1e-9, abs=1e-12), point


def test_weights_are_short_to_the_eye_and_never_zero_by_rounding(shown):
    spans = [
        span("user", turn, turn, "a", [weight, 0.0, 0.0]) for turn, weight in enumerate([0.1 * 3, 1 / 3, 1e-9, 250])
    ]
    shown.open(content(sequences=[sequence("1", spans)]))
    assert shown.all("[data-weight]", "one.dataset.weight") == ["0.3", "0.333333333333", "1e-9", "250"]
    assert shown.all(".weight", "one.textContent") == ["0.3", "0.3333", "1e-9", "250"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shading_shows_the_weight_and_hue_the_role(shown, scheme):
    shown.browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    shown.open(content("linear"))
    steps = []
    for progress in (0.8, 0.7, 0.5, 0.25):  # weights 0, 0.1, 0.5, 1
        shown.slide(progress)
        steps.append(shading(shown, "user"))
    none, faint, half, full = (opacity for opacity, _ in steps)
    assert none == 0
    assert faint > 0.1
    assert none < faint < half < full
    assert steps[0][1] != steps[1][1] == steps[2][1] == steps[3][1]
    fills = shown.all(".sequence:first-child .token:first-child", "getComputedStyle(one).backgroundColor")
    assert len(set(fills)) == 4  # start and system unshaded, user, assistant, end
    page = shown.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in re.findall(r"\d+", page)) < 200) == (scheme == "dark")


def test_turns_drawn_at_random_are_shaded_by_their_random_weight(shown):
    shown.open(content("random"), "#progress=0.499")
    assert "turns drawn at random" not in shown.one("#weights", "one.textContent")
    shown.slide(0.5)
    assert shown.one("#weights", "one.textContent") == "user turns 0assistant turns 1turns drawn at random"
    assert shading(shown, "user")[0] > 0
    assert shading(shown, "assistant")[0] == 0
    assert shading(shown, "end")[0] > 0  # it has no random weight


def test_the_slider_says_where_it_is_and_buttons_reach_the_exact_points(shown):
    given = content("linear")
    shown.open(given)
    assert shown.one("#readout", "one.textContent") == "progress 0.000 (step 0)"
    assert shown.all("#points button", "one.textContent") == ["0.000", "0.333333", "0.500", "1.000"]
    assert shown.all("#points button", "one.ariaPressed") == ["true", "false", "false", "false"]
    shown.click("#points button:nth-child(2)")
    assert shown.one("#readout", "one.textContent") == "progress 0.333333 (step 10,000)"
    assert shown.all("#points button", "one.ariaPressed") == ["false", "true", "false", "false"]
    assert shown.weights() == pytest.approx(weights_at(given, 1 / 3))
    shown.click("#points button:nth-child(3)")
    shown.run("byId('progress').focus()")
    shown.browser.press("ArrowRight")
    assert shown.one("#readout", "one.textContent") == "progress 0.501 (step 15,030)"
    assert shown.one("#progress", "one.getAttribute('aria-valuetext')") == "progress 0.501 (step 15,030)"
    assert float(shown.one(".cursor", "one.getAttribute('x1')")) == pytest.approx(501)


def test_the_slider_changes_spans_and_no_token(shown):
    shown.open(content("linear"))
    touched = shown.run(
        """(() => {
            const watch = new MutationObserver(() => {});
            const all = { attributes: true, childList: true, characterData: true, subtree: true };
            document.querySelectorAll(".tokens").forEach((one) => watch.observe(one, all));
            byId("progress").value = 0.5;
            byId("progress").dispatchEvent(new Event("input"));
            return watch.takeRecords().length;
        })()"""
    )
    assert touched == 0
    assert shading(shown, "user")[0] < shading(shown, "assistant")[0]


def test_hover_shows_the_facts_of_a_token(shown):
    shown.open(content("linear"), "#progress=0.7")
    assert shown.all("#token-facts[hidden]", "1") == [1]
    shown.hover(".sequence:first-child [data-role=user] .token[data-id='105']")
    facts = {"text": " tea", "id": "105", "role": "user", "turn": "1", "position": "5", "weight": "0.1"}
    assert shown.facts() == facts
    box, token = (
        shown.one(which, "(({ left, top, right, bottom }) => [left, top, right, bottom])(one.getBoundingClientRect())")
        for which in ("#token-facts", ".sequence:first-child [data-role=user] .token[data-id='105']")
    )
    assert box[0] == pytest.approx(token[0], abs=1)
    assert box[1] == pytest.approx(token[3] + 6, abs=1)
    assert box[2] <= 1400
    assert box[3] <= 900
    shown.slide(0.0)
    assert shown.facts() == facts | {"weight": "1"}
    shown.browser.move_mouse(1, 1)
    assert shown.all("#token-facts[hidden]", "1") == [1]


def test_keys_go_from_token_to_token(shown):
    shown.open(content())
    assert shown.all(".token[tabindex='0']", "one.textContent") == ["[CLS]"] * 3
    shown.one(".sequence:first-child .token[tabindex='0']", "one.focus()")
    reached = []
    for key in (
        "ArrowRight",
        "ArrowDown",
        "ArrowRight",
        "ArrowRight",
        "ArrowUp",
        "End",
        "ArrowRight",
        "ArrowLeft",
        "Home",
    ):
        shown.browser.press(key)
        facts = shown.facts()
        reached.append((facts["role"], facts["position"]))
    assert reached == [
        ("system", "1"), ("user", "4"), ("user", "5"), ("user", "6"), ("system", "1"), ("end", "12"), ("end", "12"),
        ("assistant", "11"), ("format", "0"),
    ]  # fmt: skip
    shown.browser.press("Escape")
    assert shown.all("#token-facts[hidden]", "1") == [1]


def test_filters_show_their_sequences_and_counts(shown):
    shown.open(content())
    counts = [
        ["all 3", "truncated 1", "no trained token 0", "longest 1"],
        ["all 3", "truncated 1", "no trained token 1", "longest 1"],
    ]
    assert shown.all("[data-filter]", "one.textContent") == counts[0]
    shown.click("[data-filter=untrained]")
    assert shown.sequences() == []
    shown.slide(0.5)
    assert shown.sequences() == ["120"]
    assert shown.all("[data-filter]", "one.textContent") == counts[1]
    assert shown.all(".tag:not([hidden])", "one.textContent") == ["truncated", "longest", "no trained token here"]
    assert shown.one("#shown", "one.textContent") == "1 of 3 sequences shown"
    for name, expected in (("cut", ["train/3456"]), ("longest", ["train/3456"]), ("all", ["12", "train/3456", "120"])):
        shown.click(f"[data-filter={name}]")
        assert shown.sequences() == expected
        assert shown.all("[aria-pressed=true][data-filter]", "one.dataset.filter") == [name]


def test_sequences_tagged_untrained_pass_the_filter(shown):
    given = content()
    given["sequences"][0]["tags"] = ["untrained"]
    shown.open(given)
    shown.click("[data-filter=untrained]")
    assert shown.sequences() == ["12"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("12", ["12"]),
        ("3456", ["train/3456"]),
        ("GREEN", ["12"]),
        ("sea the", ["train/3456"]),
        ("[sep]", ["12", "train/3456", "120"]),
        ("nowhere", []),
        ("  ", ["12", "train/3456", "120"]),
    ],
)
def test_sequences_are_found_by_id_and_by_words(shown, typed, expected):
    shown.open(content())
    shown.type(typed)
    assert shown.sequences() == expected
    shown.type("")
    assert len(shown.sequences()) == 3


def test_the_address_sets_the_point_and_follows_it(shown):
    given = content()
    shown.open(given, "#progress=0.6")
    assert shown.weights() == pytest.approx(weights_at(given, 0.6))
    assert shown.one("#progress", "one.value") == "0.6"
    length = shown.run("history.length")
    shown.slide(0.25)
    shown.slide(0.25, "change")
    assert shown.address() == "#progress=0.25"
    shown.click("#points button:nth-child(2)")
    assert shown.address() == f"#progress={1 / 3}"
    assert shown.run("history.length") == length
    shown.run("new Promise((done) => { addEventListener('hashchange', done); location.hash = 'progress=0.9'; })")
    assert shown.weights() == pytest.approx(weights_at(given, 0.9))


def test_the_address_follows_a_drag_that_has_not_ended(shown):
    shown.open(content())
    shown.slide(0.125)
    assert shown.address() == ""
    shown.browser.wait_for("Page.navigatedWithinDocument")
    assert shown.address() == "#progress=0.125"


@pytest.mark.parametrize(
    "fragment", ["#progress=", "#progress=x", "#progress=-1", "#progress=1.5", "#progress=NaN", "#a"]
)
def test_an_address_without_a_point_shows_the_first(shown, fragment):
    shown.open(content(points=[0.5, 1.0]), fragment)
    assert shown.one("#readout", "one.textContent") == "progress 0.500 (step 15,000)"


def test_hostile_texts_stay_texts(shown):
    given = content(
        title=HOSTILE[0], facts=[[text, text] for text in HOSTILE],
        tables=[{"title": text, "head": [text], "rows": [[text]]} for text in HOSTILE],
        figures=[{"title": text, "png": "", "dark_png": "", "alt": text} for text in HOSTILE],
    )  # fmt: skip
    words = {"ids": list(range(len(HOSTILE))), "texts": HOSTILE}
    spans = [span("user", 0, 0, "a", [1.0, 0.0, 0.0]) | words, span("assistant", 1, 17, "a", [0.0, 1.0, 0.0]) | words]
    given["sequences"] = [sequence(text, spans, note=text, tags=[text]) for text in HOSTILE]
    shown.open(given)
    assert shown.all(".sequence:first-child .token", "one.textContent") == HOSTILE * 2
    assert shown.all(".sequence", "one.dataset.dialogue") == HOSTILE
    assert shown.all(".sequence h3", "one.textContent") == [f"Dialogue {text}" for text in HOSTILE]
    assert shown.all("#facts dt", "one.textContent") == HOSTILE
    assert shown.all("tbody th", "one.textContent") == HOSTILE
    assert shown.all("img", "one.alt") == HOSTILE
    assert shown.all("script", "1") == [1, 1]
    assert set(shown.all(".tokens *", "one.tagName")) <= {"SPAN", "BR", "WBR"}
    for index in (0, 9, 10):
        shown.one(f".sequence:first-child [data-role=user] .token[data-id='{index}']", "one.focus()")
        quoted = shown.one("#token-facts code", "one.textContent").strip()
        assert quoted.startswith(json.dumps(HOSTILE[index][:100], ensure_ascii=False)[:-1])
    for width in (700, 1600):
        shown.browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        assert shown.run("document.documentElement.scrollWidth") <= width


def test_invisible_tokens_show_a_sign(shown):
    texts = [" ", "\n\n", " \t", "\u200b", "", "a\nb", " c"]
    spans = [span("user", 0, 0, "a", [1.0, 0.0, 0.0]) | {"ids": list(range(7)), "texts": texts}]
    shown.open(content(sequences=[sequence("1", spans)]))
    assert shown.all(".token", "one.textContent") == texts
    assert shown.all(".token .sign", "one.dataset.sign") == ["␣", "⏎⏎", "␣⇥", "U+200B", "∅", "⏎"]
    assert all(width > 4 for width in shown.all(".token", "one.getBoundingClientRect().width"))


def test_tables_and_figures_scroll_in_their_own_place(shown):
    figure = Figure(figsize=(2, 1))
    figure.savefig(shown.folder / "figure.png")
    png = base64.b64encode((shown.folder / "figure.png").read_bytes()).decode("ascii")
    table = {"title": "Tokens by role", "head": ["role", *map(str, range(60))], "rows": [["user"] + ["601,234"] * 60]}
    shown.open(
        content(tables=[table], figures=[{"title": "Lengths", "png": png, "dark_png": png, "alt": "A histogram"}])
    )
    assert shown.all("nav a", "one.getAttribute('href')") == ["#sequences", "#tables", "#figures"]
    assert shown.all("tr", "[...one.children].map((cell) => cell.textContent)") == [table["head"], *table["rows"]]
    aligned = shown.all("tbody tr > *", "getComputedStyle(one).textAlign")
    assert aligned == ["left"] + ["right"] * 60
    assert (
        shown.run("document.querySelector('img').decode().then(() => document.querySelector('img').naturalWidth)")
        == 200
    )
    for width in (700, 1600):
        shown.browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        assert shown.run("document.documentElement.scrollWidth") <= width
        assert shown.one(".scroll", "one.scrollWidth > one.clientWidth")


@pytest.mark.parametrize(("scheme", "width"), [("light", 200), ("dark", 300)])
def test_a_dark_page_shows_dark_figures(shown, scheme, width):
    shown.browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    light, dark = (
        base64.b64encode(render_figure(Figure(figsize=(inches, 1)))).decode("ascii") for inches in (2 / 1.2, 3 / 1.2)
    )
    shown.open(content(figures=[{"title": "Lengths", "png": light, "dark_png": dark, "alt": "A histogram"}]))
    natural = "document.querySelector('img').decode().then(() => document.querySelector('img').naturalWidth)"
    assert shown.run(natural) == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_of_the_page_have_enough_contrast(shown, scheme):
    shown.browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    shown.open(content())
    names = ["ink", "muted", "unshaded", "user", "assistant", "system", "end", "format", "page", "raised"]
    style = "getComputedStyle(document.documentElement).getPropertyValue"
    values = {name: shown.run(f"{style}('--{name}')").strip() for name in names}
    colors = {
        name: value if value.startswith("#") else "#" + "".join(f"{int(part):02x}" for part in value.split())
        for name, value in values.items()
    }
    for background in ("page", "raised"):
        assert min(contrast(colors[name], colors[background]) for name in names[:3]) >= 4.5
        assert min(contrast(colors[name], colors[background]) for name in names[3:8]) >= 3
    theme = LIGHT if scheme == "light" else DARK
    assert [colors[role] for role in ("user", "assistant", "end")] == [theme.user, theme.assistant, theme.end]
    assert colors["raised"] == theme.background


def test_roles_have_the_dashes_of_the_figures(shown):
    shown.open(content())
    dashes = [shown.one(f".plot .{role}", "getComputedStyle(one).strokeDasharray") for role in ("user", "assistant")]
    assert [(dash != "none") for dash in dashes] == [USER_DASHES == "--", ASSISTANT_DASHES == "--"]


def test_a_page_of_nothing(shown):
    shown.open(content(sequences=[], facts=[], points=[0.0]))
    assert shown.one("#shown", "one.textContent") == "no sequences"
    assert shown.all("[data-filter]", "one.textContent")[0] == "all 0"
    assert shown.all("section:not([hidden])", "one.id") == ["sequences"]
    shown.slide(0.7)
    assert shown.one("#readout", "one.textContent") == "progress 0.700 (step 21,000)"


def test_a_span_without_tokens_trains_nothing(shown):
    lost = span("assistant", 1, 0, "", [0.0, 1.0, 0.0])
    shown.open(content(sequences=[sequence("1", [lost], lost_turns=1)]))
    shown.click("[data-filter=untrained]")
    assert shown.sequences() == ["1"]
