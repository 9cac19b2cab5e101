from dataclasses import replace

import pytest
from llama_index.core import QueryBundle
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine

from reges_index import DialogueQueryBundle, ReGeSQueryTransform, ReGeSRerank, ReGeSSynthesizer
from reges_index.dialogue import dialogue_of
from reges_index.errors import InputError
from tests.builders import bundle, chat, item, nodes_of

SEEN = []


class Watching(BaseNodePostprocessor):
    def _postprocess_nodes(self, nodes, query_bundle=None):
        SEEN.append(query_bundle)
        return nodes


class Watcher(BaseEventHandler):
    def handle(self, event, **kwargs):
        SEEN.append(getattr(event, "query", getattr(event, "str_or_query_bundle", None)))


class Fixed(BaseRetriever):
    def _retrieve(self, query_bundle):
        SEEN.append(query_bundle)
        return nodes_of([item("1", "Alien", 1979)])


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_dialogue_goes_through_stock_engines(asynchronous):
    SEEN.clear()
    query = bundle("hello", "hi", "a thriller {braces} please")
    engine = RetrieverQueryEngine(Fixed(), ReGeSSynthesizer(), node_postprocessors=[Watching()])
    handler = Watcher()
    get_dispatcher().add_event_handler(handler)
    try:
        response = await engine.aquery(query) if asynchronous else engine.query(query)
    finally:
        get_dispatcher().event_handlers.remove(handler)
    assert str(response) == "Alien"
    bundles = [seen for seen in SEEN if isinstance(seen, QueryBundle)]
    assert len(bundles) >= 5  # query, retrieval, synthesis events; retriever; postprocessor
    assert all(seen.messages == query.messages for seen in bundles)


def test_refining_keeps_the_dialogue_and_drops_the_old_vector():
    query = replace(bundle("a thriller"), embedding=[1.0], report={"before": 1})
    refined = query.refined(["dark thrillers", "tense films"], {"query": 2})
    assert refined.query_str == "dark thrillers"
    assert refined.embedding_strs == ["dark thrillers", "tense films"]
    assert refined.embedding is None
    assert refined.report == {"before": 1, "query": 2}
    assert refined.messages == query.messages
    assert (query.query_str, query.embedding) == ("seeker: a thriller", [1.0])


def test_a_plain_bundle_counts_as_one_message():
    assert dialogue_of(QueryBundle("a thriller")) == chat("a thriller")
    with pytest.raises(InputError, match="empty"):
        DialogueQueryBundle.from_dialogue([])


def test_no_prompt_holds_what_neither_side_has_said(tiny):
    said = chat("a thriller please", "Heat?", "no")
    aside = ChatMessage(role="system", content="SECRET")
    whole = DialogueQueryBundle(query_str="x", messages=(aside, *said[:1], aside, *said[1:]))
    assert dialogue_of(whole) == said
    prompt = ReGeSRerank(tiny).build_prompt([item("1", "Alien", 1979)], whole)
    assert "SECRET" not in prompt.messages[0].content
    assert prompt.history.kept == 3
    assert "SECRET" not in ReGeSQueryTransform(tiny).build_prompt(whole).messages[0].content
    only = DialogueQueryBundle(query_str="a thriller", messages=(aside,))
    assert [message.content for message in dialogue_of(only)] == ["a thriller"]


def test_a_dialogue_is_searched_with_by_its_bare_words_newest_first():
    talk = [("user", "a film"), ("assistant", "Heat?"), ("user", "no, calmer")]
    messages = [{"role": role, "content": text} for role, text in talk]
    bundle = DialogueQueryBundle.from_dialogue(messages)
    assert bundle.embedding_strs == ["no, calmer\nHeat?\na film"]
    assert bundle.refined(["calm films"], {}).embedding_strs == ["calm films"]
