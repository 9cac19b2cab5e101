"""Make the pictures of the web chat, wide and on a phone: the real page, the demo films, the embedded models.

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

HERE = Path(__file__).parent
# Name, width and height of each picture, and whether its screen is touched.
PICTURES = (("web-chat.png", 1200, 880, False), ("web-chat-phone.png", 400, 860, True))
DIALOGUE = (
    "We loved Se7en and Zodiac. A really tense thriller for Friday night?",
    "Seen it, sorry. And no horror, please.",
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
MINUTE = 60_000  # ms


def main() -> None:
    """Index, serve, chat, photograph."""
    chromium = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium")
    reges = [sys.executable, "-m", "reges_index.cli"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [*reges, "index", "demo:films", "--store", folder, "--name", "films", "-q"], check=True
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
                for name, width, height, is_phone in PICTURES:
                    size = {"width": width, "height": height}
                    page = browser.new_page(viewport=size, is_mobile=is_phone, has_touch=is_phone)
                    page.goto(address)
                    talk(page)
                    page.screenshot(path=HERE / name)
                    page.close()
                browser.close()
            finally:
                server.terminate()


def talk(page: Page) -> None:
    """Hold the dialogue."""
    expect(page.locator(".reges-head p")).to_contain_text("films", timeout=MINUTE)
    for number, message in enumerate(DIALOGUE, 1):
        page.locator("#reges-box textarea").fill(message)
        page.locator("#reges-box textarea").press("Enter")
        expect(page.locator("#reges-chat .reges-card")).to_have_count(number, timeout=2 * MINUTE)
        expect(page.locator(".reges-running")).to_have_count(0, timeout=2 * MINUTE)
    page.wait_for_timeout(1500)  # for the last words and the fonts


if __name__ == "__main__":
    main()
