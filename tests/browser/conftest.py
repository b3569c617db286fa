"""A real server with rows in its database, and a real browser that looks at its pages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from handcar.simulation.stage import Stage

ROWS = Path(__file__).parent / "rows.py"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
LISTEN = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""


class Site:
    """A server that serves, and a way to change its rows."""

    def __init__(self, stage: Stage) -> None:
        self.url = stage.url
        self._home = stage.folder / "server"

    def make(self, *what: str) -> None:
        """Make rows in the database; `rows.py` says which."""
        command = [sys.executable, str(ROWS), str(self._home), *what]
        subprocess.run(command, check=True, timeout=60)


class Look:
    """A page that is open, and everything that went wrong while it was."""

    def __init__(self, page: Any, site: Site) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", lambda request: self._asked(request.url, site.url))

    def violations(self) -> list[str]:
        return [f"CSP: {text}" for text in self.page.evaluate("window.violations ?? []")]

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def _asked(self, url: str, home: str) -> None:
        if not url.startswith(f"{home}/"):
            self.faults.append(f"asked for {url}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Stage(tmp_path_factory.mktemp("site")) as stage:
        stage.serve()
        site = Site(stage)
        site.make("models", "hostile")
        yield site


# Of the module, not of the session: while Playwright is open, a loop runs in this thread,
# and Django refuses to touch a database.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: `apt install chromium`, or another way to have it in PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield browser
        browser.close()


Opener = Callable[..., AbstractContextManager[Look]]


@pytest.fixture
def look(browser: Any, site: Site) -> Opener:
    """Open `path`; nothing may go wrong while it is open."""

    @contextmanager
    def open_page(path: str, *, width: int = 1100, **options: Any) -> Iterator[Look]:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        try:
            context.add_init_script(LISTEN)
            look = Look(context.new_page(), site)
            look.page.goto(site.url + path, wait_until="load")
            yield look
            if options.get("java_script_enabled", True):
                look.faults += look.violations()
            assert look.faults == []
        finally:
            context.close()

    return open_page
