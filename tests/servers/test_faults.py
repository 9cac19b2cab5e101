"""A proxy that breaks connections on purpose, between the components and ``transformers serve``."""

import asyncio
import time

import pytest
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.llms.openai import OpenAI

from reges_index import ReGeSQueryEngine, ReGeSQueryTransform, ReGeSRerank, ReGeSSynthesizer
from reges_index.driver import arun
from reges_index.errors import ConfigError, LLMServerError
from reges_index.models.backend import ApiBackend
from tests.builders import BOTH_WAYS, bundle, item, nodes_of, ranked, ticks_during
from tests.servers.proxy import Fault, answer
from tests.servers.test_real_server import openai_like
from tests.servers.transformers_serve import free_port

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat", 1995), item("3", "Heat", 1986)]
WISH = bundle("something tense in space")
SECRET = "sk-live-aaaabbbbccccdddd"
BROKEN = {"error": {"message": f"no, {SECRET}"}}

FAULTS = {
    "429": answer(429, BROKEN, retry_after="0.01"),
    "500": answer(500, BROKEN),
    "503 as a page": answer(503, "<html>busy</html>", kind="text/html"),
    "cut in the middle": Fault(kept=0.7),
    "hung up": Fault(kept=0.0),
    "a page": answer(200, "<html>Welcome!</html>", kind="text/html"),
    "other JSON": answer(200, {"hello": 1}),
    "another protocol": Fault(instead=b"220 mail.example.org ESMTP\r\n"),
}


def llm_of(proxy, **options):
    return openai_like(proxy, **{"api_key": SECRET, "max_retries": 2, "max_tokens": 2} | options)


async def ask(component, llm, asynchronous, **options):
    """One request by one component; what it reports of it."""
    if component == "transform":
        transform = ReGeSQueryTransform(llm, **options)
        done = await transform.arun(WISH) if asynchronous else transform.run(WISH)
        return done.report["query"]
    if component == "rerank":
        rerank = ReGeSRerank(llm, mode="generate", **options)
        ranking = await ranked(rerank, FILMS, WISH, asynchronous)
        assert [c.item.id for c in ranking.candidates] == ["1", "2", "3"]
        return ranking.report["rerank"]
    synthesizer = ReGeSSynthesizer(llm, style="sentence")
    nodes = nodes_of(FILMS)
    if asynchronous:
        return str(await synthesizer.asynthesize(WISH, nodes))
    return str(synthesizer.synthesize(WISH, nodes))


COMPONENTS = ("transform", "rerank", "synthesizer")


@BOTH_WAYS
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("quick_retries")
async def test_one_fault_is_retried(proxy, fault, asynchronous):
    for component in COMPONENTS:
        proxy.faults, proxy.requests = [FAULTS[fault]], 0
        report = await ask(component, llm_of(proxy), asynchronous)
        assert proxy.requests == 2
        if component != "synthesizer":
            assert (report["requests"], report["retries"], report["error"]) == (2, 1, None)
        else:
            assert report.startswith("Alien (1979)")


@BOTH_WAYS
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("quick_retries")
async def test_a_fault_that_stays_is_one_clear_error_or_what_was_asked_for(
    proxy, fault, asynchronous, caplog
):
    proxy.always = FAULTS[fault]
    for component in COMPONENTS:
        proxy.requests = 0
        with pytest.raises(LLMServerError, match=f"gpt-4o-mini at {proxy.url} gave no answer") as caught:
            await ask(component, llm_of(proxy), asynchronous)
        assert caught.value.attempts == proxy.requests == 3
        assert "after 3 attempts" in caught.value.message
        assert caught.value.hint
        assert SECRET not in str(caught.value)
    report = await ask("rerank", llm_of(proxy), asynchronous, on_error="retrieval_order")
    assert (report["outcome"], report["score_source"], report["retries"]) == ("failed", "retrieval", 2)
    assert report["error"] == caught.value.kind
    report = await ask("transform", llm_of(proxy), asynchronous, on_error="last_message")
    assert (report["fallback"], report["retries"], report["error"]) == (True, 2, caught.value.kind)
    assert SECRET not in caplog.text


@BOTH_WAYS
@pytest.mark.usefixtures("quick_retries")
async def test_without_a_sentence_the_title_is_the_answer(proxy, asynchronous, caplog):
    proxy.always = FAULTS["500"]
    llm = llm_of(proxy, max_retries=1)
    synthesizer = ReGeSSynthesizer(llm, style="sentence", on_error="title")
    query, nodes = WISH.refined(["tense"], {"query": {"fallback": False}}), nodes_of(FILMS)
    if asynchronous:
        response = await synthesizer.asynthesize(query, nodes)
    else:
        response = synthesizer.synthesize(query, nodes)
    failed = {"requests": 2, "retries": 1, "error": "InternalServerError (HTTP 500)"}
    assert response.metadata["report"] == {"query": {"fallback": False}, "answer": failed}
    assert (response.metadata["item_id"], proxy.requests) == ("1", 2)
    assert str(response) == "Alien"
    assert "the title is the answer" in caplog.text
    assert SECRET not in caplog.text
    proxy.always = Fault()  # the server is back
    again = synthesizer.synthesize(query, nodes)
    assert again.metadata["report"]["answer"] == {"requests": 1, "retries": 0, "error": None}
    assert str(again).startswith("Alien (1979)")


@BOTH_WAYS
@pytest.mark.usefixtures("quick_retries")
async def test_an_engine_recommends_while_its_server_is_down(proxy, asynchronous, few_films):
    llm = llm_of(proxy, max_retries=0)
    engine = ReGeSQueryEngine.from_defaults(
        few_films, llm=llm, similarity_top_k=4, on_error="retrieval_order",
        response_synthesizer=ReGeSSynthesizer(llm, style="sentence", on_error="title"),
    )  # fmt: skip
    proxy.always = FAULTS["500"]
    response = await engine.aquery(WISH) if asynchronous else engine.query(WISH)
    report, rows = response.metadata["report"], response.metadata["candidates"]
    kind = "InternalServerError (HTTP 500)"
    assert [report[part]["error"] for part in ("query", "rerank", "answer")] == [kind] * 3
    assert response.metadata["query"] == "something tense in space"
    nearest = few_films.as_retriever(similarity_top_k=4).retrieve("something tense in space")
    assert [row["id"] for row in rows] == [node.node_id for node in nearest]
    assert str(response) == rows[0]["title"]
    with pytest.raises(LLMServerError):
        ReGeSQueryEngine.from_defaults(few_films, llm=llm, similarity_top_k=4).query(WISH)


@BOTH_WAYS
@pytest.mark.usefixtures("quick_retries")
async def test_the_last_message_is_searched_for(proxy, asynchronous):
    proxy.always = FAULTS["500"]
    transform = ReGeSQueryTransform(llm_of(proxy, max_retries=0), on_error="last_message")
    refined = await transform.arun(WISH) if asynchronous else transform.run(WISH)
    assert refined.query_str == "something tense in space"
    assert refined.messages == WISH.messages
    assert refined.report["query"]["error"] == "InternalServerError (HTTP 500)"


@pytest.mark.usefixtures("quick_retries")
def test_one_failure_in_a_batch_is_that_ones_own(proxy):
    transform = ReGeSQueryTransform(llm_of(proxy, max_retries=0), on_error="last_message")
    proxy.faults = [Fault(), FAULTS["a page"], Fault()]
    done = transform.run_batch([bundle(f"wish {n}") for n in range(3)])
    assert [bool(refined.report["query"]["error"]) for refined in done] == [False, True, False]
    assert done[1].query_str == "wish 1"


@pytest.mark.usefixtures("quick_retries")
async def test_after_an_error_nothing_goes_on_in_the_background(proxy):
    proxy.faults, proxy.always = [answer(401, BROKEN)], FAULTS["500"]
    with pytest.raises(LLMServerError, match="HTTP 401"):
        await arun(ApiBackend(llm_of(proxy, max_retries=8)).said([WISH.messages] * 4))
    await asyncio.sleep(0.2)  # what was on its way has arrived
    sent = proxy.requests
    await asyncio.sleep(0.6)
    assert proxy.requests == sent < 4 * 9


@BOTH_WAYS
async def test_too_slow(proxy, asynchronous):
    """The LLM's own time-out; what comes later is not waited for."""
    proxy.always = Fault(delay_s=30)
    start = time.monotonic()
    with pytest.raises(LLMServerError, match="APITimeoutError") as caught:
        await ask("rerank", llm_of(proxy, timeout=0.3, max_retries=1), asynchronous)
    assert time.monotonic() - start < 10
    assert proxy.requests == caught.value.attempts == 2
    assert "timeout=" in caught.value.hint


async def test_waiting_leaves_the_loop_free(proxy):
    proxy.always = answer(429, BROKEN)
    rerank = ReGeSRerank(llm_of(proxy, max_retries=1), mode="generate", on_error="retrieval_order")
    ranking, ticks, _ = await ticks_during(rerank.arank(nodes_of(FILMS), WISH))
    assert ranking.report["rerank"]["retries"] == 1
    assert ticks > 20  # half a second of back-off at least


@BOTH_WAYS
async def test_retry_after_is_obeyed_and_has_a_limit(proxy, asynchronous):
    proxy.faults = [answer(429, BROKEN, retry_after="1")]
    start = time.monotonic()
    assert (await ask("rerank", llm_of(proxy), asynchronous))["retries"] == 1
    assert time.monotonic() - start >= 1
    proxy.requests, proxy.faults = 0, [answer(429, BROKEN, retry_after="3600")]
    with pytest.raises(LLMServerError, match="HTTP 429") as caught:
        await ask("rerank", llm_of(proxy), asynchronous)
    assert (proxy.requests, caught.value.attempts) == (1, 1)
    assert "asks to wait 3600 s" in caught.value.hint


@BOTH_WAYS
@pytest.mark.usefixtures("quick_retries")
async def test_a_server_that_is_down(proxy, asynchronous):
    where = f"http://user:{SECRET}@127.0.0.1:{free_port()}/v1"
    llm = openai_like(proxy, api_base=where, max_retries=1, api_key=SECRET)
    with pytest.raises(LLMServerError, match="after 2 attempts: APIConnectionError") as caught:
        await ask("rerank", llm, asynchronous)
    assert "is the server running" in caught.value.hint
    assert SECRET not in str(caught.value)
    report = await ask("rerank", llm, asynchronous, on_error="retrieval_order")
    assert (report["outcome"], report["retries"]) == ("failed", 1)


@pytest.mark.usefixtures("quick_retries")
def test_the_llm_itself_keeps_its_own_settings_and_its_retries_do_not_multiply(proxy):
    """Two retry loops of the client's libraries around ours would send 3 * 3 * 3 requests."""
    llm = llm_of(proxy)
    llm.chat(list(WISH.messages))  # its client is made now, with two retries
    proxy.requests, proxy.always = 0, FAULTS["500"]
    with pytest.raises(LLMServerError):
        ReGeSRerank(llm).rank(nodes_of(FILMS), WISH)
    assert proxy.requests == 3
    assert llm.max_retries == llm._get_client().max_retries == 2


@pytest.mark.usefixtures("quick_retries")
def test_faults_before_every_way_of_asking(proxy):
    """Logprobs, JSON schema and text, each of them answered at the second attempt."""
    llm = OpenAI(model="gpt-4o-mini", api_base=proxy.url, api_key=SECRET, max_retries=1, max_tokens=2)
    proxy.faults = [FAULTS["500"], Fault()] * 3
    report = ReGeSRerank(llm).rank(nodes_of(FILMS), WISH).report["rerank"]
    assert (report["requests"], report["retries"], report["fallbacks"]) == (6, 3, 2)


class Broken(CustomLLM):
    """An LLM class of the user's own with an error in it, which is his to see."""

    max_retries: int = 3

    @property
    def metadata(self):
        from llama_index.core.llms import LLMMetadata

        return LLMMetadata(model_name="broken")

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        raise KeyError("my own mistake")

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise KeyError("my own mistake")


@BOTH_WAYS
async def test_errors_that_are_not_the_servers_are_left_as_they_are(asynchronous):
    for component in COMPONENTS:
        with pytest.raises(KeyError, match="my own mistake"):
            await ask(component, Broken(), asynchronous)
    report = await ask("rerank", Broken(), asynchronous, on_error="retrieval_order")
    assert (report["outcome"], report["error"]) == ("failed", "KeyError")


def test_unknown_names_are_refused(tiny):
    with pytest.raises(ConfigError, match="on_error"):
        ReGeSQueryTransform(tiny, on_error="ignore")
