"""The report in a real browser: nothing is requested, nothing hostile runs, slider and axis switch work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fabula.report.run import run
from tests.report.a_run import make

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium was found")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(make(tmp_path_factory.mktemp("run"), records=200, hostile=True))


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page with everything it asked for and everything that went wrong."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(page_file.as_uri())
    yield page
    assert [r for r in requests if not r.startswith("data:")] == [page_file.as_uri()]
    assert errors == []
    assert page.evaluate("window.owned") is None
    page.close()


def test_the_axis_can_be_switched(page: Any) -> None:
    assert page.locator(".plot.tall:visible").count() == 1
    assert page.locator(".plot.tall.over-time").is_visible()
    page.locator("#axis-time").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".plot.tall.over-tokens").is_visible()
    assert not page.locator(".plot.tall.over-time").is_visible()
    assert page.locator(".plot.low.over-tokens:visible").count() == 3
    page.get_by_text("steps", exact=True).first.click()
    assert page.locator(".plot.tall.over-steps").is_visible()


def test_the_slider_shows_one_checkpoint_at_a_time(page: Any) -> None:
    shown = page.locator(".moments details:visible")
    assert shown.count() == 1
    assert "saltó sobre la piedra" in shown.inner_text()
    page.locator("#moment").focus()
    page.keyboard.press("Home")
    assert shown.count() == 1
    assert "l la la el de" in shown.inner_text()
    assert page.locator(".slider output").inner_text().startswith("Step 125")


def test_values_are_read_with_the_mouse_and_with_the_keyboard(page: Any) -> None:
    said = page.locator("[data-readout=loss]")
    plot = page.locator(".plot.tall.over-time")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".chart").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    assert said.inner_text().startswith("step 4")
    page.mouse.move(1, 1)
    page.keyboard.press("Tab")
    plot.focus()
    page.keyboard.press("Home")
    assert said.inner_text().startswith("step 5 ")
    page.keyboard.press("End")
    assert said.inner_text().startswith("step 1,000 ")
    assert plot.get_attribute("aria-valuetext") == said.inner_text()


def test_nothing_is_wider_than_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_it_can_be_read_without_its_script(browser: Any, page_file: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(page_file.as_uri())
    assert page.locator(".moments summary:visible").count() == 8
    page.locator(".moments summary").first.click()
    assert page.get_by_text("l la la el de").is_visible()
    assert page.locator(".plot.tall:visible").count() == 1
    page.locator("label", has=page.locator("#axis-steps")).click()
    assert page.locator(".plot.tall.over-steps").is_visible()
    page.context.close()
