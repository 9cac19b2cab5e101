from reges_index import ExcludeItems
from tests.builders import bundle, item, nodes_of

FILMS = [item("1", "Alien", 1979), item("2", "The Fly", 1958), item("3", "The Fly", 1986), item("4", "It")]


def ids(nodes):
    return [node.node.node_id for node in nodes]


def test_ids_and_mentions_leave_and_the_order_stays():
    nodes = nodes_of(FILMS)
    said = bundle("it is late", "The Fly (1986)?", "seen")
    assert ids(ExcludeItems().postprocess_nodes(nodes, said)) == ["1", "2", "4"]
    assert ids(ExcludeItems(item_ids=["1"], mentioned=False).postprocess_nodes(nodes, said)) == [
        "2",
        "3",
        "4",
    ]
    assert ids(ExcludeItems(item_ids=["1", "x"]).postprocess_nodes(nodes, query_str="The Fly")) == ["4"]
    assert ids(ExcludeItems().postprocess_nodes(nodes)) == ["1", "2", "3", "4"]
    assert ExcludeItems().postprocess_nodes([], said) == []
