"""A real browser without a window, for pages that tests have written."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Opened:
    """A page as the browser has built it. complaints: what it wrote to its console."""

    dom: str
    complaints: list[str]

    @property
    def text(self) -> str:
        """What a person reads, tags and scripts left out."""
        without = re.sub(r"<(style|script)\b.*?</\1>", " ", self.dom, flags=re.S)
        return html.unescape(re.sub(r"<[^>]+>", " ", without))


def opened(page: Path, *, budget_ms: int = 20_000) -> Opened:
    """Open a file; the test is skipped, with the reason, where there is no browser."""
    done = browse(page.as_uri(), page.parent / "browser", "--dump-dom", budget_ms=budget_ms)
    return Opened(done.stdout, re.findall(r"^.*CONSOLE.*$", done.stderr, re.M))


def browse(
    address: str, profile: Path, *flags: str, budget_ms: int = 20_000
) -> subprocess.CompletedProcess[str]:
    """Run the browser once."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(BROWSERS)}")
    return subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={profile}", "--enable-logging=stderr"),
            *(f"--virtual-time-budget={budget_ms}", *flags, address),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
