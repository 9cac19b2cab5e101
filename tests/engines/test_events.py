"""What a handler on LlamaIndex's dispatcher sees of a turn, and under which spans."""

import asyncio
from collections import defaultdict

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from pydantic import Field

from reges_index import ReGeSChatEngine
from reges_index.item_expert import ReasoningDecoding
from tests.builders import bundle
from tests.engines.test_workflow import make

STAGES = [
    "QueryStartEvent",
    "LLMChatStartEvent",
    "LLMChatEndEvent",
    "QueryWrittenEvent",
    "RetrievalStartEvent",
    "RetrievalEndEvent",
    "ReRankStartEvent",
    "ItemSelectedEvent",
    "ReRankEndEvent",
    "SynthesizeStartEvent",
    "SynthesizeEndEvent",
    "QueryEndEvent",
]


class Watcher(BaseEventHandler):
    seen: list = Field(default_factory=list)

    @classmethod
    def class_name(cls):
        return "Watcher"

    def handle(self, event, **kwargs):
        self.seen.append(event)


class Parents(SimpleSpanHandler):
    """Remembers what each span was opened under."""

    parent_of: dict = Field(default_factory=dict)

    def new_span(self, id_, bound_args, instance=None, parent_span_id=None, tags=None, **kwargs):
        self.parent_of[id_] = parent_span_id
        return super().new_span(id_, bound_args, instance, parent_span_id, tags, **kwargs)


class Watch:
    """What a real event handler and a real span handler of the root dispatcher have got."""

    def __init__(self):
        self.events, self.spans = Watcher(), Parents()

    def of(self, *names):
        return [event for event in self.events.seen if event.class_name() in names]

    def stages(self):
        return [event.class_name() for event in self.of(*STAGES)]

    def chain(self, span_id):
        """The names of the spans above an event, innermost first."""
        names = []
        while span_id is not None:
            names.append(span_id.rsplit("-", 5)[0])
            span_id = self.spans.parent_of[span_id]
        return names

    def root(self, span_id):
        while (above := self.spans.parent_of[span_id]) is not None:
            span_id = above
        return span_id


@pytest.fixture
def watch():
    root, watch = get_dispatcher(), Watch()
    root.add_event_handler(watch.events)
    root.add_span_handler(watch.spans)
    yield watch
    root.event_handlers.remove(watch.events)
    root.span_handlers.remove(watch.spans)


@pytest.fixture(scope="module")
def engine(few_films, tiny):
    return make(few_films, tiny)


@pytest.fixture(scope="module")
def thinking(few_films, tiny):
    return make(few_films, tiny, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=8))


WISH = bundle("hello", "hi, what do you like?", "a space film")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_query_from_start_to_end(watch, engine, tiny, asynchronous):
    response = await engine.aquery(WISH) if asynchronous else engine.query(WISH)
    assert watch.stages() == STAGES
    (written,), (chosen,) = watch.of("QueryWrittenEvent"), watch.of("ItemSelectedEvent")
    prompt = engine.query_transform.build_prompt(WISH)
    assert written.messages == list(prompt.messages)
    assert "a space film" in written.messages[0].content
    assert written.prompt_tokens == tiny.count_tokens(prompt.messages[0].content)
    assert 0 < written.history_tokens < written.prompt_tokens
    assert written.answer_tokens == [tiny.count_tokens(answer) for answer in written.answers]
    assert written.queries == [response.metadata["query"]]
    assert (written.model, written.adapter, written.fallback) == (tiny.name, None, False)

    rows = response.metadata["candidates"]
    assert [c.id for c in chosen.candidates] == [row["id"] for row in rows]
    assert [c.probability for c in chosen.candidates] == [row["probability"] for row in rows]
    assert [c.retrieval_score for c in chosen.candidates] == [row["retrieval_score"] for row in rows]
    assert all(c.logprob < 0 for c in chosen.candidates)
    assert chosen.item_id == response.metadata["item_id"]
    text = chosen.messages[0].content
    assert all(c.title in text for c in chosen.candidates)
    assert "a space film" in text
    assert 0 < chosen.candidate_tokens < chosen.prompt_tokens
    assert abs(chosen.prompt_tokens - tiny.count_tokens(text)) < 16  # the parts are counted apart
    assert (chosen.outcome, chosen.reasoning, chosen.reasoning_tokens) == ("scored", None, 0)

    (retrieved,), (reranked,) = watch.of("RetrievalEndEvent"), watch.of("ReRankEndEvent")
    assert retrieved.str_or_query_bundle.query_str == response.metadata["query"]
    assert {n.node.node_id for n in reranked.nodes} <= {n.node.node_id for n in retrieved.nodes}
    assert watch.of("QueryEndEvent")[0].response is response
    (asked,), (told,) = watch.of("LLMChatStartEvent"), watch.of("LLMChatEndEvent")
    assert asked.messages == written.messages
    assert told.response.message.content.strip() == written.answers[0].strip()
    assert told.response.additional_kwargs["completion_tokens"] > 0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_spans_are_nested(watch, engine, asynchronous):
    await engine.aquery(WISH) if asynchronous else engine.query(WISH)
    a = "a" if asynchronous else ""
    above = [f"ReGeSQueryEngine._{a}query", f"ReGeSQueryEngine.{a}query"]
    chains = {event.class_name(): watch.chain(event.span_id) for event in watch.of(*STAGES)}
    assert chains["QueryStartEvent"] == above[1:]
    for name, span in (
        (
            "QueryWrittenEvent",
            "ReGeSQueryTransform.arun" if asynchronous else "ReGeSQueryTransform._run",
        ),
        ("RetrievalStartEvent", f"CatalogRetriever.{a}retrieve"),
        ("ItemSelectedEvent", f"ReGeSRerank.{a}rank"),
        ("SynthesizeEndEvent", f"ReGeSSynthesizer.{a}synthesize"),
    ):
        assert span in chains[name], chains
        assert chains[name][-2:] == above
    assert not watch.spans.open_spans


async def test_chain_of_thought(watch, thinking):
    response = await thinking.aquery(WISH)
    asked, told = watch.of("LLMChatStartEvent"), watch.of("LLMChatEndEvent")
    (chosen,) = watch.of("ItemSelectedEvent")
    assert len(asked) == len(told) == 2
    assert asked[1].messages == chosen.messages
    assert chosen.reasoning == response.metadata["reasoning"]
    assert " ".join(told[1].response.message.content.split()) == chosen.reasoning
    assert chosen.reasoning_tokens == 8
    assert watch.stages().index("ReRankStartEvent") < len(STAGES) - 5


def mixed(watch, wishes, root_name):
    """Group by turn; each turn has every stage once and speaks of its own wish only."""
    turns = defaultdict(list)
    for event in watch.of("QueryWrittenEvent", "RetrievalEndEvent", "ItemSelectedEvent"):
        turns[watch.root(event.span_id)].append(event)
    assert len(turns) == len(wishes)
    assert all(root.startswith(root_name) for root in turns)
    said = set()
    for written, retrieved, chosen in turns.values():
        (wish,) = [wish for wish in wishes if wish in written.messages[0].content]
        said.add(wish)
        assert [w for w in wishes if w in chosen.messages[0].content] == [wish]
        assert retrieved.str_or_query_bundle.query_str == written.queries[0]
        assert {c.id for c in chosen.candidates} <= {n.node.node_id for n in retrieved.nodes}
    assert said == set(wishes)


WISHES = ["wish-alpha", "wish-bravo", "wish-charlie", "wish-delta", "wish-echo"]


async def test_turns_of_tasks_are_not_mixed(watch, engine):
    sessions = [ReGeSChatEngine(engine) for _ in WISHES]
    await asyncio.gather(*(session.achat(wish) for session, wish in zip(sessions, WISHES, strict=True)))
    mixed(watch, WISHES, "ReGeSChatEngine.achat")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stream_is_announced_under_its_turn(watch, thinking, asynchronous):
    session = ReGeSChatEngine(thinking)
    if asynchronous:
        stream = await session.astream_chat("a space film")
        text = "".join([piece async for piece in stream.async_response_gen()])
    else:
        stream = session.stream_chat("a space film")
        text = "".join(stream.response_gen)
    (start,), (end,) = watch.of("StreamChatStartEvent"), watch.of("StreamChatEndEvent")
    deltas = watch.of("StreamChatDeltaReceivedEvent")
    assert "".join(event.delta for event in deltas) == text
    (chosen,) = watch.of("ItemSelectedEvent")
    turn = watch.root(chosen.span_id)
    assert turn.startswith(f"ReGeSChatEngine.{'a' if asynchronous else ''}stream_chat")
    assert {watch.root(event.span_id) for event in (start, *deltas, end)} == {turn}


def test_a_batch_has_an_event_for_each_dialogue(watch, engine):
    engine.recommend_batch(["wish-alpha", "wish-bravo"])
    written = watch.of("QueryWrittenEvent")
    assert len(written) == len(watch.of("ItemSelectedEvent")) == 2
    assert "wish-alpha" in written[0].messages[0].content
    assert "wish-bravo" in written[1].messages[0].content


def test_events_are_plain_data(watch, engine):
    engine.query(WISH)
    for event in watch.of("QueryWrittenEvent", "ItemSelectedEvent"):
        again = type(event).model_validate_json(event.model_dump_json(exclude={"class_name"}))
        assert again == event
