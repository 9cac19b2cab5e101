"""What users are told of a recommendation, with servers that fail and servers that lack something."""

import pytest
from llama_index.llms.openai_like import OpenAILike

from reges_index import ReGeSChatEngine, ReGeSQueryEngine, ReGeSRerank, ReGeSSynthesizer
from reges_index.engines.notes import notes
from reges_index.ui.html import query_html
from tests.builders import bundle, item, nodes_of
from tests.servers.proxy import answer, fault_proxy
from tests.servers.scripted import call, letters, refusal, scripted_server

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat", 1995), item("3", "Ran", 1985)]
FAILED = "InternalServerError (HTTP 500)"


def llm_at(url):
    return OpenAILike(
        model="m", api_base=url, api_key="plainkey", is_chat_model=True, is_function_calling_model=True,
        max_retries=0, tokenizer=None,
    )  # fmt: skip


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_failed_server_is_told_for_each_part(few_films, asynchronous):
    with fault_proxy("http://127.0.0.1:9/v1") as proxy:
        proxy.always = answer(500, {"error": {"message": "no"}})
        llm = llm_at(proxy.url)
        engine = ReGeSQueryEngine.from_defaults(
            few_films, llm=llm, similarity_top_k=4, on_error="retrieval_order",
            response_synthesizer=ReGeSSynthesizer(llm, style="sentence", on_error="title"),
        )  # fmt: skip
        chat = ReGeSChatEngine(engine)
        reply = await chat.achat("a space film") if asynchronous else chat.chat("a space film")
    told = [
        f"the LLM's server failed ({FAILED}): the last message was searched for",
        f"the LLM or its server failed ({FAILED}): the retriever's order is shown",
        f"the LLM's server failed ({FAILED}): the answer is the title alone",
    ]
    assert notes(reply.metadata["report"]) == told
    found = reply.sources[0].raw_output  # what the web chat shows
    assert notes(found.report) == told
    assert query_html(found).count("<li>") == 3


def test_ways_of_asking_that_failed_are_told_once_each():
    wish, nodes = bundle("something tense"), nodes_of(FILMS)
    with scripted_server() as server:
        rerank = ReGeSRerank(llm_at(server.url))
        lacking, second = refusal("Unsupported parameter: 'logprobs'"), call(ranking=["2"])
        server.script = [lacking, second, lacking, second, second]
        told = [notes(rerank.rank(nodes, wish).report) for _ in range(3)]
        assert all(len(said) == 1 for said in told)
        assert not server.script  # after two refusals in a row it is not asked for logprobs
        assert told[-1] == ["the LLM's server offers no choice by logprobs; it is not asked for any more"]
        rerank = ReGeSRerank(llm_at(server.url))
        server.script = [refusal("the prompt is too long"), call(ranking=["2"])]
        [said] = notes(rerank.rank(nodes, wish).report)
        assert said == "no choice by logprobs (BadRequestError (HTTP 400)); the LLM was asked in another way"
        server.script = [letters(A=0.6, B=0.4)]
        assert notes(rerank.rank(nodes, wish).report) == []


def test_a_model_that_wrote_no_query_is_not_a_failed_server():
    said = notes({"query": {"fallback": True, "error": None}, "rerank": {"outcome": "hallucinated"}})
    assert said == [
        "the model wrote no query; the last message was searched for",
        "the model named no candidate; the nearest item stands in",
    ]
    assert notes({}) == []
