"""The web chat in headless Chromium, served for real."""

import pytest
from playwright.sync_api import expect

from reges_index.dialogue import one_line
from tests.ui.chat_page import ChatPage
from tests.ui.conftest import BOOKS, FILMS, HOSTILE

TITLES = {one_line(item.title) for item in FILMS}


@pytest.fixture
def open_page(browser, address, outside):
    """Open pages of users who know nothing of each other; none of them may have asked another host."""
    opened = []

    def open_one():
        opened.append(ChatPage(browser, address))
        return opened[-1]

    yield open_one
    for chat in opened:
        chat.close()
        assert chat.requests
        assert chat.outside() == []
        assert chat.dialogs == []
    assert outside.seen == []


@pytest.fixture
def chat(open_page):
    return open_page()


def test_a_message_gets_an_item_with_query_and_candidates(chat):
    answer = chat.send("A space film with a slow story, please.")
    title = chat.titles()[0]
    assert answer.startswith(title)
    assert title in TITLES
    assert chat.messages() == ["A space film with a slow story, please.", answer]
    picked = next(item for item in FILMS if item.title == title)
    assert str(picked.year) in chat.page.locator("#reges-chat .reges-card").inner_text()
    assert chat.query()
    assert sorted(chat.ids()) == sorted(item.id for item in FILMS)
    shares, bars = chat.shares(), chat.bars()
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=1)
    assert bars == sorted(bars, reverse=True)
    assert bars[-1] / bars[0] == pytest.approx(shares[-1] / shares[0], abs=0.05)
    assert chat.box.input_value() == ""
    assert chat.problems == []


def test_an_offered_message_is_sent(chat):
    chat.page.get_by_text("Surprise me with").click()
    answer = chat.page.locator("#reges-chat .bot-row").first
    expect(answer).to_be_visible()
    chat.finished(answer)
    assert chat.messages()[0].startswith("Surprise me with")
    assert chat.messages()[1].startswith(chat.titles()[0])


def test_small_talk_gets_no_item(chat):
    assert chat.send("hello there") not in TITLES
    assert chat.page.locator(".reges-card").count() == 0
    assert chat.ids() == []
    assert chat.picked("A film about a robot") in TITLES


def test_filters_hold(chat):
    genre = FILMS[0].genres[0]
    years = sorted(item.year for item in FILMS if item.year and genre in item.genres)
    chat.choose("genres", genre)
    chat.send("Anything, surprise me")
    assert set(chat.ids()) == {item.id for item in FILMS if genre in item.genres}
    chat.year("from", str(years[1]))
    chat.send("Another one")
    allowed = {item.id for item in FILMS if genre in item.genres and (item.year or 0) >= years[1]}
    assert set(chat.ids()) < allowed  # without the one that was recommended before
    assert chat.ids()
    chat.year("to", str(years[1] - 1))
    chat.box.fill("And now?")
    chat.box.press("Enter")
    assert f"no year is from {years[1]} to {years[1] - 1}" in chat.notice()
    chat.year("to", "soon")
    chat.box.press("Enter")
    expect(chat.page.get_by_role("alert")).to_contain_text("'soon' is no year")
    assert chat.box.input_value() == "And now?"
    assert len(chat.messages()) == 4
    chat.year("from", "3000")
    chat.year("to", "")
    assert "no candidate is left" in chat.send("And now?")
    assert chat.page.get_by_role("alert").count() == 0
    assert "None is left" in chat.page.locator("#reges-candidates").inner_text()


def test_a_phone_shows_the_filters_when_asked(chat):
    chat.page.set_viewport_size({"width": 400, "height": 860})
    filters, button = chat.page.locator("#reges-filters"), chat.page.get_by_role("button", name="Filters")
    expect(filters).to_be_hidden()
    expect(chat.box).to_be_in_viewport(ratio=1)
    button.click()
    expect(filters).to_be_visible()
    expect(button).to_have_attribute("aria-expanded", "true")
    chat.year("from", "soon")
    button.click()
    expect(filters).to_be_hidden()
    expect(button).to_have_attribute("aria-expanded", "false")
    chat.box.fill("A space film")
    chat.box.press("Enter")
    assert "'soon' is no year" in chat.notice()
    assert chat.page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("size", [(1200, 880), (400, 860)])
def test_a_notice_pushes_nothing_out_of_sight(chat, size):
    chat.page.set_viewport_size({"width": size[0], "height": size[1]})
    before = chat.box.bounding_box()["y"]
    chat.box.press("Enter")
    assert "the message is empty" in chat.notice()
    assert chat.box.bounding_box()["y"] == pytest.approx(before, abs=4)
    expect(chat.box).to_be_in_viewport(ratio=1)


def test_what_was_named_is_left_out_or_not(chat):
    named = FILMS[0]
    chat.send(f"I have seen {named.title}, what else is there?")
    assert named.id not in chat.ids()
    chat.reset()
    chat.page.get_by_label("Leave out what was named").uncheck()
    chat.send(f"I have seen {named.title}, what else is there?")
    assert named.id in chat.ids()


def test_reset_forgets(chat):
    first = chat.send("A space film")
    second = chat.send("Another one")
    assert first != second
    chat.reset()
    assert chat.messages() == []
    assert chat.ids() == []
    assert chat.page.locator(".reges-query").count() == 0
    assert chat.send("A space film") == first


def test_two_users_never_see_one_another(open_page):
    one, other = open_page(), open_page()
    first = one.send("A space film")
    assert other.messages() == []
    # Had it the memory of the first page, this item would be barred.
    assert other.send("A space film") == first
    second = one.send("Another one")
    assert second != first
    assert other.messages() == ["A space film", first]
    one.reset()
    assert other.send("Another one") == second
    assert one.messages() == []


def test_hostile_texts_are_only_texts(chat):
    # Other words than the first item's title has, which would name it.
    message = "<img onerror='top.hacked = 7' src=x> **bold** <script>window.hacked = 8</script> ${1 + 1}"
    chat.choose("genres", "Odd")
    picked = [chat.picked(text) for text in (message, "Another one", "One more")]
    assert set(picked) == {item.title for item in HOSTILE}
    assert chat.messages()[0] == message
    assert "<i>Slanted</i>" in chat.page.locator("#reges-chat").inner_text()
    assert "${window.hacked = 4} {{title}} **bold** $$x$$" in chat.page.locator("#reges-chat").inner_text()
    chat.reset()
    chat.send(message)
    assert sorted(chat.titles()) == sorted(item.title for item in HOSTILE)
    assert sorted(chat.ids()) == sorted(item.id for item in HOSTILE)
    assert chat.page.evaluate("window.hacked") is None
    assert chat.page.locator("#reges-main img, #reges-main script, #reges-main b, #reges-main i").count() == 0
    assert chat.page.locator("#reges-box").is_visible()


def test_another_catalog_starts_a_new_conversation(chat):
    chat.send("A space film")
    chat.choose("genres", FILMS[0].genres[0])
    chat.choose("catalog", "books")
    expect(chat.page.locator(".reges-head p")).to_contain_text(f"books: {len(BOOKS)} items")
    expect(chat.page.locator("#reges-chat .bot-row")).to_have_count(0)
    assert chat.picked("A long story") in {book.title for book in BOOKS}
    assert set(chat.ids()) == {book.id for book in BOOKS}


def test_an_error_is_shown_and_the_session_goes_on(chat):
    chat.choose("catalog", "broken")
    expect(chat.page.locator(".reges-head p")).to_contain_text("broken: 2 items")
    chat.box.fill("A long story")
    chat.box.press("Enter")
    assert "/nowhere/at/all" in chat.notice()
    assert chat.box.input_value() == "A long story"
    assert chat.messages() == []
    chat.choose("catalog", "films")
    expect(chat.page.locator(".reges-head p")).to_contain_text("films")
    assert chat.picked("A long story") in TITLES


def test_the_page_cannot_reach_other_hosts(chat):
    asked = "fetch('http://192.0.2.1/').then(() => 'reached', error => 'kept inside')"
    assert chat.page.evaluate(asked) == "kept inside"
    # Chromium reports a request that the policy stopped; it never left.
    assert chat.requests.pop() == "http://192.0.2.1/" or chat.outside() == []
