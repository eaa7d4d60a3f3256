"""The page of a running study in a real browser. Without Chromium these tests are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.browser import CHROMIUM, FRONT, opened
from support.growing_study import POINTS, GrowingStudy
from support.live import served

from study.report import live_study
from study.storage.locks import exclusive
from study.storage.strict_json import dumps

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
PATIENCE = 90
"""Seconds for a page that is made on a busy machine."""
HOSTILE = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_study, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(live_study, "REST", 0.0)


def test_the_page_of_a_running_study_refreshes_by_itself(browser: Any, tmp_path: Path) -> None:
    growing = GrowingStudy(tmp_path)
    (growing.folder / "failures.json").write_text(dumps({"a" * 12: {"error": HOSTILE, "mode": "exits"}}))
    with (
        exclusive(growing.folder / ".lock", "a test"),
        served(growing.folder) as server,
        opened(browser, server.address) as sheet,
    ):
        says = "document.querySelector('.live').textContent.includes({!r})".format
        sheet.wait(says("Running: training backbones on digits."))
        assert HOSTILE in sheet.text(".troubles")
        assert sheet.text(".coming").startswith("There is nothing to plot yet.")
        assert sheet.ask("document.querySelectorAll('article').length") == 0
        growing.train()
        growing.search(0, 15)
        sheet.wait("document.querySelector('.count')?.textContent.startsWith('15 points')", PATIENCE)
        assert sheet.text(".live dl").split("\n")[-3:-2] == [f"15 of {POINTS}"]
        assert sheet.ask("document.querySelector('.live progress').value") == 15 / POINTS
        sheet.wait(f"document.querySelector('{FRONT}').querySelector('canvas')")

        # What the reader has set stays: colours, cost, a fixed point, an open table, a sorted table, scroll, focus.
        sheet.page.locator("button.theme").click()
        dark = sheet.ask("document.documentElement.className")
        sheet.page.locator('input[value="energy"]').check()
        sheet.page.locator(".points th button", has_text="Policy").click()
        sheet.page.locator(".points tbody tr").nth(3).click()
        sheet.page.locator("#s0-provenance summary").first.click()
        sheet.page.locator("#s0-provenance table th button").nth(1).click()
        fixed, place = sheet.fixed(), sheet.ask("scrollY")
        growing.search(15, POINTS)
        growing.finish()
        sheet.wait(f"document.querySelector('.count').textContent.startsWith('{POINTS} points')", PATIENCE)
        assert sheet.ask("document.documentElement.className") == dark
        assert sheet.page.locator('input[value="energy"]').is_checked()
        assert sheet.ask("document.querySelector('.points th[data-key=policy]').ariaSort") == "ascending"
        assert sheet.fixed() == fixed
        assert sheet.ask("document.querySelector('#s0-provenance details').open")
        assert sheet.page.locator("#s0-provenance table th").nth(1).get_attribute("aria-sort") == "ascending"
        assert place > 0 and abs(sheet.ask("scrollY") - place) < 400
        assert sheet.ask("document.activeElement.textContent") == "Value"
        sheet.wait("[...document.querySelectorAll('.chart')].every(c => c.querySelector('canvas, svg'))")
        assert sheet.text(".first h2").startswith("Take point")
        assert sheet.ask("window.hit") is None
        assert {one for one in sheet.requests if not one.startswith(server.address)} <= {"data:,"}
        assert sheet.complaints == []


def test_a_selection_is_not_taken_away(browser: Any, tmp_path: Path) -> None:
    growing = GrowingStudy(tmp_path)
    growing.train()
    growing.search(0, 20)
    with served(growing.folder) as server, opened(browser, server.address) as sheet:
        sheet.wait(f"document.querySelector('{FRONT}')?.querySelector('canvas')")
        accuracies = sheet.points()["accuracy"]
        x, y = sheet.place_of(accuracies.index(max(accuracies)))
        sheet.drag((x - 30, y - 30), (x + 30, y + 30))
        sheet.wait("document.querySelector('.count').textContent.includes(' of 20 points')")
        growing.search(20, POINTS)
        sheet.wait("!document.querySelector('.fresh').hidden")
        assert " of 20 points" in sheet.text(".count")
        sheet.page.locator(".fresh").click()
        sheet.wait(f"document.querySelector('.count').textContent.startsWith('{POINTS} points')", PATIENCE)
        assert not sheet.page.locator(".fresh").is_visible()


def test_a_moved_folder_and_the_end_of_the_server_are_told(browser: Any, tmp_path: Path) -> None:
    growing = GrowingStudy(tmp_path)
    growing.train()
    problem = "(document.querySelector('.troubles').textContent.includes('is not there'))"
    with (
        served(growing.folder) as server,
        opened(browser, server.address, viewport={"width": 390, "height": 800}) as sheet,
    ):
        sheet.wait("document.querySelector('.now').textContent.startsWith('Not running')")
        assert sheet.overflow() <= 0
        away = growing.folder.rename(tmp_path / "away")
        sheet.wait(problem)
        assert sheet.ask("document.querySelectorAll('article').length") == 1
        away.rename(growing.folder)
        sheet.wait(f"!{problem}")
        server.shutdown()
        server.server_close()
        sheet.wait("document.querySelector('.now').textContent.includes('has ended')")
        assert sheet.ask("document.querySelectorAll('article').length") == 1
