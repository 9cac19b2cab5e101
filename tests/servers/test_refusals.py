"""A request that a server refuses: for what it lacks, for what is too much for it, or for this prompt only.

The refusals come from the proxy, in the words of real servers.
"""

import pytest
from llama_index.llms.openai_like import OpenAILike

from reges_index import ReGeSRerank
from reges_index.models.api_refusals import refusal_text, says_lacking, says_too_many
from tests.builders import bundle, item, nodes_of
from tests.servers.proxy import PASS, answer, fault_proxy
from tests.servers.scripted import call, letters, scripted_server

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat", 1995), item("3", "Heat", 1986)]
WISH = bundle("something tense")
BOTH_WAYS = pytest.mark.parametrize("asynchronous", [False, True])


def said(message, status=400, **fields):
    return answer(status, {"error": {"message": message, "type": "invalid_request_error", **fields}})


def detail(place, kind, message, **more):
    told = {"type": kind, "loc": ["body", place], "msg": message, **more}
    return answer(422, {"detail": [told]})


THIS_PROMPT = {
    "too long": said(
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens "
        "(8900 in the messages, 100 in the functions). Please reduce the length of the messages or "
        "functions.",
        param="messages", code="context_length_exceeded",
    ),
    "too long, vLLM": said(
        "'max_tokens' or 'max_completion_tokens' is too large: 1. This model's maximum context length is "
        "2048 tokens and your request has 2048 input tokens", param="max_tokens", code=400,
    ),
    "content filter": said(
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.", code="content_filter", param="prompt",
    ),
    "no reason": answer(403, "<html>Forbidden</html>", kind="text/html"),
    "too large": answer(413, ""),
    "the prompt repeated": detail(
        "messages", "string_type", "Input should be a valid string", input="logprobs and tools: unsupported?"
    ),
}  # fmt: skip
NO_LOGPROBS = {
    "OpenAI": said(
        "Unsupported parameter: 'logprobs' is not supported with this model.",
        param="logprobs", code="unsupported_parameter",
    ),
    "OpenAI's reasoning models": said("You are not allowed to request logprobs from this model", 403),
    "Azure": said("Unrecognized request argument supplied: top_logprobs"),
    "FastAPI": detail("logprobs", "extra_forbidden", "Extra inputs are not permitted", input=True),
    "Gemini": said('Invalid JSON payload received. Unknown name "logprobs": Cannot find field.'),
    "max_tokens": said(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
        "instead.",
        param="max_tokens", code="unsupported_parameter",
    ),
}  # fmt: skip
TOO_MANY = {
    "OpenAI": said(
        "Invalid value for 'top_logprobs': must be less than or equal to 5.",
        param="top_logprobs", code="invalid_value",
    ),
    "vLLM": said("Requested sample logprobs of 20, which is greater than max allowed: 5"),
    "FastAPI": detail("top_logprobs", "less_than_equal", "Input should be less than or equal to 5"),
    "not supported above": said("top_logprobs above 5 is not supported"),
    "no number": said("Invalid top_logprobs", 422),
}  # fmt: skip
NO_TOOLS = {
    "Ollama": said("registry.ollama.ai/library/gemma:2b does not support tools"),
    "vLLM": said('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
    "a text": answer(400, {"error": "function calling is not enabled for this model"}),
}


@pytest.fixture
def server():
    with scripted_server() as scripted:
        yield scripted


@pytest.fixture
def between(server):
    with fault_proxy(server.url) as proxy:
        yield proxy


def expert(proxy, **options):
    settings = {"is_chat_model": True, "max_retries": 2, "timeout": 20, "context_window": 8192}
    return ReGeSRerank(OpenAILike(model="m", api_base=proxy.url, api_key="none", **settings | options))


async def report_of(rerank, asynchronous, best):
    nodes = nodes_of(FILMS)
    ranking = await rerank.arank(nodes, WISH) if asynchronous else rerank.rank(nodes, WISH)
    assert ranking.candidates[0].item.id == best
    return ranking.report["rerank"]


@BOTH_WAYS
@pytest.mark.parametrize("reason", THIS_PROMPT)
async def test_a_prompt_that_is_refused_falls_back_and_the_next_one_does_not(
    server, between, reason, asynchronous, caplog
):
    server.script += ["Heat (1986)", letters(B=0.9)]
    between.faults = [THIS_PROMPT[reason], PASS]
    rerank = expert(between)
    report = await report_of(rerank, asynchronous, "3")
    assert (report["score_source"], report["fallbacks"], report["given_up"]) == ("matched", 1, [])
    assert "HTTP 4" in report["fallback_reasons"]["logprobs"]
    assert (report["requests"], report["retries"]) == (2, 0)
    assert "logprobs gave no choice" in caplog.text
    assert "for this prompt" in caplog.text
    report = await report_of(rerank, asynchronous, "2")
    assert (report["score_source"], report["fallbacks"], report["requests"]) == ("logprobs", 0, 1)
    assert report["top_logprobs"] == 20


@BOTH_WAYS
@pytest.mark.parametrize("reason", NO_LOGPROBS)
async def test_a_server_that_says_it_has_no_logprobs_is_not_asked_again(
    server, between, reason, asynchronous, caplog
):
    server.script += ["Heat (1986)", "Alien"]
    between.faults = [NO_LOGPROBS[reason]]
    rerank = expert(between)
    report = await report_of(rerank, asynchronous, "3")
    assert (report["fallbacks"], report["given_up"], report["requests"]) == (1, ["logprobs"], 2)
    assert "from now on" in caplog.text
    report = await report_of(rerank, asynchronous, "1")
    assert (report["fallbacks"], report["given_up"], report["requests"]) == (1, ["logprobs"], 1)
    assert report["fallback_reasons"] == {"logprobs": "given up"}
    assert not any("logprobs" in request for request in server.requests)


@BOTH_WAYS
@pytest.mark.parametrize("reason", [*THIS_PROMPT, *NO_TOOLS])
async def test_tools_are_given_up_only_where_the_server_says_so(server, between, reason, asynchronous):
    lasting = reason in NO_TOOLS
    server.script += ["not a letter", "Heat (1986)", "Heat (1986)" if lasting else call(candidate="3")]
    between.faults = [PASS, NO_TOOLS[reason] if lasting else THIS_PROMPT[reason]]
    rerank = expert(between, is_function_calling_model=True)
    report = await report_of(rerank, asynchronous, "3")
    given_up = ["logprobs", "structured"] if lasting else ["logprobs"]
    assert (report["fallbacks"], report["given_up"], report["requests"]) == (2, given_up, 3)
    report = await report_of(rerank, asynchronous, "3")
    assert (report["fallbacks"], report["given_up"]) == (2 if lasting else 1, given_up)
    assert report["score_source"] == ("matched" if lasting else "structured")


@BOTH_WAYS
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("words", TOO_MANY)
async def test_a_server_that_limits_the_tokens_is_asked_for_five(
    server, between, words, chat, asynchronous, caplog
):
    server.script += [letters(B=0.6, A=0.1)] * 2
    between.faults = [TOO_MANY[words]]
    rerank = expert(between, is_chat_model=chat)
    report = await report_of(rerank, asynchronous, "2")
    assert (report["score_source"], report["fallbacks"], report["top_logprobs"]) == ("logprobs", 0, 5)
    assert (report["requests"], report["retries"], report["candidates_unlisted"]) == (2, 0, 1)
    assert "asking for less" in caplog.text
    report = await report_of(rerank, asynchronous, "2")  # remembered
    assert (report["top_logprobs"], report["requests"], between.requests) == (5, 1, 3)
    asked = "top_logprobs" if chat else "logprobs"
    assert [request[asked] for request in server.requests] == [5, 5]
    server.script += [letters(B=0.6)]
    other = await report_of(expert(between, is_chat_model=chat), asynchronous, "2")
    assert other["top_logprobs"] == 20  # by that component


async def test_a_server_that_gives_fewer_than_five_is_not_asked_again(server, between):
    server.script += ["Alien", "Alien"]
    between.faults = [said("top_logprobs must be at most 3")] * 2
    rerank = expert(between)
    report = await report_of(rerank, False, "1")
    assert (report["requests"], report["fallbacks"], report["given_up"]) == (3, 1, ["logprobs"])
    assert (await report_of(rerank, False, "1"))["requests"] == 1


async def test_after_a_limit_a_prompt_may_still_be_refused_for_itself(server, between):
    server.script += ["Alien", letters(C=0.9)]
    between.faults = [TOO_MANY["OpenAI"], THIS_PROMPT["content filter"], PASS, TOO_MANY["OpenAI"]]
    rerank = expert(between)
    report = await report_of(rerank, False, "1")
    assert (report["requests"], report["fallbacks"], report["given_up"]) == (3, 1, [])
    report = await report_of(rerank, False, "3")  # nothing was learned for sure, so all is asked for again
    assert (report["requests"], report["top_logprobs"], report["fallbacks"]) == (2, 5, 0)


class Told(Exception):
    """A client's error."""

    def __init__(self, body):
        super().__init__("in other words")
        self.body = body


def test_what_a_refusal_says():
    entry = {"type": "extra_forbidden", "loc": ["body", "logprobs"], "input": "secret"}
    said_so = refusal_text(Told({"object": "error", "message": {"detail": [entry]}}))
    assert said_so == "extra_forbidden; body; logprobs"
    assert says_lacking(said_so, ["logprobs"])
    assert not says_lacking(said_so, ["log", "probs", "tools"])
    assert not says_too_many(said_so, ["logprobs"])
    assert refusal_text(Told("a text")) == "in other words"
    deep = {"error": "at the bottom"}
    for _ in range(100):
        deep = {"error": deep}
    assert refusal_text(Told(deep)) == ""
