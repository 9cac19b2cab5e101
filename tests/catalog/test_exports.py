"""Tables as everyday programs export them: every kind of oddity, and that what was guessed is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reges_index.catalog import Item, ItemCatalog, read_items
from reges_index.catalog.fields import as_names, as_year, plain_value, typed_text
from reges_index.catalog.readers import read_catalog
from reges_index.dialogue.text import parse_title
from reges_index.errors import InputError
from tests.catalog.hashing import HashingEmbedding

INPUTS = Path(__file__).parents[1] / "inputs" / "catalogs"


def read(name: str, **options):
    found = read_catalog(INPUTS / name, **options)
    return found.items, "\n".join(found.notes)


def test_a_table_of_excel(caplog):
    (one, two), notes = read("excel_semicolons.csv")
    assert (one.id, one.title, one.year, one.genres) == ("1", "Tides of Ink", 1999, ("Thriller", "Horror"))
    assert (one.metadata, two.metadata) == ({"Rating": 8.1}, {"Rating": 6})
    assert (two.year, two.genres) == (2004, ("Drama",))
    for word in ("Rating", "';'", "1999-04-30", "Title"):
        assert word in notes
    with caplog.at_level(logging.WARNING):
        assert read_items(INPUTS / "excel_semicolons.csv") == [one, two]
    assert "Rating" in caplog.text


def test_a_table_of_pandas():
    items, notes = read("pandas_index.csv")
    assert [item.id for item in items] == ["10", "11", "12"]  # its unnamed first column, there being no other
    assert [item.year for item in items] == [1999, None, None]
    assert [item.genres for item in items] == [("Horror", "Sci-Fi"), (), ("Drama",)]
    assert items[0].metadata == {"rating": 8.5, "votes": 1200, "seen": True, "code": "007"}
    assert items[1].metadata == {"rating": 7.0, "seen": False, "code": "012"}
    assert "first column" in notes


def test_a_row_number_is_no_id_where_there_is_one(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("Unnamed: 0,id,title,\n0,x,Alpha,\n1,y,Beta,\n")
    found = read_catalog(path)
    assert [item.id for item in found.items] == ["x", "y"]
    assert found.items[0].metadata == {}
    assert "left out" in "\n".join(found.notes)


def test_lists_of_objects():
    (one, two), notes = read("tmdb.csv")
    assert (one.genres, two.genres) == (("Animation", "Comedy"), ())
    assert (one.year, one.metadata["release_date"]) == (1995, "1995-10-30")
    assert (one.abstract, two.abstract) == ("Toys, more or less.", "")
    assert one.metadata["popularity"] == 21.9
    assert "overview" in notes


def test_titles_that_hold_the_year():
    items, notes = read("movielens.csv")
    assert [(item.title, item.year) for item in items] == [
        ("Toy Cupboard", 1995),
        ("The Orchard", 1999),
        ("The City of Lost Kites (Cité des cerfs, La)", 1995),
        ("Live and Let, Die", None),
    ]
    assert "3, such as" in notes
    kept, _ = read("movielens.csv", parse_titles=False)
    assert [kept[1].title, kept[1].year] == ["Orchard, The (1999)", None]


@pytest.mark.parametrize(
    ("title", "year", "expected"),
    [
        ("Matrix, The (1999)", None, ("The Matrix", 1999)),
        ("Matrix, The (1999)", 1999, ("The Matrix", 1999)),
        ("Blade of (2049)", 2017, ("Blade of (2049)", 2017)),
        ("Beautiful Mind, A", 2001, ("A Beautiful Mind", 2001)),
        ("Avventura, L' (1960)", None, ("L'Avventura", 1960)),
        ("2001: A Space Odyssey", None, ("2001: A Space Odyssey", None)),
        ("(1999)", None, ("(1999)", None)),
        ("Hello, Dolly", None, ("Hello, Dolly", None)),
        ("Dune (2021 film)", None, ("Dune", 2021)),
        ("Alien (1979/I)", None, ("Alien", 1979)),
        ("Heat (TV 1995)", None, ("Heat", 1995)),
        ("Wonder Woman 1984", None, ("Wonder Woman 1984", None)),
    ],
)
def test_parse_title(title: str, year: int | None, expected: tuple[str, int | None]):
    assert parse_title(title, year) == expected


def test_other_encodings_and_several_people():
    (one, two), notes = read("utf16_tabs.csv")
    assert (one.title, two.title) == ("Étoile", "Звезда")
    assert one.makers == {"director": ("Anna Bell", "Carl Dorn")}
    assert two.makers == {"director": ("Dorn, Carl",)}
    assert "utf-16" in notes
    assert "tab" in notes


def test_a_delimiter_can_be_named(tmp_path: Path):
    assert read("pipes.txt", delimiter="|")[0][0].genres == ("Drama",)
    odd = tmp_path / "odd.csv"
    odd.write_text("id~title\n1~Alpha\n")
    assert read_items(odd, delimiter="~")[0].title == "Alpha"
    with pytest.raises(InputError) as caught:
        read_items(odd)
    assert "--delimiter" in caught.value.hint
    with pytest.raises(InputError, match="single character"):
        read_items(odd, delimiter="--")


def test_a_column_that_stores_refuse_is_named_and_the_way_out_works():
    with pytest.raises(InputError, match=r"\$price") as caught:
        read("refused_column.csv")
    assert "metadata.price" in caught.value.hint
    columns = {"metadata.price": "$price", "metadata.rank": "#rank"}
    items, _ = read("refused_column.csv", columns=columns)
    catalog = ItemCatalog.from_items(items, embed_model=HashingEmbedding())
    assert catalog.get(["1"])[0].metadata == {"price": 3.5, "rank": 1}


def test_several_kinds_of_makers():
    (one, two), _ = read("books_and_films.jsonl")
    assert one == Item(id="1", title="Alpha", directors=["Ann Lee"])
    assert two.id == "2"
    assert two.makers == {"author": ("Bo Ek",), "artist": ("Cy Ono",), "director": ("Ann Lee",)}
    assert two.creators == ("Ann Lee", "Bo Ek", "Cy Ono")
    assert "Directed by Ann Lee\nWritten by Bo Ek\nPerformed by Cy Ono" in two.text()


def test_json_lines_that_were_a_table():
    (one, two), notes = read("all_texts.jsonl")
    assert one.metadata == {"rating": 8.5, "tags": ["slow", "blue"]}
    assert two.metadata == {"rating": 6}
    assert "rating" in notes


def test_a_list_of_json_objects(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1, "title": "Alpha", "score": NaN, "owner": {"name": "x"}, "n": 12}]')
    found = read_catalog(path)
    assert found.items[0].metadata == {"owner": '{"name": "x"}', "n": 12}
    assert "score" in "\n".join(found.notes)


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("['Horror', 'Sci-Fi']", ["Horror", "Sci-Fi"]),
        ('["Horror", "Sci-Fi"]', ["Horror", "Sci-Fi"]),
        ("['Horror' 'Sci-Fi']", ["Horror", "Sci-Fi"]),
        ("{'Horror'}", ["Horror"]),
        ("[]", []),
        ("nan", []),
        ("thriller, horror", ["thriller", "horror"]),
        ("thriller; horror, gothic", ["thriller", "horror, gothic"]),
        (["a", {"name": "b"}], ["a", "b"]),
        ("[draft] notes", ["[draft] notes"]),
    ],
)
def test_lists_in_cells(cell, names: list[str]):
    assert as_names(cell) == names


def test_types_are_those_of_the_whole_column():
    assert typed_text(["8", "7.5", "", "N/A"]) == ("number", [8, 7.5, None, None])
    assert typed_text(["8", "seven"])[0] == "text"
    assert typed_text(["9780306406157"])[0] == "text"
    assert typed_text(["1,5"], decimal_comma=True) == ("number", [1.5])
    assert typed_text(["1,5"])[0] == "text"
    assert typed_text(["None", "peanuts"]) == ("text", ["None", "peanuts"])


@pytest.mark.parametrize(
    ("value", "year"),
    [
        ("1999-04-30", 1999),
        ("30.04.1999", 1999),
        ("1999.0", 1999),
        ("1994-1998", 1994),
        ("nan", None),
        (-44, -44),
    ],
)
def test_years(value, year):
    assert as_year(value) == year


@pytest.mark.parametrize("value", [float("inf"), 2**70, "\ud800"])
def test_values_that_no_store_keeps(value):
    with pytest.raises(ValueError):
        plain_value(value)


@pytest.mark.parametrize(
    ("cells", "values", "sign"),
    [
        (["$9.99", "$1,250", ""], [9.99, 1250, None], "$"),
        (["95%", "7.5 %", "n/a"], [95, 7.5, None], "%"),
        (["$9.99", "free", "$1"], ["$9.99", "free", "$1"], ""),
        (["$9.99", "8 €", "$1"], ["$9.99", "8 €", "$1"], ""),
        (["$9.99", "8", "$1"], ["$9.99", "8", "$1"], ""),
    ],
)
def test_prices_and_shares_are_numbers_where_the_whole_column_is_so(tmp_path, cells, values, sign):
    path = tmp_path / "i.csv"
    path.write_text("id,title,worth\n" + "".join(f'{n},T{n},"{cell}"\n' for n, cell in enumerate(cells)))
    found = read_catalog(path)
    assert [item.metadata.get("worth") for item in found.items] == values
    assert (f"read as numbers, without {sign}: worth" in found.notes) == bool(sign)


def test_prices_with_a_decimal_comma(tmp_path):
    path = tmp_path / "i.csv"
    path.write_text("id;title;price\n1;T;1.299,00 €\n2;U;-5,5 €\n")
    assert [item.metadata["price"] for item in read_catalog(path).items] == [1299, -5.5]


def test_tables_of_other_services(tmp_path):
    path = tmp_path / "i.csv"
    path.write_text('tconst,primaryTitle,startYear,votes\nt1,Alien,1979,"1,234"\nt2,Heat,\\N,"22,345"\n')
    one, two = read_catalog(path).items
    assert (one.id, one.title, one.year, one.metadata) == ("t1", "Alien", 1979, {"votes": 1234})
    assert (two.year, two.metadata) == (None, {"votes": 22345})


def test_a_list_inside_an_export(tmp_path):
    path = tmp_path / "i.json"
    path.write_text('{"page": 1, "meta": {"n": 1}, "results": [{"id": 1, "title": "Alien"}]}')
    assert [item.title for item in read_items(path)] == ["Alien"]
    path.write_text('{"id": 1, "title": "Alien", "crew": [{"name": "R S"}]}')
    assert [item.title for item in read_items(path)] == ["Alien"]
