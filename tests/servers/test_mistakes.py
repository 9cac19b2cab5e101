"""Errors of a program inside an LLM of OpenAI's kind, told from a server that answers nonsense.

Both used to end in the same AttributeError or TypeError, and both were asked again.
"""

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import ValidationError

from reges_index import ReGeSQueryTransform, ReGeSRerank, ReGeSSynthesizer
from reges_index.errors import LLMServerError
from reges_index.item_expert import hear_reasoning
from reges_index.models.api import single_attempt
from tests.builders import BOTH_WAYS, bundle, item, nodes_of, ranked
from tests.servers.proxy import PASS, Fault, answer
from tests.servers.scripted import call, client, letters

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat", 1995), item("3", "Heat", 1986)]
WISH = bundle("something tense")


class NoSuchArgument(OpenAILike):
    """Gives its client an argument that this one does not take."""

    def _get_model_kwargs(self, **kwargs):
        return {**super()._get_model_kwargs(**kwargs), "no_such_argument": 1}


class NoSuchAttribute(OpenAILike):
    """Asks for an attribute that it does not have."""

    def _get_model_kwargs(self, **kwargs):
        return super()._get_model_kwargs(**kwargs, user=self.account)


class BadMessage(OpenAILike):
    """Makes a message that no message can be."""

    def _get_model_kwargs(self, **kwargs):
        ChatMessage(role="nobody", content="")
        return super()._get_model_kwargs(**kwargs)


class BadReading(OpenAILike):
    """Makes nothing of a good answer."""

    def chat(self, messages, **kwargs):
        return super().chat(messages, **kwargs).message.words

    async def achat(self, messages, **kwargs):
        return (await super().achat(messages, **kwargs)).message.words


MISTAKES = {
    NoSuchArgument: (TypeError, "no_such_argument", 0),
    NoSuchAttribute: (AttributeError, "account", 0),
    BadMessage: (ValidationError, "role", 0),
    BadReading: (AttributeError, "words", 1),
}
NODES = nodes_of(FILMS)
COMPONENTS = {
    "transform": lambda llm: (ReGeSQueryTransform(llm, on_error="last_message"), WISH),
    "rerank": lambda llm: (ReGeSRerank(llm, mode="generate", on_error="retrieval_order"), NODES, WISH),
    "logprobs": lambda llm: (ReGeSRerank(llm, on_error="retrieval_order"), NODES, WISH),
    "structured": lambda llm: (ReGeSRerank(llm, mode="constrained"), NODES, WISH),
    "synthesizer": lambda llm: (ReGeSSynthesizer(llm, style="sentence", on_error="title"), WISH, NODES),
}
VERBS = {
    ReGeSQueryTransform: ("run", "arun"),
    ReGeSRerank: ("rank", "arank"),
    ReGeSSynthesizer: ("synthesize", "asynthesize"),
}


def llm_of(proxy, kind=OpenAILike, **options):
    return client(proxy, kind, **{"max_retries": 2} | options)


async def ask(component, llm, asynchronous):
    asked, *given = COMPONENTS[component](llm)
    verb = getattr(asked, VERBS[type(asked)][asynchronous])
    return await verb(*given) if asynchronous else verb(*given)


@BOTH_WAYS
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("component", COMPONENTS)
async def test_a_mistake_comes_up_at_once_as_what_it_is(server, between, component, mistake, asynchronous):
    """Also where a server that fails would be passed over: this one has not failed."""
    kind, words, sent = MISTAKES[mistake]
    server.script += ["Alien"]
    llm = llm_of(between, mistake, should_use_structured_outputs=True)
    with pytest.raises(kind, match=words):
        await ask(component, llm, asynchronous)
    assert between.requests == sent


def completion(**message):
    return answer(200, {"choices": [{"message": {"role": "assistant", "content": "Alien"} | message}]})


def with_logprobs(logprobs):
    message = {"role": "assistant", "content": "A"}
    return answer(200, {"choices": [{"message": message, "logprobs": logprobs}]})


NONSENSE = {
    "nothing": answer(200, ""),
    "half JSON": answer(200, '{"choices": [{"mess'),
    "no text at all": Fault(instead=b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n\xff{"),
    "a page": answer(200, "<html>Welcome!</html>", kind="text/html"),
    "null": answer(200, "null"),
    "a number": answer(200, "5"),
    "a list": answer(200, [{"choices": []}]),
    "no choices": answer(200, {"choices": []}),
    "choices of another kind": answer(200, {"choices": {"0": "Alien"}}),
    "an error with status 200": answer(200, {"error": {"message": "no provider"}}),
    "no message": answer(200, {"choices": [{"message": None}]}),
    "a role that is none": completion(role="nobody"),
    "content of another kind": completion(content={"a": [1]}),
    "tool calls of another kind": completion(tool_calls=["Alien"]),
    "logprobs of another kind": with_logprobs({"content": [{"top_logprobs": [{"token": "A"}]}]}),
}


@BOTH_WAYS
@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.usefixtures("quick_retries")
async def test_nonsense_is_asked_again(server, between, nonsense, asynchronous):
    server.script += [letters(B=0.9), letters(B=0.9)]
    between.faults = [NONSENSE[nonsense], PASS]
    ranking = await ask("logprobs", llm_of(between), asynchronous)
    assert ranking.candidates[0].item.id == "2"
    report = ranking.report["rerank"]
    assert (report["requests"], report["retries"], report["fallbacks"]) == (2, 1, 0)
    between.always, between.requests = NONSENSE[nonsense], 0
    llm = llm_of(between, max_retries=1)
    rerank = ReGeSRerank(llm)
    with pytest.raises(LLMServerError, match="UnreadableAnswer: the answer is") as caught:
        await ranked(rerank, FILMS, WISH, asynchronous)
    assert (between.requests, caught.value.attempts) == (2, 2)
    assert "speak OpenAI's protocol" in caught.value.hint


@BOTH_WAYS
@pytest.mark.parametrize("written", [
    call(candidate="4"), call(title="Alien"), {"tool": "{broken"}, {"tool": "[1, 2]"}, {"tool": '"3"'},
    {"tool": "null"}, {"tool": ""}, "no call at all", "",
])  # fmt: skip
async def test_what_a_model_writes_is_no_mistake_of_the_program(server, between, written, asynchronous):
    """Not asked again in the same way, but in another one; as before."""
    server.script += [written, "Heat (1986)"]
    rerank = ReGeSRerank(llm_of(between, is_function_calling_model=True), mode="constrained")
    ranking = await ranked(rerank, FILMS, WISH, asynchronous)
    report = ranking.report["rerank"]
    assert (ranking.candidates[0].item.id, report["fallbacks"], report["retries"]) == ("3", 1, 0)
    assert report["given_up"] == []


@BOTH_WAYS
@pytest.mark.parametrize("options", [{}, {"reuse_client": False}])
async def test_a_server_may_leave_out_what_nobody_reads(between, options, asynchronous):
    between.always = completion()
    ranking = await ask("rerank", llm_of(between, **options), asynchronous)
    assert ranking.report["rerank"]["outcome"] == "matched"
    assert ranking.candidates[0].item.id == "1"


def piece(text):
    return answer(200, f"data: {text}\n\ndata: [DONE]\n\n", kind="text/event-stream")


@pytest.mark.parametrize(
    "nonsense", ['{"choices": [{"del', "5", "null", "{}", '{"choices": [{"delta": "Alien"}]}']
)
@pytest.mark.usefixtures("quick_retries")
def test_nonsense_in_a_stream(server, between, nonsense):
    """Before its first piece it is asked again; behind it, it is an error of the server."""
    good = '{"choices": [{"delta": {"role": "", "content": "It is tense."}}]}'
    server.script += [letters(B=0.9)]
    between.faults = [piece(nonsense), piece(good), PASS]
    rerank = ReGeSRerank(llm_of(between), mode="reason")
    heard = []
    with hear_reasoning(heard.append):
        report = rerank.rank(NODES, WISH).report["rerank"]
    assert (report["reasoning"], report["requests"], report["retries"]) == ("It is tense.", 3, 1)
    assert heard == ["It is tense."]
    between.faults = [piece(f"{good}\n\ndata: {nonsense}")]
    with hear_reasoning(heard.append), pytest.raises(LLMServerError, match="UnreadableAnswer"):
        rerank.rank(NODES, WISH)


def test_the_users_own_client_stays_as_it_is(between):
    llm = llm_of(between)
    own = llm._get_client()
    create = own.chat.completions.create
    copy = single_attempt(llm)
    assert copy._get_client().chat.completions.create != create
    assert copy._get_client().max_retries == 0
    assert llm._get_client() is own
    assert (own.chat.completions.create, own.max_retries) == (create, 2)
    assert type(llm) is OpenAILike
    assert isinstance(copy, OpenAILike)
    assert copy.class_name() == "OpenAILike"
