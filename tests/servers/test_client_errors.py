"""What clients raise without an HTTP status, odd streams, and models that refuse an LLM's settings."""

import asyncio

import pytest

from reges_index import ReGeSQueryTransform, ReGeSRerank, ReGeSSynthesizer
from reges_index.errors import LLMServerError
from reges_index.item_expert import hear_reasoning
from reges_index.models.api import offers_of
from reges_index.remote import is_transient
from tests.builders import BOTH_WAYS, bundle, item, nodes_of, ranked
from tests.servers.proxy import answer
from tests.servers.scripted import client, refusal
from tests.servers.transformers_serve import free_port

SECRET = "sk-live-aaaabbbbccccdddd"
FILMS = [item("1", "Alien"), item("2", "Heat"), item("3", "Up")]
WISH = bundle("something tense")
NO_TEMPERATURE = refusal("Unsupported value: 'temperature' does not support 0.1 with this model.")
NO_MAX_TOKENS = refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")


async def asked(rerank, asynchronous):
    ranking = await ranked(rerank, FILMS, WISH, asynchronous)
    return ranking.candidates[0].item.id, ranking.report["rerank"]


def test_one_engine_in_two_event_loops(server):
    server.script += ["2", "3", "1"]
    rerank = ReGeSRerank(client(server, api_key=SECRET), mode="rank")
    found = [asyncio.run(asked(rerank, True)) for _ in range(3)]
    assert [best for best, _ in found] == ["2", "3", "1"]
    assert [report["retries"] for _, report in found] == [0, 0, 0]


def test_a_broken_connection_has_no_status_and_may_pass(server):
    class APIConnectionError(Exception):
        pass

    assert is_transient(APIConnectionError("Connection error."))
    assert not is_transient(ValueError("no"))
    rerank = ReGeSRerank(
        client(server, api_base=f"http://127.0.0.1:{free_port()}/v1"), on_error="retrieval_order"
    )
    assert asyncio.run(asked(rerank, True))[1]["outcome"] == "failed"


@BOTH_WAYS
@pytest.mark.parametrize(
    "error", [{"message": f"out of credits, {SECRET}", "code": 402}, f"out of credits {SECRET}"]
)
async def test_an_error_with_http_200_gives_its_reason_and_no_key(server, asynchronous, error):
    server.script += [{"body": {"error": error}}] * 2
    with pytest.raises(LLMServerError, match="out of credits") as caught:
        await asked(ReGeSRerank(client(server, api_key=SECRET), mode="generate"), asynchronous)
    assert SECRET not in str(caught.value)
    kept = ReGeSRerank(client(server, api_key=SECRET), mode="generate", on_error="retrieval_order")
    assert (await asked(kept, asynchronous))[1]["outcome"] == "failed"


@BOTH_WAYS
async def test_an_error_event_in_a_stream_is_told_without_the_key(server, asynchronous):
    failing = [{"choices": [{"index": 0, "delta": {"content": "They want"}}]},
               {"error": {"message": f"overloaded, {SECRET}"}}]  # fmt: skip
    server.script += [failing, failing]
    rerank = ReGeSRerank(client(server, api_key=SECRET), mode="reason")
    with hear_reasoning(lambda piece: None), pytest.raises(LLMServerError, match="overloaded") as caught:
        await asked(rerank, asynchronous)
    error = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__


@BOTH_WAYS
async def test_a_last_piece_without_choices_is_skipped(server, asynchronous):
    words = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("They want ", "space.")]
    heard = []
    for last in ({"choices": None, "usage": {"prompt_tokens": 3}}, {"choices": [], "usage": None}):
        server.script += [[*words, last], "2"]
        llm = client(server, api_key=SECRET)
        offers_of(llm).failed("logprobs", lasting=True)
        rerank = ReGeSRerank(llm, mode="reason")
        with hear_reasoning(heard.append):
            best, report = await asked(rerank, asynchronous)
        assert (best, report["reasoning"]) == ("2", "They want space.")
    assert "".join(heard) == "They want space." * 2


@BOTH_WAYS
@pytest.mark.parametrize(
    ("written", "pieces"),
    [("They want space.\n</think>\n\nSlow films then.", (3, 3)), ("Slow films then.", (1, 3))],
)
async def test_thoughts_that_no_mark_opens_are_not_heard(server, written, pieces, asynchronous):
    """The prompt has opened them. Of a model that does not think so, only the first answer is held back."""
    llm = client(server)
    offers_of(llm).failed("logprobs", lasting=True)
    for count in pieces:
        server.script += [written, "2"]
        heard = []
        with hear_reasoning(heard.append):
            _, report = await asked(ReGeSRerank(llm, mode="reason"), asynchronous)
        assert "".join(heard).strip() == report["reasoning"] == "Slow films then."
        assert len(heard) == count


@BOTH_WAYS
@pytest.mark.parametrize("refused", [NO_TEMPERATURE, NO_MAX_TOKENS])
async def test_settings_that_a_model_refuses_are_left_out_and_that_is_remembered(
    server, refused, asynchronous
):
    server.script += [refused, "slow films", refused, "slow films", "slow films", "slow films"]
    llm = client(server, max_tokens=50)
    for requests in (2, 2, 1, 1):
        transform = ReGeSQueryTransform(llm)
        done = await transform.arun(WISH) if asynchronous else transform.run(WISH)
        assert done.query_str == "slow films"
        assert done.report["query"]["requests"] == requests
    for request in server.requests:
        if "temperature" not in request:
            assert request["max_completion_tokens"] == 50
            assert "max_tokens" not in request
    assert ["temperature" in request for request in server.requests] == [True, False, True, *[False] * 3]


@BOTH_WAYS
async def test_a_model_that_thinks_first(server, asynchronous):
    thinks = "<think>\nThey want space.\n</think>\n\n"
    server.script += [thinks + "slow films", thinks + "3, 1", thinks + "It is tense."]
    llm = client(server, api_key=SECRET)
    transform = ReGeSQueryTransform(llm)
    assert (await transform.arun(WISH) if asynchronous else transform.run(WISH)).query_str == "slow films"
    assert (await asked(ReGeSRerank(llm, mode="rank"), asynchronous))[0] == "3"
    synthesizer = ReGeSSynthesizer(llm, style="sentence")
    nodes = nodes_of(FILMS)
    told = await synthesizer.asynthesize(WISH, nodes) if asynchronous else synthesizer.synthesize(WISH, nodes)
    assert str(told) == "Alien. It is tense."
    server.script += ["<think>\nThey want"]
    refined = await transform.arun(WISH) if asynchronous else transform.run(WISH)
    assert (refined.query_str, refined.report["query"]["fallback"]) == ("something tense", True)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("status", "headers", "says", "unwanted"),
    [
        (429, {"retry_after": "31"}, "31 s", "max_retries"),
        (429, {"retry_after": "3600"}, "3600 s", "max_retries"),
        (400, {}, "a setting that the server does not know", "may be longer"),
    ],
)
async def test_hints_are_true(between, status, headers, says, unwanted, asynchronous):
    told = {"error": {"message": "Unknown parameter: logprobs"}}
    between.always = answer(status, told, **headers)
    with pytest.raises(LLMServerError) as caught:
        await asked(ReGeSRerank(client(between, max_retries=1), mode="generate"), asynchronous)
    assert says in caught.value.hint
    assert unwanted not in caught.value.hint
