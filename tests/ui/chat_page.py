"""The page as its user sees it."""

from __future__ import annotations

from playwright.sync_api import expect

_SHORT, _LONG = 5_000, 30_000  # ms


class ChatPage:
    """A page in a browser context of its own, with everything it asked for and complained about."""

    def __init__(self, browser, address):
        self._context = browser.new_context(viewport={"width": 1200, "height": 900})
        self.page = self._context.new_page()
        self.requests, self.dialogs, self.problems = [], [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(address)
        expect(self.page.locator(".reges-head p")).to_contain_text("items", timeout=_LONG)
        self.box = self.page.locator("#reges-box textarea")

    def close(self):
        self._context.close()

    def outside(self):
        """Requests that would leave this machine."""
        inside = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:http://127.0.0.1:")
        return [url for url in self.requests if not url.startswith(inside)]

    # -- doing -----------------------------------------------------------------------------------------

    def send(self, text):
        """Send a message and return the text of the finished answer."""
        before = self.page.locator("#reges-chat .bot-row").count()
        self.box.fill(text)
        self.box.press("Enter")
        answer = self.page.locator("#reges-chat .bot-row").nth(before)
        self.finished(answer)
        return answer.locator(".message-content").first.inner_text()

    def picked(self, text):
        """Send a message and return the title of the item that the answer begins with."""
        answer, title = self.send(text), self.titles()[0]
        assert answer.startswith(title)
        return title

    def finished(self, answer):
        """Wait until an answer is complete: the card of its item comes with the first word, the table too."""
        expect(answer.locator(".message-content").first).not_to_have_text("…", timeout=_LONG)
        expect(self.page.locator(".reges-running")).to_have_count(0, timeout=_LONG)
        self.settled()

    def settled(self):
        """Wait until nothing changes any more."""
        self.page.wait_for_function(
            """() => { const now = document.querySelector("#reges-main").innerHTML;
            const same = window.seen === now; window.seen = now; return same; }""",
            polling=250,
            timeout=_LONG,
        )

    def reset(self):
        self.page.get_by_role("button", name="New conversation").click()
        expect(self.page.locator("#reges-chat .bot-row")).to_have_count(0, timeout=_SHORT)

    def choose(self, field, value):
        """Choose an entry of a drop-down."""
        entry = self.page.locator(f"#reges-{field} input")
        entry.click()
        self.page.get_by_role("option", name=value, exact=True).click()
        entry.press("Escape")

    def year(self, field, value):
        self.page.locator(f"#reges-{field} textarea, #reges-{field} input").fill(value)

    # -- seeing ----------------------------------------------------------------------------------------

    def messages(self):
        return self.page.locator("#reges-chat .message-content").all_inner_texts()

    def query(self):
        return self.page.locator(".reges-query").inner_text()

    def ids(self):
        """Ids of the candidates, best first."""
        rows = self.page.locator(".reges-candidates tbody tr")
        return [row.get_attribute("data-id") for row in rows.all()]

    def titles(self):
        cells = self.page.locator(".reges-candidates tbody td:nth-child(2) > bdi")
        return cells.all_inner_texts()

    def shares(self):
        """Probabilities of the candidates in percent, as written."""
        return [float(text.rstrip("%")) for text in self.page.locator(".reges-share").all_inner_texts()]

    def bars(self):
        """Lengths of the bars on the screen, in pixels."""
        return [box.bounding_box()["width"] for box in self.page.locator(".reges-bar").all()]

    def notice(self):
        alert = self.page.get_by_role("alert").filter(has=self.page.locator("p"))
        expect(alert).to_be_visible(timeout=_LONG)
        return alert.inner_text()
