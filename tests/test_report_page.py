"""The page in a browser: it opens offline, says nothing on the console, moves, and is accessible.

Chromium comes from the system (`.ci/run` installs it); without one these tests are skipped.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import escaping, ledger, report
from harness.decide import Candidate, CostLine, Facts, Pair, Policy, choose
from harness.decide.policy import COST, P95
from harness.decide.rule import judge, volume_of
from harness.decide.twins import Twins
from harness.types import Interval, Measurement, Status, plain
from harness.wording import number
from tests import records
from tests.pages import HOSTILE, folder
from tests.test_decide_ties import grid

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
SLOW_MS = 30_000
NAMES = ["b", "cell", "cell-10", "cell-9"] + [
    f"{a}{b}" for a in "\ufffd\U0001f600" for b in ("", "a", "b", "\ufffd", "\U0001f600")
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(folder(tmp_path_factory.mktemp("support_tone") / "run", *records.grid(), records.ids()))[0]


def opened(browser: Any, page: Path, width: int = 1280, scheme: str = "light", scripts: bool = True) -> Any:
    """The page with all that it says and asks for in `page.said`: only its own address is expected."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts
    )
    context.set_default_timeout(SLOW_MS)
    tab = context.new_page()
    tab.said = []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on("dialog", lambda dialog: (tab.said.append("dialog"), dialog.dismiss()))
    tab.on("request", lambda request: tab.said.append(request.url))
    tab.goto(page.as_uri())
    if scripts:
        tab.wait_for_selector("html[data-ready]", state="attached")
    assert tab.said == [page.as_uri()]
    return tab


def violations(tab: Any, within: str | None = None) -> list[str]:
    """What axe-core finds wrong, best practices too, on a page or in a part of it."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab, within).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary']}" for v in found]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_it_opens_offline_and_is_accessible(browser: Any, drawn: Path, width: int, scheme: str) -> None:
    tab = opened(browser, drawn, width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, "nothing stands out of the page"
    tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert violations(tab) == []
    wide, narrow = tab.locator(".chart .wide svg").first, tab.locator(".chart .narrow svg").first
    assert (wide.is_visible(), narrow.is_visible()) == (width > 640, width <= 640)


def test_dark_and_light_are_drawn_in_the_pages_colours(browser: Any, drawn: Path) -> None:
    of = "getComputedStyle(document.querySelector('.chart .wide svg [fill=\"var(--s1)\"]')).fill"
    light, dark = (opened(browser, drawn, scheme=s).evaluate(of) for s in ("light", "dark"))
    assert (light, dark) == ("rgb(11, 110, 106)", "rgb(92, 200, 189)")


def test_tables_and_charts_are_there_without_a_script(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn, scripts=False)
    assert tab.locator("#all-cells tbody tr").count() == 15
    assert tab.locator(".chart .wide svg").first.is_visible()
    assert not tab.locator("#policy").is_visible()
    assert not tab.locator("#viewer").is_visible()
    assert tab.locator("noscript").first.is_visible()


def test_a_wide_table_uses_the_window_and_shows_where_there_is_more(browser: Any, drawn: Path) -> None:
    look = """() => { const box = document.querySelector('#cells .box'), section = box.parentElement;
      return [box.scrollWidth > box.clientWidth, section.clientWidth > 1120,
        getComputedStyle(box).backgroundImage.includes('gradient')]; }"""
    assert {w: opened(browser, drawn, w).evaluate(look) for w in (390, 1920)} == {
        390: [True, False, True], 1920: [False, True, True],
    }  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_coloured_cells_let_the_shade_of_an_edge_through(browser: Any, drawn: Path, scheme: str) -> None:
    """Where there is more behind it; elsewhere they are as they are."""
    from PIL import Image

    tab = opened(browser, drawn, 390, scheme)
    box = tab.locator(".heatbox").first
    tab.evaluate("document.querySelectorAll('.heat td').forEach((c) => { c.className = 'h5'; c.textContent = ''; })")

    def apart() -> int:
        """How far the colour at the right edge is from that of the same row elsewhere."""
        image = Image.open(io.BytesIO(box.screenshot())).convert("RGB")
        right, low = image.width, image.height - 30
        here, there = (image.crop((right - x, low, right - x + 1, low + 1)).tobytes() for x in (5, 40))
        return sum(abs(a - b) for a, b in zip(here, there, strict=True))

    assert apart() > 30
    box.evaluate("(b) => { b.scrollLeft = b.scrollWidth; }")
    assert apart() == 0


def test_it_prints_without_what_moves(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn)
    tab.emulate_media(media="print")
    assert not tab.locator("#policy").is_visible()
    assert not tab.locator("nav").is_visible()
    assert tab.locator("#all-cells").is_visible()
    assert tab.pdf().startswith(b"%PDF")
    assert tab.locator("details:not([open]) >> visible=true").count() == 0, "paper cannot open them"
    tab.set_viewport_size({"width": 1032, "height": 703})  # A4 landscape less its margins
    height, legend, grids = tab.evaluate(
        "['#grid', '#grid .scale', '#grid .grids'].map((q) => document.querySelector(q).getBoundingClientRect())"
        ".map((box, n) => (n ? box.top : box.height))"
    )
    assert height < 703, "the grid and its legend stand on one page"
    assert legend < grids


def test_the_table_of_all_cells_fits_on_paper_with_every_column(browser: Any, tmp_path: Path) -> None:
    times = {"e2e_natural_ms/p50": 101.5, "e2e_natural_ms/p95": 119.5, "times_limit": 12.75, "batch_times_limit": 12.25}
    ram = {f"memory_bytes/cuda_peak_{kind}": 1.25e9 for kind in ("allocated", "reserved")}
    more = [Measurement(k, v, "ms" if "ms" in k else "×", "lower", 12, Interval(v, v, "bootstrap"))
            for k, v in times.items()] + [Measurement(k, v, "bytes", "lower", 1) for k, v in ram.items()]  # fmt: skip
    cells, rows = records.grid()
    every = [replace(r, measurements=(*r.measurements, *more)) for r in cells]
    tab = opened(browser, report.write(folder(tmp_path / "run", every, rows, records.ids()))[0])
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 1032, "height": 703})
    assert tab.locator("#all-cells th[scope=col]").count() > 20
    assert tab.evaluate("document.querySelector('#all-cells').scrollWidth") <= 1032


def test_long_numbers_and_names_fit_into_the_grid_on_a_phone(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn, 360)
    tab.evaluate("document.querySelectorAll('.heat .nw').forEach((n) => { n.textContent = '$0.00842'; })")
    wide = "[...document.querySelectorAll('.heat td:not(.corner)')].filter((c) => c.scrollWidth > c.clientWidth).length"
    assert tab.evaluate(wide) == 0
    lines = """[...document.querySelectorAll('.heat th[scope=row]')].map((head) => {
      const range = document.createRange();
      range.selectNodeContents(head);
      return range.getClientRects().length;
    })"""
    assert set(tab.evaluate(lines)) == {1}, "prompt_rag stands on one line"


def test_names_without_a_place_to_break_stand_not_out_of_the_page(browser: Any, tmp_path: Path) -> None:
    long, (cells, rows) = "m" * 120, records.grid()
    model = {"name": long, "target": "x", "params": {}}
    named = [replace(r, id=r.id.replace(r.model, long).replace("lora", "a" * 110), model=long,
                     adaptation=r.adaptation.replace("lora", "a" * 110), config=dict(r.config) | {"model": model})
             for r in cells]  # fmt: skip
    every = rows | {n.id: rows[r.id] for n, r in zip(named, cells, strict=True)}
    for name, some in (("one", named), ("two", [*cells, *named])):
        page, _ = report.write(folder(tmp_path / name, some, every, [r.id for r in some]))
        for width in (360, 1280):
            tab = opened(browser, page, width)
            tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            assert tab.evaluate("document.documentElement.scrollWidth") == width, name
    gate = {
        "outcome": "pass", "subtitle": "", "exit_code": 0, "headline": "", "notes": (), "flipped": 1, "lost": 1,
        "hidden": 0, "cells": [(named[0].id, [], [])],
        "flips": [{"row": "r" * 90, "case": "", "cell": named[0].id, "lost": ["good"], "gained": [], "message": None,
                   "before": None, "after": None}],
    }  # fmt: skip
    ledger.write_text(tmp_path / "check.html", escaping.page("check.html.j2", gate))
    for width in (360, 1280):
        tab = opened(browser, tmp_path / "check.html", width, scripts=False)
        assert tab.evaluate("document.documentElement.scrollWidth") == width, "check"


def test_cells_are_filtered_and_sorted_by_keyboard(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn)
    names = "[...document.querySelectorAll('#all-cells tbody tr')].map((r) => r.dataset.name)"
    tab.focus("#cells-search")
    tab.keyboard.type("lora")
    assert sorted(tab.evaluate(names)) == sorted(f"lora/{q}" for q in records.QUANTIZATIONS)
    assert tab.locator("#cells-count").text_content() == "5 of 15 cells"
    tab.locator("#all-cells thead button", has_text="Whole 32-token answer p95").focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#all-cells th[aria-sort=ascending]").text_content() == "Whole 32-token answer p95"
    cells, _ = records.grid()
    p95 = {r.quantization: r.value("e2e_ms/p95").value for r in cells if r.adaptation == "lora"}  # type: ignore[union-attr]
    by_time = [f"lora/{q}" for q in sorted(p95, key=lambda q: p95[q])]
    assert tab.evaluate(names) == by_time
    tab.keyboard.press("Space")
    assert tab.evaluate(names) == by_time[::-1]


def test_everything_that_moves_is_reached_by_keyboard_and_shows_it(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn)
    reached = set()
    for _ in range(400):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
        if "row-search" in reached:
            break
        outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", tab.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    assert {"knob-volume", "knob-floor", "knob-p95", "cells-search", "row-search"} <= reached


def test_the_choice_moves_with_the_policy_and_back(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn)
    document = json.loads(drawn.with_name("report.json").read_text(encoding="utf-8"))
    chosen = "() => document.querySelector('#choice').dataset.cell"
    assert tab.evaluate(chosen) == document["decision"]["chosen"]
    tab.select_option("#knob-objective", "e2e_ms/p95")
    rule = Policy(**{**document["policy"], "objective": "e2e_ms/p95"})
    assert tab.evaluate(chosen) == choose(facts_of(document["facts"]), rule)
    tab.fill("#knob-p95", "1")
    assert tab.locator("#choice").text_content() == "No cell holds these limits."
    tab.focus("#policy button[type=reset]")
    tab.keyboard.press("Enter")
    assert tab.evaluate(chosen) == document["decision"]["chosen"]
    before = tab.evaluate("document.querySelector('#said-volume').textContent")
    tab.focus("#knob-volume")
    tab.keyboard.press("ArrowLeft")
    assert tab.evaluate("document.querySelector('#said-volume').textContent") != before


def test_where_nothing_is_chosen_the_panel_begins_with_that(browser: Any, tmp_path: Path) -> None:
    cells, rows = records.grid()
    few = {i: made[:4] for i, made in rows.items()}
    page = report.write(folder(tmp_path / "few", cells, few, records.ids()))[0]
    tab = opened(browser, page)
    assert tab.locator("#policy > p").first.text_content().startswith("Not enough evidence: too few rows")
    assert tab.locator("#policy .choice").text_content().startswith("By the numbers alone: ")
    assert tab.locator("#choice-cells tr").first.locator("td").first.text_content() == "first by the numbers"
    assert tab.locator("#choice-cells .picked").count() == 0
    none = [records.with_value(r, "quality/good", 0.0) for r in cells]
    tab = opened(browser, report.write(folder(tmp_path / "none", none, {}, records.ids()))[0])
    assert "got a single row" in tab.locator("#decision .first").text_content()
    assert tab.locator("#policy").count() == 0


def test_a_field_that_holds_no_number_above_0_says_nothing(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn)
    usual = tab.locator("#choice").text_content()
    for knob in ("hourly", "p95", "memory"):
        for text in ("", "-1", "0", "1e"):
            tab.fill(f"#knob-{knob}", "")
            tab.locator(f"#knob-{knob}").press_sequentially(text)
            assert tab.locator("#choice").text_content() == usual, (knob, text)
    assert tab.said == [drawn.as_uri()]


def test_sliders_are_spoken_as_they_are_shown(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn)
    for knob, usual in (("volume", "100,000"), ("floor", "none"), ("margin", "5 points")):
        assert tab.locator(f"#knob-{knob}").get_attribute("aria-valuetext") == usual
        tab.focus(f"#knob-{knob}")
        tab.keyboard.press("ArrowRight")
        shown = tab.locator(f"#said-{knob}").text_content()
        assert shown != usual
        assert tab.locator(f"#knob-{knob}").get_attribute("aria-valuetext") == shown


def test_numbers_are_said_as_python_says_them(browser: Any, drawn: Path) -> None:
    """Of shares and costs the very text, also where two roundings are as near; of limits one that the value holds."""
    luck = random.Random(3)
    values = [n / 48 for n in range(49)] + [n / 1000 for n in range(0, 1001, 5)] + [0.0, 1.115, 2.675, 0.3125, 1.125]
    values += [10.0**n for n in range(-7, 7)] + [luck.random() * 10 ** luck.uniform(-6, 6) for _ in range(2_000)]
    values += [n / 2 ** luck.randrange(8) for n in range(1, 2_000)]
    tab = opened(browser, drawn)
    told = tab.evaluate(
        "(values) => JSON.stringify(JSON.parse(values).map((v) => [wording.share(v), wording.usd(v),"
        " wording.above(v, 0), wording.above(v, wording.digits(v))]))",
        json.dumps(values),
    )
    for value, (share, usd, whole, near) in zip(values, json.loads(told), strict=True):
        assert (share.replace(",", ""), usd) == (number(value, "share"), number(value, "USD")), value
        assert 0 <= float(whole.replace(",", "")) - value < 1, value
        assert 0 <= float(near.replace(",", "")) - value <= 0.01 * value, value


def test_a_limit_typed_as_it_is_shown_keeps_its_cell(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn)
    found = facts_of(json.loads(drawn.with_name("report.json").read_text(encoding="utf-8"))["facts"])
    cells = "[...document.querySelectorAll('#choice-cells tr')].map((r) => [...r.children].map((c) => c.textContent))"
    shown = {row[0]: row[2:] for row in tab.evaluate(cells)}
    for c in found.candidates:
        quality, p95, memory, usd = shown["/".join(c.id.split("/")[1:3])]
        assert c.cost is not None
        assert (quality, usd) == (
            number(c.quality, "share"), number(c.cost.usd_per_1000(found.volume_requests), "USD")
        )  # fmt: skip
        for knob, text in (("p95", p95.removesuffix(" ms")), ("memory", memory.removesuffix(" MB"))):
            tab.fill(f"#knob-{knob}", text.replace(",", ""))
            states = {row[0]: row[1] for row in tab.evaluate(cells)}
            assert states["/".join(c.id.split("/")[1:3])] != "breaks a limit", (knob, text)
            tab.fill(f"#knob-{knob}", "")


def facts_of(data: Any) -> Facts:
    """Facts from their JSON."""
    made = (Candidate(**{**c, "cost": CostLine(**c["cost"]) if c["cost"] else None}) for c in data["candidates"])
    pairs = {a: {b: Pair(**p) for b, p in found.items()} for a, found in data["pairs"].items()}
    seen = {o: Twins(**t) for o, t in data["twins"].items()}
    return Facts(tuple(made), pairs, data["volume_requests"], data["apart"], seen)


def some_facts(luck: random.Random) -> Facts:
    """Candidates in any order, with many ties, numbers that were not measured, pairs that are lacking, and differences
    and intervals that lie on the margin itself (all are binary fractions, so that ties are exact). Paired rows may be
    fewer than all, so a pair may say less of a cell than its quality does: only then is a choice passed on. Names sort
    otherwise by UTF-16 units than by code points."""
    ids = luck.sample(NAMES, luck.choice((1, 3, 5, 5, 14)))
    ranks, some = luck.choice((1, 4, 4, 4)), luck.choice((1, 4, 4))
    apart = luck.choice(((0,), (-1, 0, 0, 1), (0, 8, 8)))

    def maybe(value: float) -> float | None:
        return None if luck.random() < 0.1 else value

    def cost() -> CostLine:
        once, serving = luck.choice((0.0, 1.0, 8.0)[:some]), luck.choice((0.5, 1.0, 1.5))
        spread = luck.choice((0.0, 0.25, 1.0)[:some])
        return CostLine(serving, once, "batched", labelling_usd=luck.choice((0.0, once / 2)), spread=spread)

    made = []
    for i in ids:
        p95 = maybe(luck.choice((100.0, 150.0, 200.0, 400.0)[-some:]))
        made.append(
            Candidate(
                i, luck.randrange(ranks), luck.choice((24, 28, 29, 30, 31, 32)) / 32, luck.choice((0.25, 0.5, 0.75)),
                p95, luck.choice((0.0, 0.0, 0.5)), maybe(luck.choice((1e9, 2e9)[:some])),
                maybe(luck.choice((0.25, 0.5, 0.75))), None if luck.random() < 0.1 else cost(),
            )
        )  # fmt: skip
    score = {c.id: c.quality for c in made}

    def pair(delta: float) -> Pair:
        return Pair(delta, delta - luck.choice((1, 2, 4)) / 32, delta + luck.choice((1, 2, 4)) / 32)

    pairs = {
        a: {b: pair(score[b] - score[a] - luck.choice(apart) / 32) for b in ids if b != a and maybe(1.0)} for a in ids
    }
    seen = {o: Twins(2.8, ("a", "b"), 2.8) for o in (COST, P95) if luck.random() < 0.2}
    return Facts(tuple(made), pairs, 1e3, luck.choice((0.5, 1.0, 2.0)), seen)


def some_policy(luck: random.Random) -> tuple[Policy, float]:
    rule = Policy(
        luck.choice(("cost_usd_per_1000", "e2e_ms/p95", "quality")),
        min_quality=luck.choice((None, None, 0.25, 0.5)), max_p95_e2e_ms=luck.choice((None, None, 150.0, 200.0)),
        max_memory_bytes=luck.choice((None, None, 1e9)), min_valid=luck.choice((None, None, 0.0, 0.5)),
        margin=luck.choice((0.0, 1 / 32, 1 / 16, 0.25)), volume_requests=luck.choice((None, 1e3, 1e7)),
        pace=luck.choice((1.0, 1.5)),
    )  # fmt: skip
    return rule, luck.choice((1.0, 1.0, 0.125, 8.0))


def test_the_page_chooses_as_python_does(browser: Any, drawn: Path) -> None:
    """Not the choice alone: each stage of the way to it, and what cells cost. Mutants of the script (each operator,
    bound, constant, tie and order changed by itself) were killed by this but for those that mean the same."""
    tab = opened(browser, drawn)
    luck, asked, expected = random.Random(5), [], []
    wide_front = grid((1350.0, 1050.0, 1000.0), 0.01, 0.01, 0.5)
    made = [(wide_front, (Policy(objective, pace=1.0), 1.0)) for objective in (COST, P95)]
    made += [(some_facts(luck), some_policy(luck)) for _ in range(3_000)]
    for found, (rule, hourly) in made:
        asked.append([plain(found), plain(rule), *([hourly] if hourly != 1 else [])])
        judged, volume = judge(found, rule, hourly), volume_of(found, rule)
        ids = [[c.id for c in cells] for cells in (judged.holding, judged.good)]
        usd = [c.cost.usd_per_1000(volume, hourly) for c in judged.holding if c.cost]
        expected.append([*ids, *(c and c.id for c in (judged.best, judged.chosen, judged.chosen)), usd])
    told = tab.evaluate(  # as text, which Playwright hands over a hundred times as fast as objects
        """(all) => JSON.stringify(JSON.parse(all).map(([facts, policy, ...hourly]) => {
          const { holding, best, good, chosen, volume } = decisionRule.judge(facts, policy, ...hourly);
          const id = (c) => (c ? c.id : null), same = decisionRule.choose(facts, policy, ...hourly);
          const usd = holding.filter((c) => c.cost).map((c) => decisionRule.usd(c.cost, volume, ...hourly, 1));
          return [holding.map(id), good.map(id), id(best), id(chosen), same, usd];
        }))""",
        json.dumps(asked),
    )
    assert json.loads(told) == expected
    assert len({chosen for *_, chosen, _ in expected}) > len(NAMES) / 2, "the policies do differ in what they choose"
    assert any(chosen is None for *_, chosen, _ in expected)


def test_any_row_is_shown_beside_its_other_answers(browser: Any, drawn: Path) -> None:
    tab = opened(browser, drawn)
    assert tab.locator("#row-count").text_content() == "Row 1 of 96"
    tab.fill("#row-search", "row-017")
    assert tab.locator("#row-count").text_content() == "Row 1 of 1"
    assert tab.locator("#row-id").text_content() == "row-017 · vague"
    _, rows = records.grid()
    shown = tab.evaluate("[...document.querySelectorAll('#row-answers .answer')].map((a) => "
                         "[a.querySelector('header').textContent, a.querySelector('pre').textContent])")  # fmt: skip
    tab.click("#row-right")
    shown += tab.evaluate("[...document.querySelectorAll('#row-answers .answer')].map((a) => "
                          "[a.querySelector('header').textContent, a.querySelector('pre').textContent])")  # fmt: skip
    expected = {"/".join(i.split("/")[1:3]): next(r["output"] for r in rows[i] if r["id"] == "row-017") for i in rows}
    assert dict(shown) == expected
    tab.click("#row-left")
    tab.fill("#row-search", "")
    tab.select_option("#row-kind", "differ")
    tab.select_option("#row-against", label="prompt_rag/fp16")
    assert tab.locator("#row-answers ins").count() > 0
    tab.click("#row-after")
    assert tab.locator("#row-count").text_content().startswith("Row 2 of")


def test_hostile_text_neither_runs_nor_breaks_the_page(browser: Any, tmp_path: Path) -> None:
    cells, rows = records.grid()
    for made in rows.values():
        for row in made:
            row |= {"output": HOSTILE, "prompt": HOSTILE, "case": HOSTILE, "id": row["id"] + HOSTILE}
            row["reference"] = HOSTILE
    rows[cells[0].id][0]["output"] = "<b>" * 400_000
    model = {"name": HOSTILE, "target": "x", "params": {"note": HOSTILE}}
    cells = [replace(r, config=dict(r.config) | {"model": model}, model=HOSTILE) for r in cells]
    run = folder(tmp_path / "run", cells, rows, records.ids())
    tab = opened(browser, report.write(run)[0])
    assert len((run / "report.html").read_bytes()) < 2_000_000
    assert tab.evaluate("document.querySelectorAll('img').length") == 0
    said = (
        "</pre></td><script>alert(1)</script><img src=x onerror=alert(2)> ⟨U+202E⟩txt.exe⟨U+202C⟩ {{ 7*7 }} ⟨U+0000⟩ "
        "⟨U+D83D⟩ & \"'"
    )
    assert tab.locator("#row-answers pre").nth(1).text_content() == said
    replies = tab.locator("#examples .expected")
    assert [replies.nth(n).text_content() for n in range(5)] == [said] * 5, (
        "four examples, and the row that is looked at"
    )
    assert tab.said == [(run / "report.html").as_uri()]


def test_a_grid_too_large_for_its_tables_is_paged_and_says_so(browser: Any, tmp_path: Path) -> None:
    one, rows = records.record("lora", "fp16"), records.rows("lora", "fp16")
    bad = records.ended("lora", "fp16", Status.FAILED, "out of memory")
    cells = [replace(r, id=f"{one.id}/adaptation.rank={n}", config={**one.config, "variant": f"adaptation.rank={n}"})
             for n, r in enumerate((*[one] * 67, *[bad] * 3))]  # fmt: skip
    page, _ = report.write(folder(tmp_path / "run", cells, {c.id: rows for c in cells}, [c.id for c in cells]))
    tab = opened(browser, page)
    assert tab.locator("#all-cells tbody tr").count() == 60
    assert tab.locator("#cells-count").text_content() == "1 to 60 of 70 cells"
    tab.click("#cells-after")
    assert tab.locator("#cells-count").text_content() == "61 to 70 of 70 cells"
    assert "60 of 70 cells" in tab.locator("#grid").text_content()
    gaps = tab.locator("#gaps").text_content()
    assert gaps.count("out of memory") == 3
    assert "all 67 cells that ended ok" in gaps
    assert len(list(ledger.read_records(page.parent))) == 70
    assert violations(tab, "#cells") == []
