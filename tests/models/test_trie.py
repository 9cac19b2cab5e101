import pytest
from hypothesis import given
from hypothesis import strategies as st

from reges_index.models.trie import TokenTrie

END = 99
choice_sets = st.lists(
    st.lists(st.integers(0, 3), max_size=5).map(lambda tokens: [*tokens, END]), min_size=1, max_size=12
)


@given(choice_sets)
def test_every_choice_can_be_read_back(choices):
    trie = TokenTrie.build(choices)
    assert [list(trie.sequence(leaf)) for leaf in trie.leaves] == choices


@given(choice_sets)
def test_as_many_nodes_as_distinct_prefixes(choices):
    trie = TokenTrie.build(choices)
    prefixes = {tuple(choice[:length]) for choice in choices for length in range(1, len(choice) + 1)}
    assert len(trie) == len(prefixes)


@given(choice_sets)
def test_parents_come_first_and_depths_follow(choices):
    trie = TokenTrie.build(choices)
    for node in range(1, len(trie) + 1):
        assert trie.parents[node] < node
        assert trie.depths[node] == trie.depths[trie.parents[node]] + 1 == len(trie.path(node))
        assert trie.children[trie.parents[node]][trie.tokens[node]] == node


@given(choice_sets)
def test_inner_nodes_and_leaves_share_out_all_nodes(choices):
    trie = TokenTrie.build(choices)
    assert sorted({*trie.inner, *trie.leaves}) == list(range(1, len(trie) + 1))
    assert not set(trie.inner) & set(trie.leaves)


@given(choice_sets, st.data())
def test_equal_choices_share_a_leaf_and_the_first_is_found(choices, data):
    again = data.draw(st.sampled_from(choices))
    trie = TokenTrie.build([*choices, again])
    assert trie.leaves[-1] == trie.leaves[choices.index(again)]
    assert trie.choice_at(trie.leaves[-1]) == choices.index(again)
    assert len(set(trie.leaves)) == len({tuple(choice) for choice in choices})


def test_single_choice():
    trie = TokenTrie.build([[5, 6, END]])
    assert trie.leaves == (3,)
    assert trie.inner == (1, 2)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "no choices"),
        ([[1], []], "choice 1 has no tokens"),
        ([[1, 2], [1]], "choice 1 is a proper prefix"),
        ([[1], [1, 2]], "choice 0 is a proper prefix"),
    ],
)
def test_what_cannot_be_a_trie(choices, message):
    with pytest.raises(ValueError, match=message):
        TokenTrie.build(choices)
