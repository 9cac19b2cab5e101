"""What a newcomer is shown first: no demo dialogue is answered with an item that it names."""

import pytest

from reges_index import ItemCatalog, ReGeSQueryEngine, demo_catalog, demo_dialogue
from reges_index.catalog.demo import DEMOS, demo_dialogues, demo_domain
from tests.builders import chat

# As a reader finds them, not as the title index does.
NAMED = {
    "film-thriller": {"Se7en", "The Silence of the Lambs", "Zodiac"},
    "film-slow-scifi": {"Arrival", "Her", "Blade Runner 2049", "Solaris", "Tenet"},
    "film-family": {"Paddington 2", "Spirited Away", "Frozen"},
    "film-laughs": {"Groundhog Day", "The Wolf of Wall Street"},
    "books-fantasy": {"The Hobbit", "A Wizard of Earthsea", "A Game of Thrones"},
    "books-true-stories": {"The Immortal Life of Henrietta Lacks"},
    "hikinggear-finland": {"Lagopus Snowhare Boot"},
    "hikinggear-hut-evening": {"Tarnwick Drover Leather Boot"},
    "hikinggear-sore-feet": {"Tarnwick Lamb Mid"},
}
FIRST = {"hikinggear-finland": "Brackwater Flask 0.75", "hikinggear-hut-evening": "Hutling Camp Slipper"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["films", "books", "hikinggear", "recipes"])
def test_no_demo_dialogue_is_answered_with_what_it_names(name):
    engine = ReGeSQueryEngine.from_defaults(ItemCatalog.from_items(demo_catalog(name), name=name))
    asked = [dialogue for dialogue in demo_dialogues() if demo_domain(dialogue) == DEMOS[name]]
    assert asked
    for dialogue in asked:
        offered = [found.item.title for found in engine.recommend(demo_dialogue(dialogue)).candidates]
        assert not NAMED.get(dialogue, set()) & set(offered), dialogue
        assert offered[0] == FIRST.get(dialogue, offered[0])


@pytest.mark.slow
def test_the_newest_wish_counts():
    engine = ReGeSQueryEngine.from_defaults(ItemCatalog.from_items(demo_catalog("films"), name="films"))
    for first, named in (
        ("A western, please.", "How about A Fistful of Dollars?"),
        ("I want a whodunit with a clever detective", "Murder on the Orient Express"),
    ):
        talk = chat(first, named, "Seen it. Now a cartoon for the kids.")
        assert "animation" in engine.recommend(talk).item.genres


@pytest.mark.slow
@pytest.mark.parametrize("before", [(), ("a whodunit with a clever detective", "How about Knives Out?")])
def test_a_clear_wish_is_met_whatever_was_talked_of_before(before):
    engine = ReGeSQueryEngine.from_defaults(ItemCatalog.from_items(demo_catalog("films"), name="films"))
    for wish, fitting in (
        ("a musical", {"Cabaret", "La La Land", "West Side Story", "The Sound of Music"}),
        ("something with dinosaurs", {"Jurassic Park"}),
        ("a christmas movie", {"The Nightmare Before Christmas", "It's a Wonderful Life", "Love Actually"}),
        ("an animated movie about toys", {"Toy Story", "Toy Story 3"}),
    ):
        assert engine.recommend(chat(*before, wish)).item.title in fitting, wish


@pytest.mark.slow
def test_a_rare_word_of_a_first_wish_finds_its_film():
    engine = ReGeSQueryEngine.from_defaults(ItemCatalog.from_items(demo_catalog("films"), name="films"))
    for wish, title in (
        ("a heist movie", "Ocean's Eleven"),
        ("something about chess", "The Seventh Seal"),
        ("a submarine thriller", "Das Boot"),
        ("a love story in paris", "Amélie"),
    ):
        assert engine.recommend(wish).item.title == title
