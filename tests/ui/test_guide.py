"""The guide to the web chat does what it says."""

from tests.pages import run_page


def test_the_page_in_an_app():
    assert run_page("guides/web-chat.md", {"__name__": "guide"})
