"""Sessions and the page's events, without a browser."""

import asyncio
import logging

import pytest

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.dialogue.wording import Domain
from reges_index.errors import ConfigError, InputError
from reges_index.ui import Choices, Facets, build_ui
from reges_index.ui.session import Sessions
from reges_index.ui.shelf import Shelf
from reges_index.ui.turns import Turns
from tests.builders import item
from tests.ui.conftest import BOOKS, FILMS, engine_factory

FILM = Choices("films")


@pytest.fixture
def shelf(catalogs, tiny):
    return Shelf(engine_factory(tiny), catalogs, small_talk=False)


@pytest.fixture
def sessions(shelf):
    return Sessions(shelf)


@pytest.fixture
def turns(shelf, sessions):
    return Turns(shelf, sessions, title="ReGeS", top_k=3)


async def last(answer):
    """Read an answer to its end."""
    exchange = None
    async for exchange in answer:  # noqa: B007
        pass
    return exchange


async def test_an_answer_grows_and_is_kept(sessions):
    session = sessions.of("a")
    seen = [exchange async for exchange in session.answer("A space film", FILM)]
    final = seen[-1]
    assert [len(e.answer) for e in seen] == sorted(len(e.answer) for e in seen)
    assert all(final.answer.startswith(e.answer) for e in seen)
    assert final.answer.startswith(final.found.item.title)
    assert session.exchanges == [final]
    assert await last(session.answer("Another one", FILM)) != final
    assert len(session.exchanges) == 2


async def test_sessions_are_apart_and_the_oldest_is_forgotten(shelf):
    sessions = Sessions(shelf, capacity=2)
    first = await last(sessions.of("a").answer("A space film", FILM))
    assert sessions.of("b").exchanges == []
    assert (await last(sessions.of("b").answer("A space film", FILM))).answer == first.answer
    assert sessions.of("a").exchanges == [first]  # and is now the younger of the two
    sessions.of("c")
    assert len(sessions) == 2
    assert sessions.of("a").exchanges == [first]
    assert sessions.of("b").exchanges == []


async def test_turns_at_the_same_time_keep_their_filters(sessions):
    genre = FILMS[0].genres[0]
    wanted = [Choices("films", genres=(genre,)), Choices("films", genres=("Odd",)), FILM] * 2
    session = sessions.of("a")
    found = await asyncio.gather(*(last(session.answer(f"One of {n}", c)) for n, c in enumerate(wanted)))
    for choices, exchange in zip(wanted, found, strict=True):
        for candidate in exchange.found.candidates:
            assert not choices.genres or set(choices.genres) & set(candidate.item.genres)
    assert len({exchange.found.item.id for exchange in found}) == len(wanted)


async def test_a_turn_that_is_left_after_its_first_word_stays_in_page_and_memory(sessions):
    session = sessions.of("a")
    answer = session.answer("A space film", FILM)
    exchange = await anext(answer)
    await answer.aclose()
    assert session.exchanges == [exchange]
    assert (await last(session.answer("A space film", FILM))).found.item != exchange.found.item


async def test_a_reset_meanwhile_hides_the_turn(sessions):
    session = sessions.of("a")
    answer = session.answer("A space film", FILM)
    shown = await anext(answer)
    session.reset()
    await last(answer)
    assert session.exchanges == []
    assert (await last(session.answer("A space film", FILM))).found.item == shown.found.item


async def test_a_failed_turn_leaves_the_conversation_as_it_was(sessions):
    session = sessions.of("a")
    before = await last(session.answer("A space film", FILM))
    with pytest.raises(InputError):
        await last(session.answer("  ", FILM))
    with pytest.raises(InputError, match="no catalog 'music'"):
        await last(session.answer("A song", Choices("music")))
    assert session.exchanges == [before]
    assert (await last(session.answer("A space film", FILM))).found.item != before.found.item


# -- the page's events -------------------------------------------------------------------------------------


class Request:
    """What Gradio says of who asks."""

    def __init__(self, session_hash="a"):
        self.session_hash = session_hash


def send(turns, message, *, catalog="films", genres=(), years=("", ""), request=None):
    return turns.send(message, catalog, genres, *years, True, request or Request())


async def test_panels_of_a_turn(turns):
    panels = [panels async for panels in send(turns, "A space film")]
    assert [m["content"] for m in panels[0].chat] == ["A space film", ["…"]]
    assert panels[0].box == ""
    assert panels[-1].box != ""  # not touched: the next message may be in it
    assert panels[-1].candidates.count("<tr data-id=") == 3
    assert f"the first 3 of {len(FILMS)} candidates" in panels[-1].candidates
    assert "Answering" in panels[0].status
    assert "Answering" not in panels[-1].status
    empty = turns.reset(Request())
    assert empty.chat == []
    assert "<tr data-id=" not in empty.candidates


async def test_a_second_message_waits_and_is_not_lost(turns):
    running = send(turns, "A space film")
    await anext(running)
    await anext(running)
    [busy] = [panels async for panels in send(turns, "An old one")]
    assert "still being answered" in busy.notice["value"]
    assert busy.box == "An old one"
    assert "still being answered" in turns.undo(Request()).notice["value"]
    *_, end = [panels async for panels in running]
    assert end.chat[0]["content"] == "A space film"
    *_, end = [panels async for panels in send(turns, busy.box)]
    assert [m["content"] for m in end.chat if m["role"] == "user"] == ["A space film", "An old one"]


async def test_undo_takes_the_last_turn_back(turns):
    *_, first = [panels async for panels in send(turns, "A space film")]
    *_, second = [panels async for panels in send(turns, "An old one")]
    back = turns.undo(Request())
    assert back.box == "An old one"
    assert [m["content"] for m in back.chat if m["role"] == "user"] == ["A space film"]
    assert back.candidates == first.candidates
    *_, again = [panels async for panels in send(turns, back.box)]
    assert again.candidates == second.candidates  # what had been recommended may be again
    turns.undo(Request())
    turns.undo(Request())
    assert turns.undo(Request()).chat == []


def test_an_empty_chat_speaks_the_catalog_s_words(shelf, sessions):
    offers = Turns(shelf, sessions, title="ReGeS", top_k=3).facets("books")[-1]["examples"]
    said = " ".join(offer["text"] for offer in offers)
    assert BOOKS[0].genres[0] in said or BOOKS[0].title in said
    assert "film" not in said
    assert "movie" not in said
    facets = Facets.of([item("1", "Nordlys Desk Lamp", None, genres=["lamp"])])
    assert "Surprise me with an unusual product." in facets.examples(Domain("product"))
    assert Facets.of([]).examples() == ("Surprise me with something unusual.",)
    own = Turns(shelf, sessions, title="ReGeS", top_k=3, examples=["Mine"])
    assert own.facets("books")[-1]["examples"] == [{"text": "Mine"}]


async def test_unforeseen_errors_are_told_without_what_they_say(catalogs, caplog):
    def ask(key):
        raise ValueError(f"{key} is wrong")

    def make(catalog):
        try:
            ask("sk-12345")
        except ValueError as error:
            raise RuntimeError("the key sk-12345 is wrong") from error

    shelf = Shelf(make, catalogs)
    turns = Turns(shelf, Sessions(shelf), title="ReGeS", top_k=3)
    with caplog.at_level(logging.ERROR):
        panels = [panels async for panels in send(turns, "A space film")]
    assert panels[-1].chat == []
    assert panels[-1].box == "A space film"
    assert "RuntimeError" in panels[-1].notice["value"]
    assert "sk-12345" not in str(panels)
    assert "sk-12345" not in caplog.text  # nor on the log, where keys are read by more people than know them
    assert "RuntimeError\n" in caplog.text
    assert "ValueError\n" in caplog.text
    assert f"{__file__}:" in caplog.text
    assert " in ask" in caplog.text


@pytest.mark.parametrize(
    ("message", "years", "said"),
    [
        (" ", ("", ""), "empty"),
        ("x", ("late", ""), "'late' is no year"),
        ("x", ("", "19.5"), "is no year"),
        ("x", ("2000", "1990"), "no year is from 2000 to 1990"),
    ],
)
async def test_what_cannot_be_is_said(turns, message, years, said):
    [panels] = [panels async for panels in send(turns, message, years=years)]
    assert said in panels.notice["value"].replace("&#x27;", "'")
    assert panels.notice["visible"]
    assert panels.box == message


async def test_a_request_needs_a_session(turns):
    with pytest.raises(InputError, match="no session"):
        await anext(send(turns, "x", request=Request(None)))


# -- facets and the shelf ----------------------------------------------------------------------------------


def test_facets():
    items = [
        item("1", "A", 1990, genres=["x", "y"]),
        item("2", "B", None, genres=["y"]),
        item("3", "C", 1980),
    ]
    assert Facets.of(items) == Facets(3, 1980, 1990, ("y", "x"))
    assert Facets.of([]) == Facets(0, None, None, ())
    assert Choices("films").filters is None


def test_facets_follow_the_catalog(tiny):
    from tests.catalog.hashing import HashingEmbedding

    catalog = ItemCatalog.from_items([item("1", "A", 1990)], name="few", embed_model=HashingEmbedding())
    shelf = Shelf(engine_factory(tiny), catalog)
    assert shelf.facets("few").last_year == 1990
    catalog.sync([item("1", "A", 1990), item("2", "B", 2001, genres=["new"])])
    assert shelf.facets("few") == Facets(2, 1990, 2001, ("new",))


def test_facets_follow_a_swap(tiny):
    from tests.catalog.hashing import HashingEmbedding

    first = ItemCatalog.from_items([item("1", "A", 1990)], name="live", embed_model=HashingEmbedding())
    live = LiveCatalog(first)
    shelf = Shelf(engine_factory(tiny), live)
    of_engine = Shelf(engine_factory(tiny)(live))
    assert shelf.facets("live").first_year == of_engine.facets("live").first_year == 1990
    live.swap([item("2", "B", 2001)])
    assert shelf.facets("live").first_year == of_engine.facets("live").first_year == 2001
    assert Shelf(engine_factory(tiny), live).names == ["live"]  # not that of the version


STOCK = [
    item("1", "A", 1980, genres=["x"], metadata={"available": 1}),
    item("2", "B", 1990, genres=["x"], metadata={"available": 0}),
    item("3", "C", 2000, genres=["y"], metadata={"available": 1}),
    item("4", "D", 2010, genres=["z"], metadata={"available": 0}),
]


def in_stock_only(lm):
    """Makes engines with a filter of their own, as a pipeline's file may set it."""
    from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

    available = MetadataFilters(filters=[MetadataFilter(key="available", value=1)])
    return lambda catalog: engine_factory(lm)(catalog).with_filters(available)


@pytest.mark.parametrize("is_live", [False, True])
async def test_the_engines_own_filters_hold_beside_the_users(tiny, is_live):
    from tests.catalog.hashing import HashingEmbedding

    catalog = ItemCatalog.from_items(STOCK, name="stock", embed_model=HashingEmbedding())
    shelf = Shelf(in_stock_only(tiny), LiveCatalog(catalog) if is_live else catalog, small_talk=False)
    session = Sessions(shelf).of("a")
    for choices, allowed in (
        (Choices("stock"), {"1", "3"}),
        (Choices("stock", genres=("x",)), {"1"}),
        (Choices("stock", genres=("y", "z"), year_from=1985), {"3"}),
        (Choices("stock", genres=("z",)), set()),
    ):
        session.reset()
        found = (await last(session.answer("anything", choices))).found
        assert {c.item.id for c in found.candidates} == allowed


def test_facets_are_of_what_the_engine_may_recommend(tiny):
    from tests.catalog.hashing import HashingEmbedding

    catalog = ItemCatalog.from_items(STOCK, name="stock", embed_model=HashingEmbedding())
    shelf = Shelf(in_stock_only(tiny), catalog)
    assert shelf.facets("stock") == Facets(2, 1980, 2000, ("x", "y"))
    catalog.add([STOCK[3].model_copy(update={"metadata": {"available": 1}})])  # as many items as before
    assert shelf.facets("stock") == Facets(3, 1980, 2010, ("x", "y", "z"))


def test_facets_of_a_catalog_whose_engine_cannot_be_made(shelf, catalogs):
    assert shelf.facets("broken").size == len(catalogs[2])


def test_what_build_ui_takes(catalogs, few_films, tiny):
    make = engine_factory(tiny)
    assert build_ui(make(few_films)) is not None
    assert build_ui(make, few_films).analytics_enabled is False
    with pytest.raises(ConfigError, match="one engine was given for 3"):
        build_ui(make(few_films), catalogs)
    with pytest.raises(ConfigError, match="names that differ"):
        build_ui(make, [few_films, few_films])
    with pytest.raises(ConfigError, match="needs catalogs"):
        build_ui(make)
