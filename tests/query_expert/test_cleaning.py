import pytest

from reges_index.query_expert.transform import clean_query


@pytest.mark.parametrize(
    ("written", "query"),
    [
        ("slow thrillers", "slow thrillers"),
        ("\n\n  slow\tthrillers \nsecond line", "slow thrillers"),
        ('Search query: "slow thrillers"', "slow thrillers"),
        ("**Search query:** slow thrillers", "slow thrillers"),
        ("Natural language search query: slow thrillers", "slow thrillers"),
        ("- Query: slow thrillers", "slow thrillers"),
        ("Here is a query:\n\nslow thrillers", "slow thrillers"),
        ("films like these:", "films like these:"),
        ('films like "Heat"', 'films like "Heat"'),
        ('"Heat" and "Up"', '"Heat" and "Up"'),
        ('"slow thrillers', "slow thrillers"),
        ("“slow thrillers”", "slow thrillers"),
        ("girls' night films", "girls' night films"),
        ("Query: ", ""),
        ("Query: 'slow films'", "slow films"),
        ("Query: `slow films`", "slow films"),
        ("**Query:** “slow films”", "slow films"),
        ("Query: (slow or sad) films", "(slow or sad) films"),
        ("Query: 'Heat' and 'Up'", "'Heat' and 'Up'"),
        ("Sure! Here's a query: slow films", "slow films"),
        ("Sure, here is a search query that fits: 'slow films'", "slow films"),
        ("**Here’s the query:** slow films", "slow films"),
        ("Of course. Search query: slow films", "slow films"),
        ("Here's a query:", "Here's a query:"),
        ("Sure! Here's a query:\nslow films", "slow films"),
        ("Here is Star Wars: A New Hope", "Here is Star Wars: A New Hope"),
        ("Sure Thing: a romance", "Sure Thing: a romance"),
        ("OK, a comedy like Clue: the Movie", "OK, a comedy like Clue: the Movie"),
        (' "" \n...', ""),
        ("", ""),
        ("Quest for query: x", "Quest for query: x"),
    ],
)
def test_clean_query(written, query):
    assert clean_query(written) == query
