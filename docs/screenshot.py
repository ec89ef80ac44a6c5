"""Draws docs/report.png from a run's report, with headless Chromium.

python docs/screenshot.py outputs/<sweep>/<time>/report.html
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def main(page: Path, out: Path = Path(__file__).parent / "report.png") -> None:
    """The top of the page, as wide as a laptop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1240, "height": 1480})
        tab.goto(page.resolve().as_uri())
        tab.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
