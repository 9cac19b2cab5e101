"""Which items a text names: titles as people type them, in any language and any shop."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reges_index.catalog import Item
from reges_index.dialogue import TitleIndex
from reges_index.dialogue.text import Text, parse_title, phrase_key
from tests.builders import chat
from tests.fusion.films import FILMS


def found(text, *titles, **options):
    """Return the titles that a text names, of a catalog of these alone."""
    pairs = [title if isinstance(title, tuple) else (title, None) for title in titles]
    index = TitleIndex([title for title, _ in pairs], [year for _, year in pairs], **options)
    return {titles[item] for mention in index.find(text) for item in mention.items}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("i just watched inception", "Inception"),
        ("walle made me cry", "WALL·E"),
        ("wall-e and something like it", "WALL·E"),
        ("have you got spiderman?", "Spider-Man"),
        ("schindlers list is too sad", "Schindler's List"),
        ("Zodiac was a bit long for him", "Zodiac"),
        ("Calm down, Heat. A good one", "Heat"),
        ("i just watched signs", "Signs"),
        ('"signs" was ok', "Signs"),
        ("I loved Up", "Up"),
        ("Up was lovely. Something like it?", "Up"),
        ("Her was too slow for me", "Her"),
        ("we watched Her last night", "Her"),
        ("have you seen It?", "It"),
        ("it (2017) please", "It"),
        ("Heat 1995 was good", "Heat"),
        ("have you seen 1917", "1917"),
        ("i liked the QI episodes", "QI"),
        ("Uno, the card game", "Uno"),
        ("dune part 2", "Dune: Part Two"),
        ("godfather part ii", "The Godfather Part II"),
        ("John Wick 2 please", "John Wick: Chapter 2"),
        ("12 angry men", "Twelve Angry Men"),
        ("ford vs ferrari", "Ford v Ferrari"),
        ("romeo and juliet", "Romeo + Juliet"),
        ("i liked matrix", "Matrix, The (1999)"),
        ("Matrix, The (1999) was great", "The Matrix"),
        ("we watched Amelie", "Amélie"),
        ("(500) days of summer", "(500) Days of Summer"),
        ("shawshank redemtion", "The Shawshank Redemption"),
        ("good, eXistenZ is", "eXistenZ"),
        ("fury road again", "Mad Max: Fury Road"),
        ("the stilla 700 hurts my ears", "Nordvik Stilla 700"),
        ("my powercore 10000 died", "Anker PowerCore 10000 Portable Charger, Ultra-Compact Battery Pack"),
        ("Moscow Mules for all", "Moscow Mule"),
    ],
)
def test_titles_as_people_type_them(text, title):
    assert found(text, title) == {title}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("我很喜欢《霸王别姬》，还有什么", "霸王别姬"),
        ("我看过霸王别姬了", "霸王别姬"),
        ("想看《英雄》", "英雄"),
        ("「千と千尋の神隠し」を見ました", "千と千尋の神隠し"),
        ("タイタニックを見た", "タイタニック"),
        ("기생충을 봤어요", "기생충"),
        ("ผมชอบองค์บาก", "องค์บาก"),
        ("мне понравился Сталкер", "Сталкер"),
        ("смотрел сталкера вчера", "Сталкер"),
        ("посоветуй как Иронию судьбы", "Ирония судьбы"),
        ("farewell my concubine", "霸王别姬 Farewell My Concubine"),
    ],
)
def test_titles_in_other_scripts(text, title):
    assert found(text, title) == {title}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("the knight was dark", "The Dark Knight"),
        ("It is good. It was fun.", "It"),
        ("Here was a good one", "Here"),
        ("I like it", "It"),
        ("and Smokey and the Bandit , It was funny", "It"),
        ("what's up", "Up"),
        ("it is NEVER UP", "Up"),
        ("Here you go", "Here"),
        ("I told her that", "Her"),
        ("the signs are good", "Signs"),
        ("The heat is on", "Heat"),
        ("Heat is what I want", "Heat"),
        ("sure, good luck!", "Good Luck"),
        ("I saw Aliens", "Alien"),
        ("Stephen King wrote it", "King"),
        ("I'm sorry ma'am", "Mama"),
        ("he bought 300 of them", "300"),
        ("in 1917 there was a war", "1917"),
        ("a comedy, please", "The Comedy"),
        ("他是英雄", "英雄"),
        ("more like this, on Monday", "Heron"),
        ("nothing here", "???"),
        ("an umbrella for my girl", "Buggy Umbrella, Grey"),
    ],
)
def test_words_that_are_no_title(text, title):
    assert found(text, title) == set()


def test_series_are_told_apart():
    series = ("Toy Story", "Toy Story 2", "Toy Story 3")
    assert found("I loved toy story 2", *series) == {"Toy Story 2"}
    assert found("Toy Story 2, and also Toy Story", *series) == {"Toy Story", "Toy Story 2"}
    assert found("toy story iii", *series) == {"Toy Story 3"}
    assert found("toy story 4 was meh", *series) == set()
    assert found("i saw toy story 2 times", "Toy Story") == {"Toy Story"}
    assert found("toy story", "Toy Story 2") == set()
    assert found("the dark knight", "The Dark Knight Rises") == set()
    assert found("i liked star wars", "Star Wars: A New Hope", "Star Wars: The Last Jedi") == set()
    assert found("I like It Follows", "It", "It Follows") == {"It Follows"}
    assert found("Blade Runner 2049 (2017) please", "Blade") == set()


def test_years_tell_remakes_apart():
    remakes = [("The Fly", 1958), ("The Fly", 1986)]
    assert found("I saw The Fly (1986)", *remakes) == {remakes[1]}
    assert found("I saw The Fly", *remakes) == set(remakes)
    assert found("the 1958 film The Fly", *remakes) == {remakes[0]}
    assert found("The Fly (2020)", *remakes) == set()
    assert found("The Fly (1988)", *remakes) == {remakes[1]}  # misremembered
    assert found("The Fly (1958)", "The Fly (1958)", "The Fly (1986)") == {"The Fly (1958)"}


def test_mentions_know_their_message_and_their_words():
    index = TitleIndex.of(FILMS)
    said = chat("Hello", "Heat (1995), Harbor Lights (1994) or laugh factory? Not Last Orbit")
    mentions = index.link(said)
    assert [m.message for m in mentions] == [1, 1, 1, 1]
    words = Text(said[1].content).words
    assert words[mentions[2].first : mentions[2].last + 1] == ["laugh", "factory"]
    assert index.named_ids(said) == {"f3", "f1", "f6", "f8"}


def test_names_of_people_and_genres_are_no_titles():
    films = [
        Item(id="1", title="King", directors=["Stephen King"]),
        Item(id="2", title="Western", genres=["Western"]),
    ]
    index = TitleIndex.of(films)
    assert index.named(chat("i like stephen king and a Western")) == set()
    assert index.named(chat("I saw King, and 'Western'")) == {0, 1}


def test_without_evidence_every_run_of_words_counts():
    index = TitleIndex(["Up"])
    assert index.find("what's up") == []
    assert [mention.items for mention in index.find("what's up", strict=False)] == [(0,)]


@pytest.mark.parametrize(
    ("entry", "position"),
    [
        ("The Matrix", 0),
        ("matrix, the (1999)", 0),
        ("Matrix", 0),
        ("The Matrix (2000)", 0),
        ("The Matrix (2021)", None),
        ("spider man 2", 1),
        ("!!!", 2),
        ("a film like The Matrix", None),
    ],
)
def test_whole_entries_are_matched(entry, position):
    index = TitleIndex(["The Matrix", "Spider-Man II", "!!!"], [1999, 2004, None])
    assert index.match(entry) == (() if position is None else (position,))


def test_titles_are_taken_apart():
    assert parse_title("Matrix, The (1999)") == ("The Matrix", 1999)
    assert parse_title("2012 (2009)") == ("2012", 2009)
    assert parse_title("Blade Runner 2049") == ("Blade Runner 2049", None)


def test_titles_do_not_reach_over_two_messages():
    assert TitleIndex(["Dark Knight"]).named(chat("it was dark", "Knight?", "no")) == set()


def test_long_dialogues_with_many_titles_are_quick():
    titles = [f"Title Number {n}" for n in range(80)] + ["It", "Heat"]
    index = TitleIndex(titles)
    texts = ["I like Title Number 3 and Heat " * 1000] * 7
    start = time.process_time()
    assert {titles[item] for item in index.named(chat(*texts))} == {"Title Number 3", "Heat"}
    assert time.process_time() - start < 3


TITLES = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=25), min_size=1, max_size=5)


@given(TITLES, st.text(max_size=120))
def test_any_titles_and_text_are_linked_without_an_error(titles, text):
    index = TitleIndex(titles)
    for mention in index.find(text):
        assert mention.items
        assert mention.first <= mention.last < len(Text(text).words)


@given(st.sampled_from(FILMS), st.sampled_from(["i saw {} yesterday", "{} was long", "more like {}, please"]))
def test_what_is_named_stays_named_whatever_its_case(film, frame):
    index = TitleIndex.of([item for item in FILMS if item.title != "Heat"])
    if film.title != "Heat":
        for title in (film.title, film.title.lower(), film.title.upper()):
            assert film.id in index.named_ids(chat(frame.format(title)))


@given(st.lists(st.sampled_from([film.title for film in FILMS]), min_size=1, max_size=4))
def test_a_longer_title_always_wins(titles):
    index = TitleIndex.of(FILMS)
    text = "; ".join(f'"{title}"' for title in titles)
    named = {FILMS[item].title for item in index.named(chat(text))}
    assert named == set(titles)


@given(st.text(max_size=60))
def test_the_key_of_a_name_ignores_case_and_blanks(name):
    key = phrase_key(name)
    assert phrase_key(f"  {name.lower()} \n") == phrase_key(name.lower())
    assert " " not in key
