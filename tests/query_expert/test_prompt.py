import re

import pytest

from reges_index import Domain
from reges_index.dialogue.wording import MOVIES, plural_of
from reges_index.query_expert.prompt import (
    DEFAULT_PSEUDO_QUERY_TMPL,
    DEFAULT_QUERY_TMPL,
    build_query_prompt,
    query_prompt_hash,
)
from tests.builders import chat

# Section 3.3 of the paper.
PAPER = (
    "Find the common concepts between the conversation history that the seeker reveals and the ground truth "
    "movie, particularly paying attention to actor, producer, genre, topics, etc. Then, formulate a good "
    "natural-language search query for matching introduction of movies the seeker likes. Only output the "
    "query, do not include any explanation. Conversation history: H Ground truth items: G"
)


def words(text):
    return re.sub(r"\s+", " ", text).strip()


def test_the_teachers_prompt_is_the_papers():
    text = DEFAULT_PSEUDO_QUERY_TMPL.format(
        item_noun=MOVIES.noun,
        item_plural=MOVIES.plural,
        item_details=MOVIES.looked_for,
        conversation_history="H",
        ground_truth_items="G",
    )
    assert words(text) == PAPER


@pytest.mark.shared
def test_the_literal_above_is_in_the_paper(shared):
    paper = re.sub(r"[^a-z]", "", (shared / "paper" / "reges.txt").read_text("utf-8").lower())
    instruction = re.sub(r"[^a-z]", "", PAPER.split(" Conversation history:")[0].lower())
    assert instruction in paper


def test_the_students_prompt_does_not_see_the_truth():
    (message,) = build_query_prompt(
        chat("I like {braces} and\nHeat"), domain=Domain("book", "books")
    ).messages
    assert message.content.endswith("Conversation history: seeker: I like {braces} and Heat")
    assert "introduction of books the seeker likes" in message.content
    assert "maker, kind, topics" in message.content  # books have no actors
    assert "ground truth" not in message.content.lower()
    (message,) = build_query_prompt(chat("hi"), truth=["Heat\n(1995)", "Up"]).messages
    assert message.content.endswith("Ground truth items: Heat (1995)\nUp")


def test_the_hash_follows_the_template_only():
    assert query_prompt_hash() == query_prompt_hash(DEFAULT_QUERY_TMPL)
    assert query_prompt_hash(DEFAULT_PSEUDO_QUERY_TMPL) != query_prompt_hash()


def test_a_noun_alone_makes_a_domain():
    assert Domain.parse("policy") == Domain("policy", "policies")
    assert [plural_of(noun) for noun in ("piece of gear", "watch", "journey")] == [
        "pieces of gear",
        "watches",
        "journeys",
    ]
