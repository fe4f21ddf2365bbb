# SPDX-License-Identifier: MIT
"""A real browser without a window: Debian's Chromium, driven by playwright, with a profile of its own.

Covers: pages of files, and what they did wrong: messages on the console, errors, requests to anywhere.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, Page, sync_playwright

# As root there is no sandbox; the others keep a browser from calling home.
_SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = (1280, 900), (390, 844)


class NoBrowser(Exception):
    """No browser can be started here; the text says why."""


@dataclass
class Opened:
    """A page, and what it did that it should not."""

    page: Page
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def tell(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.page.evaluate(expression)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser. Raises NoBrowser where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise NoBrowser("no chromium here; scripts/setup installs it as root")
    with sync_playwright() as playwright:
        try:
            # Each start has a new profile below the temporary directory, which goes with it.
            found = playwright.chromium.launch(executable_path=program, args=_SWITCHES)
        except Error as error:
            raise NoBrowser(f"{program} does not start: {error.message.splitlines()[0]}") from None
        try:
            yield found
        finally:
            found.close()


@contextlib.contextmanager
def opened(
    browser: Browser, path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light", has_script: bool = True
) -> Iterator[Opened]:
    """The page of a file in a window of this size, in a fresh profile."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        java_script_enabled=has_script,
    )
    try:
        found = Opened(context.new_page())
        found.page.on("console", lambda message: found.faults.append(f"{message.type}: {message.text}"))
        found.page.on("pageerror", lambda error: found.faults.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(path.as_uri())
        yield found
    finally:
        context.close()
