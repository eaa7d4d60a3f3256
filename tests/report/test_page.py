"""The page in a real browser. Without Chromium these tests are skipped; `.ci/run` installs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from support.browser import CHARTS, CHROMIUM, FRONT, Sheet, opened
from support.fabricated_study import fabricate

from results.parts import read_table, rows_of, write_part
from study.cli.main import main

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
PACK = Path("results/reference/vgg19-cifar10")
HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>\'&'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, finished_study: Path) -> dict[str, Path]:
    """The reports that the tests look at. CI names the run folder of the quickstart, which it has just run."""
    folder = tmp_path_factory.mktemp("reports")
    quickstart = Path(os.environ.get("PREDICTIVE_EXIT_QUICKSTART", finished_study))
    made = fabricate(folder / "made", 1000, 40, seconds=True)
    runs = {"quickstart": [quickstart], "pack": [PACK], "two": [PACK, made], "made": [made]}
    for name, places in runs.items():
        assert main(["report", *map(str, places), "--output", str(folder / f"{name}.html")]) == 0
    return {name: folder / f"{name}.html" for name in runs}


@pytest.fixture(scope="module")
def made(browser: Any, files: dict[str, Path]) -> Iterator[Sheet]:
    with opened(browser, files["made"], permissions=["clipboard-read", "clipboard-write"]) as sheet:
        yield sheet


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """A test that shares a page finds it as it was opened."""
    if "made" in request.fixturenames:
        sheet: Sheet = request.getfixturevalue("made")
        sheet.page.keyboard.press("Escape")
        sheet.page.mouse.move(0, 0)


@pytest.mark.parametrize("name", ["quickstart", "pack", "two"])
def test_a_report_draws_all_its_plots_and_asks_no_host(browser: Any, files: dict[str, Path], name: str) -> None:
    with opened(browser, files[name]) as sheet:
        charts = sheet.ask(f"{CHARTS}.length")
        assert charts >= 8
        assert sheet.requests == [files[name].as_uri()]
        assert sheet.complaints == []
        assert sheet.text(".first h2").startswith("Take point")
        assert sheet.ask("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0") < 1000
        if name == "two":
            assert sheet.text("#together-together h2") == "The studies side by side"
            sheet.page.get_by_role("tab", name="made-up").click()
            sheet.wait(f"document.querySelector('{FRONT}').querySelector('canvas')")
            assert sheet.text("article:not([hidden]) .lead").startswith("Data set digits")
            assert sheet.complaints == []


def test_hover_shows_the_settings(made: Sheet) -> None:
    made.page.mouse.move(*made.place_of(made.dearest()))
    made.wait("document.querySelector('#vg-tooltip-element.visible')?.textContent.includes('beta')")
    tip = made.ask("document.querySelector('#vg-tooltip-element').textContent")
    assert "policy" in tip and "validation accuracy" in tip


def test_a_click_fixes_a_point_and_shows_its_layers_and_command(made: Sheet) -> None:
    last = made.dearest()
    before = made.fixed()
    made.page.mouse.click(*made.place_of(last))
    made.wait(f"document.querySelector('.fixed h3').textContent !== '{before}'")
    number = made.fixed().removeprefix("Point ")
    assert f"evaluate --point {made.file.parent / 'made'} {number}" in made.text(".fixed code")
    assert made.ask("document.querySelectorAll('.fixed .layers tbody tr').length") == 21
    stops = made.ask("views.get(document.querySelector('[data-figure=stops] .chart')).data('stops')")
    assert sum(one["share"] for one in stops) == pytest.approx(1, abs=0.01)


def test_a_brush_filters_all_plots_and_the_table(made: Sheet) -> None:
    every = made.rows()
    sheet_count = made.text(".count")
    one, number = made.place_of(made.dearest()), made.points()["number"][made.dearest()]
    made.drag((one[0] - 60, one[1] - 12), (one[0] + 12, one[1] + 60))
    made.wait(f"document.querySelector('.count').textContent !== '{sheet_count}'")
    left = made.rows()
    assert 0 < len(left) < len(every)
    shown = made.ask("views.get(document.querySelector('[data-figure=optimism] .chart')).data('points')")
    assert {row["i"] for row in shown if row["shown"]} <= set(left)
    assert any(not row["shown"] for row in shown)
    cells = made.ask("views.get(document.querySelector('[data-figure=stop_map] .chart')).data('cells')")
    assert cells and {cell["number"] for cell in cells} <= {row["number"] for row in shown if row["shown"]} | set(left)
    made.page.mouse.click(*made.place_of(made.dearest()))  # a point in the brush can be fixed; the click ends the brush
    made.wait(f"document.querySelector('article:not([hidden]) .fixed h3').textContent.includes('{number}')")
    made.page.keyboard.press("Escape")
    made.wait(f"document.querySelector('.count').textContent === '{sheet_count}'")
    assert made.rows() == every


def test_a_brush_in_another_plot_filters_the_front(made: Sheet) -> None:
    chart = "[data-figure=optimism] .chart"
    sheet_count = made.text(".count")
    x, y = made.place_of(made.dearest(), chart)
    made.drag((x + 20, y - 20), (x - 20, y + 20))  # from the inside: the point lies in a corner of the plot
    made.wait(f"document.querySelector('.count').textContent !== '{sheet_count}'")
    rows = made.ask(f"views.get(document.querySelector('{FRONT}')).data('points')")
    assert {row["i"] for row in rows if row["shown"]} == set(made.rows())


def test_the_switch_of_the_constraint_shades(made: Sheet) -> None:
    before = made.page.locator(FRONT).screenshot()
    assert made.ask(f"views.get(document.querySelector('{FRONT}')).signal('limits')") is True
    made.page.locator(".limits").uncheck()
    made.wait(f"views.get(document.querySelector('{FRONT}')).signal('limits') === false")
    assert made.page.locator(FRONT).screenshot() != before
    made.page.locator(".limits").check()


def test_all_points_are_shown_on_request(made: Sheet) -> None:
    domain = f"views.get(document.querySelector('{FRONT}')).scale('y').domain()[0]"
    useful = made.ask(domain)
    made.page.locator(".everything").check()
    made.wait(f"{domain} < {useful}")
    made.page.locator(".everything").uncheck()
    made.wait(f"{domain} === {useful}")


def test_the_cost_can_be_switched(made: Sheet) -> None:
    points = made.points()
    for cost in ("energy", "latency", "flops"):
        made.page.locator(f'input[value="{cost}"]').check()
        x = points[cost][0] / points["axes"][cost]["size"]
        made.wait(f"Math.abs(views.get(document.querySelector('{FRONT}'))?.data('points')[0].x - {x}) < 1e-9 * {x}")


def test_tables_sort_by_every_column(made: Sheet) -> None:
    for name in ("Validation", "Policy"):
        made.page.locator(".points th button", has_text=name).click()
        rising = made.rows()
        made.page.locator(".points th button", has_text=name).click()
        assert made.rows()[0] != rising[0]
    table = made.page.locator("table.sortable").first
    table.locator("th button").nth(1).click()
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"


def test_the_keyboard_reaches_points_and_escape_returns(made: Sheet) -> None:
    recommended = made.fixed()
    made.page.locator(FRONT).focus()
    made.page.keyboard.press("ArrowRight")
    assert made.fixed() != recommended
    made.page.keyboard.press("Escape")
    assert made.fixed() == recommended
    made.page.locator(".points tbody tr").first.focus()
    made.page.keyboard.press("ArrowDown")
    assert made.ask("document.activeElement.rowIndex") == 2
    made.page.keyboard.press("Enter")
    assert made.ask("document.activeElement.getAttribute('aria-selected')") == "true"
    assert made.fixed() != recommended


def test_every_control_is_reached_by_tab(made: Sheet) -> None:
    made.ask("document.activeElement.blur()")
    made.page.locator(".skip").focus()
    reached = set()
    for _ in range(90):
        made.page.keyboard.press("Tab")
        reached.add(made.ask("(document.activeElement.className || document.activeElement.tagName).toString()"))
    for name in ("theme", "copy", "limits", "everything", "chart", "TR"):
        assert any(name in one for one in reached), (name, reached)
    assert made.ask("[...document.querySelectorAll('button, input')].every(b => b.tabIndex >= 0 || b.closest('tr'))")


def test_copying_a_command(made: Sheet) -> None:
    made.page.locator(".first .copy").first.click()
    made.wait("document.querySelector('.first .copy').textContent !== 'Copy'")
    assert made.text(".first .copy") == "Copied"
    assert made.page.evaluate("navigator.clipboard.readText()") == made.text(".first code")


def test_the_words_open_from_the_list_of_sections(made: Sheet) -> None:
    made.page.locator('a[href="#words"]').first.click()
    assert made.page.locator("#words dd").first.is_visible()
    words = made.text("#words dl")
    assert "hypervolume" in words and "predictive" in words
    assert "AUROC" not in words and "head_thresholds" not in words, "the page does not use these words"
    made.page.locator("#words summary").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(browser: Any, files: dict[str, Path], scheme: str) -> None:
    """WCAG AA: 4.5 for text, for every element that holds text of its own."""
    with opened(browser, files["made"], color_scheme=scheme) as sheet:
        assert sheet.ask("document.documentElement.classList.contains('dark')") == (scheme == "dark")
        assert sheet.ask(_CONTRAST) == []
        ink = sheet.ask(f"views.get(document.querySelector('{FRONT}')).signal('ink')")
        assert (int(ink[1:3], 16) > 128) == (scheme == "dark")
        sheet.page.locator("button.theme").click()
        other = sheet.ask(f"views.get(document.querySelector('{FRONT}')).signal('ink')")
        assert (int(other[1:3], 16) > 128) != (scheme == "dark")


_CONTRAST = """(() => {
    const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const ground = (node) => {
        for (let one = node; one; one = one.parentElement) {
            const color = parse(getComputedStyle(one).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const poor = [];
    for (const node of document.querySelectorAll('body *')) {
        if (!node.offsetWidth || node.closest('.chart, :disabled, .skip, caption')) continue;
        if (![...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim())) continue;
        const [one, other] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (other + 0.05);
        if (ratio < 4.5) poor.push(`${node.tagName}.${node.className} ${ratio} ${node.textContent.slice(0, 30)}`);
    }
    return poor;
})()"""


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Any, files: dict[str, Path]) -> None:
    size = {"width": 390, "height": 844}
    for name in ("made", "two"):
        with opened(browser, files[name], viewport=size, has_touch=True) as sheet:
            assert sheet.overflow() <= 0
            assert sheet.ask(f"{CHARTS}.every(one => one.firstChild.getBoundingClientRect().right <= 390)")
            assert sheet.complaints == []


def test_the_label_of_the_classic_network_gives_way_to_the_front(browser: Any, files: dict[str, Path]) -> None:
    for width, is_short in ((1280, False), (390, True)):
        with opened(browser, files["pack"], viewport={"width": width, "height": 844}) as sheet:
            signal = f"((name) => views.get(document.querySelector('{FRONT}')).signal(name))"
            assert sheet.ask(f"{signal}('labelShort')") == is_short
            assert not sheet.ask(f"{signal}('labelLeft')"), "the front rises on the left"


def test_paper_has_dark_text_and_no_controls(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["made"], color_scheme="dark") as sheet:
        sheet.ask("dispatchEvent(new Event('beforeprint'))")
        sheet.page.emulate_media(media="print", color_scheme="dark")
        assert sheet.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not sheet.page.locator(".controls").first.is_visible()
        assert sheet.ask(f"views.get(document.querySelector('{FRONT}')).signal('ink')") == "#000"


def test_each_plot_has_a_name_and_a_table_beside_it(made: Sheet) -> None:
    figures = made.ask(
        """[...document.querySelectorAll('article figure[data-figure]')].map((one) => [
            one.dataset.figure,
            Boolean(one.querySelector('figcaption').textContent),
            Boolean(one.querySelector('details table')),
        ])"""
    )
    assert all(named for _, named, _ in figures)
    assert {name for name, _, table in figures if not table} == {"front"}  # the table of points tells it


def test_words_filter_all_plots_and_tables_by_keyboard(made: Sheet) -> None:
    every, count = made.rows(), made.text(".count")
    made.page.locator(".words-filter").focus()
    made.page.keyboard.type("Hierarchical front")
    made.wait(f"document.querySelector('.count').textContent !== '{count}'")
    left = set(made.rows())
    points = made.points()
    policies = [points["policy"]["values"][code] for code in points["policy"]["codes"]]
    assert 0 < len(left) < len(every)
    assert all(policies[index] == "hierarchical" and points["on_front"][index] for index in left)
    for name in ("front", "optimism"):
        rows = made.ask(f"views.get(document.querySelector('[data-figure={name}] .chart')).data('points')")
        shown = {row["i"] for row in rows if row["shown"]}
        assert shown == left & {row["i"] for row in rows} and shown
    numbers = {points["number"][index] for index in left}
    cells = made.ask("views.get(document.querySelector('[data-figure=stop_map] .chart')).data('cells')")
    assert {cell["number"] for cell in cells} == numbers
    for name in ("stop_map", "optimism"):
        rows = (
            f"[...document.querySelectorAll('[data-table={name}] tbody tr')].map(r => Number(r.cells[0].textContent))"
        )
        found = set(made.ask(rows))
        assert found == numbers if name == "stop_map" else found and found <= numbers
    made.page.keyboard.press("Escape")
    made.wait(f"document.querySelector('.count').textContent === '{count}'")
    assert made.rows() == every and made.ask("document.querySelector('.words-filter').value") == ""


def test_arrow_keys_follow_the_axis_that_is_shown(browser: Any, tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "turned", 60, 12)
    for name in ("operating_points", "front"):  # what needs more FLOPs needs less energy here
        rows = list(rows_of(read_table(folder / "tables", name)))
        write_part(folder / "tables", name, [row | {"energy_joules": 1e7 / row["flops"]} for row in rows])
    assert main(["report", str(folder)]) == 0
    with opened(browser, folder / "report.html") as sheet:
        for cost in ("flops", "energy"):
            sheet.page.locator(f'input[value="{cost}"]').check()
            points = sheet.points()
            seen = []
            sheet.page.locator(FRONT).focus()
            for key in ["ArrowLeft"] * 14 + ["ArrowRight"] * 14:
                sheet.page.keyboard.press(key)
                place = points["number"].index(int(sheet.fixed().removeprefix("Point ")))
                seen.append(points[cost][place])
            assert seen[:14] == sorted(seen[:14], reverse=True) and seen[14:] == sorted(seen[14:])
            assert len(set(seen[14:])) >= 11


def test_the_fronts_of_several_studies_are_seen_near_the_classic_networks_first(
    browser: Any, files: dict[str, Path]
) -> None:
    with opened(browser, files["two"]) as sheet:
        view = "views.get(document.querySelector('#together-together .chart'))"
        near = sheet.ask(f"{view}.scale('y').domain()[0]")
        sheet.page.locator("#together-together .everything").check()
        sheet.wait(f"{view}.scale('y').domain()[0] < {near}")
        sheet.page.locator("#together-together .everything").uncheck()
        sheet.wait(f"{view}.scale('y').domain()[0] === {near}")
        assert sheet.ask("document.querySelectorAll('#together-together figure details tbody tr').length") > 40


def test_the_rule_of_a_point_with_fitted_thresholds_is_shown(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["pack"]) as sheet:
        sheet.page.locator(".words-filter").fill("head_thresholds")
        sheet.page.locator(".points tbody tr").first.click()
        assert "has its own value under From" in sheet.text(".fixed .rule")
        points = sheet.points()
        place = points["number"].index(int(sheet.fixed().removeprefix("Point ")))
        heads = sheet.ask("[...document.querySelectorAll('.fixed .layers th')].map(h => h.textContent)")
        cell = f"cells[{heads.index('From')}].textContent"
        told = sheet.ask(f"[...document.querySelectorAll('.fixed .layers tbody tr')].map(row => row.{cell})")
        assert [one is not None for one in points["rule"][place]["from"]] == [one != "" for one in told[:-1]]
        sheet.page.locator(".words-filter").fill("optimal_stopping")
        sheet.page.locator(".points tbody tr").first.click()
        assert "else stop" in sheet.text(".fixed .layers")


def test_names_made_of_markup_are_inert(browser: Any, tmp_path: Path) -> None:
    folder = fabricate(tmp_path / HOSTILE.replace("/", ""), 60, 30)
    _poison(folder)
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 0
    with opened(browser, tmp_path / "page.html") as sheet:
        assert sheet.ask("window.hit") is None
        assert sheet.ask("document.scripts.length") == 3
        assert sheet.ask("document.querySelectorAll('img, iframe, object').length") == 0
        assert HOSTILE in sheet.text(".points")
        sheet.page.mouse.move(*sheet.place_of(sheet.dearest()))
        sheet.wait("document.querySelector('#vg-tooltip-element.visible')")
        assert sheet.ask("window.hit") is None
        assert sheet.ask("document.querySelectorAll('#vg-tooltip-element img, #vg-tooltip-element script').length") == 0


def _poison(folder: Path) -> None:
    """Put markup into every text that a run folder may bring."""
    tables = folder / "tables"
    for name in ("operating_points", "front"):
        rows = list(rows_of(read_table(tables, name)))
        write_part(tables, name, [row | {"statistic": HOSTILE, "overshoot": HOSTILE} for row in rows])
    trial = next(iter(rows_of(read_table(tables, "trials"))))
    write_part(tables, "trials", [trial | {"error": HOSTILE, "head": HOSTILE, "backbone": HOSTILE}])
    stored = yaml.safe_load((folder / "study.yaml").read_text())
    stored["provenance"]["versions"] = {"tool": HOSTILE}
    (folder / "study.yaml").write_text(yaml.safe_dump(stored))


def test_twenty_thousand_points_stay_usable(browser: Any, tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "large", 20_000, 300)
    assert main(["report", str(folder)]) == 0
    page = folder / "report.html"
    assert page.stat().st_size < 3_000_000
    with opened(browser, page) as sheet:
        assert "of 20\u202f000 points are in this page" in sheet.text("#s0-front")
        count = sheet.text(".count")
        x, y = sheet.place_of(sheet.points()["recommended"].index(1))
        sheet.drag((x - 40, y - 40), (x + 40, y + 40))
        sheet.wait(f"document.querySelector('.count').textContent !== '{count}'", seconds=3)


def test_a_study_without_a_front_opens(browser: Any, tmp_path: Path, finished_study: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(finished_study, folder, ignore=shutil.ignore_patterns("front", "exits", "traces", "checkpoints"))
    assert main(["report", str(folder)]) == 0
    with opened(browser, folder / "report.html") as sheet:
        assert "not finished" in sheet.text(".lead")
        assert sheet.complaints == []
        assert pd.notna(sheet.fixed())
