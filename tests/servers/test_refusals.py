"""A request that a server refuses: the next way is taken, and after two refusals in a row from the start.

The refusals come from the proxy, in the words of real servers.
"""

import pytest

from reges_index import ReGeSRerank
from tests.builders import BOTH_WAYS, bundle, item, ranked
from tests.servers.proxy import PASS, answer
from tests.servers.scripted import call, client, letters

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat", 1995), item("3", "Heat", 1986)]
WISH = bundle("something tense")


def said(message, status=400, **fields):
    return answer(status, {"error": {"message": message, "type": "invalid_request_error", **fields}})


def detail(place, kind, message, **more):
    told = {"type": kind, "loc": ["body", place], "msg": message, **more}
    return answer(422, {"detail": [told]})


REFUSALS = {
    "content filter": said(
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.", code="content_filter", param="prompt",
    ),
    "no reason": answer(403, "<html>Forbidden</html>", kind="text/html"),
    "too large": answer(413, ""),
    "OpenAI": said(
        "Unsupported parameter: 'logprobs' is not supported with this model.",
        param="logprobs", code="unsupported_parameter",
    ),
    "OpenAI's reasoning models": said("You are not allowed to request logprobs from this model", 403),
    "FastAPI": detail("logprobs", "extra_forbidden", "Extra inputs are not permitted", input=True),
    "too many": said("Requested sample logprobs of 20, which is greater than max allowed: 5"),
    "Ollama": said("registry.ollama.ai/library/gemma:2b does not support tools"),
    "a text": answer(400, {"error": "function calling is not enabled for this model"}),
}  # fmt: skip


async def report_of(rerank, asynchronous, best):
    ranking = await ranked(rerank, FILMS, WISH, asynchronous)
    assert ranking.candidates[0].item.id == best
    return ranking.report["rerank"]


@BOTH_WAYS
@pytest.mark.parametrize("mode", ["auto", "score"])
@pytest.mark.parametrize("reason", REFUSALS)
async def test_one_refusal_is_about_its_prompt_and_two_are_remembered(
    server, between, reason, mode, asynchronous, caplog
):
    llm = client(between, max_retries=2)
    server.script += ["Heat (1986)", letters(B=0.9), "Heat (1986)", "Heat (1986)", "Alien", "Alien"]
    between.faults = [REFUSALS[reason], PASS, PASS, REFUSALS[reason], PASS, REFUSALS[reason]]
    report = await report_of(ReGeSRerank(llm, mode=mode), asynchronous, "3")
    assert (report["fallbacks"], report["given_up"], report["requests"]) == (1, [], 2)
    assert "HTTP 4" in report["fallback_reasons"]["logprobs"]
    assert report["retries"] == 0
    assert "logprobs gave no choice" in caplog.text
    report = await report_of(ReGeSRerank(llm, mode=mode), asynchronous, "2")
    assert (report["score_source"], report["fallbacks"], report["requests"]) == ("logprobs", 0, 1)
    for given_up in ([], ["logprobs"]):  # in a row now
        report = await report_of(ReGeSRerank(llm, mode=mode), asynchronous, "3")
        assert (report["fallbacks"], report["given_up"], report["requests"]) == (1, given_up, 2)
    report = await report_of(ReGeSRerank(llm, mode=mode), asynchronous, "1")
    assert (report["fallback_reasons"], report["requests"]) == ({"logprobs": "given up"}, 1)


@BOTH_WAYS
async def test_tools_likewise(server, between, asynchronous):
    refused = REFUSALS["Ollama"]
    server.script += ["3"] * 4
    between.faults = [refused, PASS, refused, PASS]
    llm = client(between, is_function_calling_model=True)
    for requests in (2, 2, 1, 1):
        report = await report_of(ReGeSRerank(llm, mode="rank"), asynchronous, "3")
        assert (report["fallbacks"], report["requests"]) == (1, requests)
    assert report["given_up"] == ["structured"]
    server.script += [call(ranking=["2"])]  # by another LLM they are asked for
    other = ReGeSRerank(client(between, is_function_calling_model=True), mode="rank")
    other = await report_of(other, False, "2")
    assert other["fallbacks"] == 0


async def test_what_all_ways_are_refused_for_teaches_nothing(server, between):
    llm = client(between)
    for _ in range(3):
        between.faults = [REFUSALS["content filter"]] * 2
        kept = ReGeSRerank(llm, on_error="retrieval_order")
        assert (await report_of(kept, False, "1"))["outcome"] == "failed"
    server.script += [letters(C=0.9)]
    assert (await report_of(ReGeSRerank(llm), False, "3"))["score_source"] == "logprobs"
