"""What a person sees, in a real browser, of a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rows import HOSTILE, MODEL, VERSIONS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

PAGE = f"/models/{MODEL}/"
AXE = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js"
PAINTED = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let painted = 0;
  for (let at = 3; at < data.length; at += 4) painted += data[at] > 0;
  return painted;
}"""


def figure(page: Any, name: str) -> str:
    """What stands under a heading of the row of figures."""
    return page.locator(".figures div", has_text=name).locator("dd").first.inner_text()


def rows_of(page: Any, heading: str) -> Any:
    return page.get_by_role("group", name=heading, exact=True).locator("tbody tr")


def test_the_first_page_says_what_there_is_and_how_to_join(look, site):
    with look("/") as seen:
        page = seen.page
        assert figure(page, "Machines training now") == "6"
        assert figure(page, "Models") == "5"
        assert page.locator(".command").inner_text() == f"handcar join {site.url}"
        names = page.locator(".card h3 a").all_inner_texts()
        assert names == [MODEL, "bird-song", "on-hold", "first-try", "too-large"]
        states = page.locator(".card .state").all_inner_texts()
        assert states == ["training", "waiting for volunteers", "paused", "finished", "failed"]
        page.get_by_role("link", name=MODEL).click()
        assert page.get_by_role("heading", level=1).inner_text().startswith(MODEL)


def test_a_model_shows_its_figures_people_versions_and_data(look):
    with look(PAGE) as seen:
        page = seen.page
        assert figure(page, "Machines now") == "5"
        assert figure(page, "Version") == f"{VERSIONS}"
        assert figure(page, "Sent by volunteers") == "26.6 MB"
        assert "quiet-otter" in rows_of(page, "Training now").nth(0).inner_text()
        assert rows_of(page, "Training now").count() == 5
        assert rows_of(page, "Who helped").nth(0).inner_text().split()[:2] == ["1", "old-imac"]
        assert rows_of(page, "Versions").count() == 15
        assert "CC BY-SA 3.0" in page.get_by_role("main").inner_text()
        page.get_by_role("link", name="Show older versions too").click()
        rows_of(page, "Versions").nth(VERSIONS).wait_for()  # the click may return before the page
        assert rows_of(page, "Versions").count() == VERSIONS + 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_curves_are_drawn(look, scheme, tmp_path):
    with look(PAGE, color_scheme=scheme) as seen:
        page = seen.page
        page.locator("#accuracy canvas").wait_for()
        for name in ("loss", "accuracy"):
            canvas = page.locator(f"#{name} canvas")
            assert canvas.evaluate(PAINTED) > 5_000
        page.screenshot(path=str(tmp_path / f"{scheme}.png"), full_page=True)


def test_the_pointer_on_a_curve_tells_the_point_in_words(look):
    with look(PAGE) as seen:
        page = seen.page
        readout = page.locator("#loss .readout")
        assert readout.inner_text().startswith(f"version {VERSIONS}: 0.1")
        page.locator("#loss .u-over").hover(position={"x": 2, "y": 40})
        page.locator("#loss .readout", has_text="version 0: 2.").wait_for()
        assert readout.inner_text().endswith("after 0 records")


def test_colours_follow_when_the_system_turns_dark(look):
    with look(PAGE, color_scheme="light") as seen:
        page = seen.page
        page.locator("#loss canvas").wait_for()
        page.evaluate("document.querySelector('#loss canvas').dataset.old = 'yes'")
        page.emulate_media(color_scheme="dark")
        page.locator("#loss canvas:not([data-old])").wait_for()


def test_without_javascript_everything_is_there_as_text(look):
    with look(PAGE, java_script_enabled=False) as seen:
        page = seen.page
        assert page.locator(".command").inner_text().endswith(f"--model {MODEL}")
        assert not page.get_by_role("button", name="Copy").is_visible()
        assert not page.locator("#loss .chart").is_visible()
        page.get_by_text("Loss as a table").click()
        assert page.locator("#loss tbody tr").count() == 12
        assert page.locator("#loss tbody").is_visible()


def test_texts_of_strangers_stay_text(look):
    with look("/models/on-hold/") as seen:
        page = seen.page
        assert page.title().startswith("on-hold")
        assert page.locator(".lead").inner_text() == HOSTILE
        assert HOSTILE in rows_of(page, "Training now").nth(0).inner_text()
        assert page.locator("main b").count() == 0
        assert "paused" in page.locator(".notice:visible").inner_text()


def test_copy_puts_the_command_on_the_clipboard(look, site):
    with look("/", permissions=["clipboard-read", "clipboard-write"]) as seen:
        page = seen.page
        page.get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == f"handcar join {site.url}"


@pytest.mark.parametrize("path", ["/", PAGE, "/models/too-large/", "/models/nobody/"])
def test_a_phone_never_scrolls_sideways(look, path):
    with look(path, width=360) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 360
        seen.faults = [fault for fault in seen.faults if "404" not in fault]


@pytest.mark.parametrize(
    ("path", "scheme"),
    [("/", "light"), ("/", "dark"), (PAGE, "light"), (PAGE, "dark"), ("/models/on-hold/", "dark")],
)
def test_nothing_is_in_the_way_of_a_screen_reader(look, path, scheme):
    with look(path, color_scheme=scheme, width=390) as seen:
        page = seen.page
        for summary in page.locator("summary").all():
            summary.click()
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run()")["violations"]
        where = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
        assert where == []


def test_a_server_that_fails_leaves_the_page_as_it_was(look):
    with look(PAGE) as seen:
        page = seen.page
        assert not page.locator("#stale").is_visible()
        page.route("**/models/**", lambda route: route.fulfill(status=500, body="<p>oops</p>"))
        page.locator(".live").dispatch_event("every")
        page.locator("#stale").wait_for()
        assert figure(page, "Version") == f"{VERSIONS}"
        page.unroute("**/models/**")
        page.locator(".live").dispatch_event("every")
        page.locator("#stale").wait_for(state="hidden")
        seen.faults = [fault for fault in seen.faults if "500" not in fault]


# Last: it changes what the others expect.
def test_a_new_version_appears_by_itself(look, site):
    with look(PAGE) as seen:
        page = seen.page
        page.get_by_text("Loss as a table").click()
        page.locator("#loss canvas").evaluate("canvas => { canvas.dataset.mine = 'yes' }")
        site.make("version")
        page.locator("#versions tbody th", has_text=f"{VERSIONS + 1}").wait_for(timeout=15_000)
        # The curve is drawn once the whole page is swapped: its words come last.
        page.locator("#loss .readout", has_text=f"version {VERSIONS + 1}:").wait_for()
        assert figure(page, "Version") == f"{VERSIONS + 1}"
        assert page.locator("#loss canvas[data-mine]").count() == 1
        assert page.locator("#loss tbody").is_visible()
