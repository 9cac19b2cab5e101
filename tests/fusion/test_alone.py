"""Ranking without LLM_G equals the final choice in which LLM_G weighs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import NodeWithScore

from reges_index.catalog.item import Item
from reges_index.errors import InputError
from reges_index.fusion.alone import rank_alone
from reges_index.fusion.choice import ChoiceWeights, choose
from reges_index.item_expert.ranking import RankedCandidate, Ranking


def nodes_of(scores):
    return [
        NodeWithScore(node=Item(id=f"i{n}", title=f"Title {n}").to_node(), score=score)
        for n, score in enumerate(scores)
    ]


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12), st.floats(0.2, 3.0))
def test_alone_is_the_choice_without_llm_g(scores, weight):
    nodes = nodes_of(scores)
    weights = ChoiceWeights(retrieval=weight, model=0.0)
    asked = Ranking(
        tuple(
            RankedCandidate(Item.from_node(node.node), n, 1 / len(nodes), -float(n), node.score, n, node)
            for n, node in enumerate(nodes, 1)
        ),
        {},
    )
    alone, chosen = rank_alone(weights, nodes), choose(weights, asked)
    assert [c.item.id for c in alone.candidates] == [c.item.id for c in chosen.candidates]
    assert [c.probability for c in alone.candidates] == pytest.approx(
        [c.probability for c in chosen.candidates]
    )
    # What the retrieval gives to all candidates together, and never more than certainty.
    assert sum(c.probability for c in alone.candidates) == pytest.approx(min(1, sum(scores)))
    assert all(c.node.score == c.probability for c in alone.candidates)


def test_nothing_to_rank_gives_nothing():
    assert rank_alone(ChoiceWeights(), []).candidates == ()


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(InputError, match="probability"):
        rank_alone(ChoiceWeights(), nodes_of([0.5, -0.2]))
