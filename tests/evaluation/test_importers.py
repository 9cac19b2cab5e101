"""Files written here in the layout of the public originals."""

from __future__ import annotations

import json

import pytest

from reges_index.catalog.item import Item
from reges_index.dialogue import Turn
from reges_index.errors import ConfigError, InputError
from reges_index.evaluation.importers import convert_rankings, import_turns, named_titles

CATALOG = (
    Item(id="film-7", title="Heat", year=1995),
    Item(id="film-8", title="Alien", year=1979),
    Item(id="film-9", title="Up", year=2009),
)


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def inspired_file(tmp_path):
    header = [
        "dialog_id",
        "utt_id",
        "speaker",
        "turn_id",
        "text",
        "text_with_placeholder",
        "movies",
        "genres",
    ]
    rows = [
        ("d1", "1", "RECOMMENDER", "1", "What do you like?", "", "", ""),
        ("d1", "2", "SEEKER", "1", 'I saw "Alien" once', "", "Alien (1979)", "horror"),
        ("d1", "3", "SEEKER", "1", "and QUOTATION_MARKUpQUOTATION_MARK", "", "Up (2009)", ""),
        ("d1", "4", "RECOMMENDER", "2", "Then these", "", "Heat (1995); Alien (1979); Nowhere (2001)", ""),
        ("d2", "1", "RECOMMENDER", "1", "See Up", "", "Up (2009)", ""),
        ("d2", "2", "SEEKER", "1", "ok", "", "", ""),
    ]  # fmt: skip
    path = tmp_path / "dev.tsv"
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")
    return path


def test_inspired(inspired_file):
    turns, report = import_turns(inspired_file, "inspired", CATALOG, name="dev")
    (turn,) = turns
    assert turn.id == "dev-d1-2"
    assert turn.dialog_id == "dev-d1"
    assert [(m.role, m.content) for m in turn.messages] == [
        ("assistant", "What do you like?"),
        ("user", 'I saw "Alien" once and "Up"'),
    ]
    assert turn.mentioned == ("film-8", "film-9")
    assert turn.targets == ("film-7", "film-8", "Nowhere (2001)")
    assert report.counts["turns_without_history"] == 1
    assert report.counts["dialogues"] == 2
    assert report.counts["recommender_messages_naming_nothing"] == 1
    assert report.matching["title"] == 5
    assert report.as_dict()["unmatched"] == {"Nowhere (2001)": 1}


def test_unmatched_titles_can_be_dropped(inspired_file):
    (turn,), report = import_turns(inspired_file, "inspired", CATALOG, unmatched="drop")
    assert turn.targets == ("film-7", "film-8")
    assert report.counts["targets"] == 2
    assert report.matching["unmatched"] == 1


def test_redial(tmp_path):
    row = {
        "movieMentions": {"111": "Heat  (1995)", "222": "Alien (1979)", "333": None},
        "messages": [
            {"text": "Hi, I liked @222 &amp; @333", "senderWorkerId": 5},
            {"text": "Hm", "senderWorkerId": 9},
            {"text": "try @111", "senderWorkerId": 9},
        ],
        "conversationId": "42",
        "initiatorWorkerId": 5,
        "respondentWorkerId": 9,
    }
    silent = {"movieMentions": [], "messages": [], "conversationId": "43", "initiatorWorkerId": 1}
    turns, report = import_turns(lines(tmp_path / "r.jsonl", row, silent), "redial", CATALOG)
    (turn,) = turns
    assert turn.id == "redial-42-1"
    assert turn.messages[0].content == "Hi, I liked Alien (1979) & @333"
    assert turn.messages[0].role == "user"
    assert (turn.targets, turn.mentioned) == (("film-7",), ("film-8",))
    assert report.counts["dialogues_without_messages"] == 1


def test_unicrs(tmp_path):
    said = ["Hello", "hi, I liked 7", "see 8 and drama", "thanks"]
    recs = [[], [7], [8, 500], []]
    rows = [{"context": ["", *said[:n]], "resp": said[n], "rec": recs[n], "entity": []} for n in range(4)]
    rows += [{"context": [""], "resp": "Hey", "rec": [9], "entity": []}]
    path = lines(tmp_path / "valid_data_processed.jsonl", *rows)
    turns, report = import_turns(path, "unicrs", CATALOG, id_prefix="film-")
    (turn,) = turns
    assert turn.id == "unicrs-0-2"
    assert [m.role for m in turn.messages] == ["assistant", "user"]
    assert (turn.targets, turn.mentioned) == (("film-8",), ("film-7",))
    assert report.counts["dialogues"] == 2
    assert report.counts["turns_without_history"] == 1
    assert report.as_dict()["unmatched"] == {"film-500": 1}


def test_neutral_maps_titles_and_keeps_what_it_cannot_map(tmp_path):
    messages = [{"role": "user", "content": "hi"}]
    path = lines(
        tmp_path / "own.jsonl",
        {"id": "a", "messages": messages, "targets": ["Heat", "film-9", "Other"], "mentioned": ["alien"]},
        {"id": "b", "messages": messages, "targets": ["film-7"]},
    )
    turns, report = import_turns(path, "neutral", CATALOG)
    assert turns[0].targets == ("film-7", "film-9", "Other")
    assert turns[0].mentioned == ("film-8",)
    assert turns[1].mentioned is None
    assert report.counts["targets"] == 4


def test_a_catalog_from_the_titles_named(inspired_file):
    items = named_titles(inspired_file, "inspired")
    assert [(i.id, i.title, i.year) for i in items][:2] == [("item-0", "Alien", 1979), ("item-1", "Up", 2009)]
    assert len(items) == 4
    (turn,), report = import_turns(inspired_file, "inspired", items)
    assert report.matching["unmatched"] == 0
    assert len(turn.targets) == 3
    with pytest.raises(ConfigError, match="by title"):
        named_titles(inspired_file, "unicrs")


def test_files_of_another_format_are_named_with_the_line(tmp_path, inspired_file):
    path = lines(tmp_path / "x.jsonl", {"a": 1})
    with pytest.raises(InputError, match=r"x\.jsonl:1: not a ReDial dialogue"):
        import_turns(path, "redial", CATALOG)
    with pytest.raises(InputError, match=r"x\.jsonl:1: not a line of UniCRS"):
        import_turns(path, "unicrs", CATALOG)
    with pytest.raises(InputError, match="no column 'dialog_id'"):
        import_turns(path, "inspired", CATALOG)
    broken = tmp_path / "broken.tsv"
    broken.write_text(inspired_file.read_text().replace("SEEKER\t1\tok", "NARRATOR\t1\tok"))
    with pytest.raises(InputError, match=r"broken\.tsv:7: speaker 'NARRATOR'"):
        import_turns(broken, "inspired", CATALOG)
    with pytest.raises(ConfigError, match="unknown format 'csv'"):
        import_turns(path, "csv", CATALOG)
    with pytest.raises(InputError, match="no dialogue"):
        import_turns(lines(tmp_path / "empty.jsonl"), "redial", CATALOG)


ENTITIES = {
    "<http://dbpedia.org/resource/Heat_(1995_film)>": 5,
    "<http://dbpedia.org/resource/Am%C3%A9lie>": 9,
    "<http://dbpedia.org/resource/Al_Pacino>": 2,
}
FILMS = [Item(id="f-heat", title="Heat", year=1995), Item(id="f-amelie", title="Amélie", year=2001)]


def _numbered(tmp_path, lines):
    (tmp_path / "entity2id.json").write_text(json.dumps(ENTITIES))
    (tmp_path / "movie_ids.json").write_text("[9, 5]")
    (tmp_path / "ranks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    turns = [Turn(id=f"t{n}", messages=({"role": "user", "content": "hi"},)) for n in range(2)]
    return tmp_path / "ranks.jsonl", turns, tmp_path / "entity2id.json"


def test_unicrs_rankings_hold_the_entities_numbers(tmp_path):
    ranks, turns, entities = _numbered(tmp_path, [[5, 9], [2, 5]])
    made, report = convert_rankings(ranks, turns, FILMS, entities=entities)
    assert [(p.id, p.ranking) for p in made] == [
        ("t0", ("f-heat", "f-amelie")),
        ("t1", ("entity:2", "f-heat")),
    ]
    assert report.missing == {"Al Pacino": 1}
    numbered = [Item(id="inspired-5", title="Another spelling")]
    made, _ = convert_rankings(ranks, turns, numbered, entities=entities, id_prefix="inspired-")
    assert made[0].ranking == ("inspired-5", "entity:9")


def test_crslab_rankings_hold_places_in_its_list_of_films(tmp_path):
    ranks, turns, entities = _numbered(tmp_path, [{"id": "t1", "ranking": [1, 0]}])
    listed = tmp_path / "movie_ids.json"
    made, _ = convert_rankings(ranks, turns, FILMS, entities=entities, item_numbers=listed)
    assert [(p.id, p.ranking) for p in made] == [("t1", ("f-heat", "f-amelie"))]
    ranks.write_text("[7]\n[0]\n")
    with pytest.raises(InputError, match=r"ranks\.jsonl:1: 7 is no place"):
        convert_rankings(ranks, turns, FILMS, entities=entities, item_numbers=listed)


@pytest.mark.parametrize("lines", [[[5]], [["Heat"], [5]], [{"id": "t0"}, [5]]])
def test_rankings_of_another_shape_are_refused(tmp_path, lines):
    ranks, turns, entities = _numbered(tmp_path, lines)
    with pytest.raises(InputError):
        convert_rankings(ranks, turns, FILMS, entities=entities)
