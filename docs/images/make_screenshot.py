"""Make docs/images/web-chat.png: the real page, the demo films, the embedded models.

    python docs/images/make_screenshot.py [CHROMIUM]

Needs the extras ``embedded`` and ``ui``, playwright, and a Chromium (by default the one on the path).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

TARGET = Path(__file__).with_name("web-chat.png")
DIALOGUE = (
    "Hi! I loved Alien and Gravity. Something tense in space?",
    "I know that one. Something newer, please.",
)
GENRE, YEAR_FROM = "science fiction", "2000"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
MINUTE = 60_000  # ms


def main() -> None:
    """Index, serve, chat, photograph."""
    chromium = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium")
    reges = [sys.executable, "-m", "reges_index.cli"]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("films", "books"):
            subprocess.run(
                [*reges, "index", f"demo:{name}", "--store", folder, "--name", name, "-q"], check=True
            )
        command = [*reges, "ui", "--store", folder, "--name", "films", "--port", "0"]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
            sync_playwright() as driver,
        ):
            assert server.stdout is not None
            try:
                address = server.stdout.readline().split()[0]
                browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                page.goto(address)
                talk(page)
                page.screenshot(path=TARGET)
                browser.close()
            finally:
                server.terminate()


def talk(page: Page) -> None:
    """Hold the dialogue; the filters hold from the second message on."""
    expect(page.locator(".reges-head p")).to_contain_text("films", timeout=MINUTE)
    for number, message in enumerate(DIALOGUE, 1):
        if number == 2:
            page.locator("#reges-genres input").click()
            page.get_by_role("option", name=GENRE, exact=True).click()
            page.keyboard.press("Escape")
            page.locator("#reges-from textarea, #reges-from input").fill(YEAR_FROM)
        page.locator("#reges-box textarea").fill(message)
        page.locator("#reges-box textarea").press("Enter")
        expect(page.locator("#reges-chat .reges-card")).to_have_count(number, timeout=2 * MINUTE)
    page.wait_for_timeout(1500)  # for the last words and the fonts


if __name__ == "__main__":
    main()
