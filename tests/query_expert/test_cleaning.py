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
        (' "" \n...', ""),
        ("", ""),
        ("Quest for query: x", "Quest for query: x"),
    ],
)
def test_clean_query(written, query):
    assert clean_query(written) == query
