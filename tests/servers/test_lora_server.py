"""What ``transformers serve`` does not have: logprobs, JSON schemas, LoRA modules by name, keys.

Against `LoraServer`, a small server that runs a model and its adapters for real.
"""

import logging
import math
import traceback

import pytest

from reges_index import ReGeSQueryEngine, ReGeSQueryTransform, ReGeSRerank, ReGeSSynthesizer
from reges_index.errors import LLMServerError
from reges_index.item_expert.ways import LETTERS, lettered
from reges_index.settings import QueryDecoding
from tests.builders import BOTH_WAYS, bundle, item, nodes_of, ranked
from tests.servers.conftest import KEY
from tests.servers.lora_server import next_tokens
from tests.servers.scripted import client

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat", 1995), item("3", "Heat", 1986)]
MANY = [item(str(n), f"Film {n}") for n in range(len(LETTERS))]
WISH = bundle("something tense in space")
WRONG = "sk-wrong-9876543210fedcba"


def llm_of(lora, model="base", **options):
    own = {"model": model, "api_key": KEY, "temperature": 0.0, "max_tokens": 12}
    return client(lora, **own | {"context_window": 2048, "timeout": 120} | options)


@pytest.mark.parametrize("model", ["base", "item-expert"])
@BOTH_WAYS
async def test_probabilities_are_the_models_own(lora, adapted, model, asynchronous):
    """The same numbers as from the model itself, read without any server."""
    rerank = ReGeSRerank(llm_of(lora, model), min_mass=0)  # a random model hardly says letters
    ranking = await ranked(rerank, MANY, WISH, asynchronous)
    report = ranking.report["rerank"]
    assert (report["score_source"], report["fallbacks"], report["requests"]) == ("logprobs", 0, 1)
    adapter = None if model == "base" else model
    top = next_tokens(adapted, lettered(rerank.build_prompt(MANY, WISH)), adapter, 20)
    chances = [
        math.fsum(math.exp(value) for token, value in top if token.strip() == letter) for letter in LETTERS
    ]
    assert report["letter_mass"] == pytest.approx(math.fsum(chances), rel=1e-3)
    assert report["candidates_unlisted"] == chances.count(0.0) < len(MANY)
    assert math.fsum(c.probability for c in ranking.candidates) == pytest.approx(1)
    by_place = {c.retrieval_rank - 1: c for c in ranking.candidates}
    for place, chance in enumerate(chances):
        logprob = by_place[place].logprob
        assert logprob == (pytest.approx(math.log(chance), abs=1e-3) if chance else None)
    assert ranking.candidates[0].retrieval_rank - 1 == chances.index(max(chances))


def test_an_instructed_model_answers_with_letters(instructed):
    """The embedded model is small and not trained for it; still, "A" is its likeliest first word."""
    report = ReGeSRerank(llm_of(instructed, instructed.base)).rank(nodes_of(FILMS), WISH).report["rerank"]
    assert report["score_source"] == "logprobs"
    assert report["letter_mass"] > 0.2


async def test_a_completion_endpoint_has_logprobs_too(lora):
    rerank = ReGeSRerank(llm_of(lora, is_chat_model=False), min_mass=0)
    nodes = nodes_of(MANY)
    rankings = [rerank.rank(nodes, WISH), await rerank.arank(nodes, WISH)]
    assert [r.report["rerank"]["score_source"] for r in rankings] == ["logprobs"] * 2
    assert lora.requests[-1]["prompt"].startswith("user: ")


@BOTH_WAYS
async def test_output_limited_to_the_candidates(lora, asynchronous):
    llm = llm_of(lora, should_use_structured_outputs=True)
    rerank = ReGeSRerank(llm, mode="constrained")
    ranking = await ranked(rerank, FILMS, WISH, asynchronous)
    report = ranking.report["rerank"]
    assert (report["score_source"], report["fallbacks"]) == ("structured", 0)
    assert (
        report["answer"] == rerank.build_prompt(FILMS, WISH).labels[ranking.candidates[0].retrieval_rank - 1]
    )


async def test_adapters_are_addressed_by_model_name(lora, adapted):
    """The LoRA module writes what the adapter writes in this process, and not what the bare model does."""
    decoding = QueryDecoding(max_new_tokens=12, no_repeat_ngram_size=0)
    remote = ReGeSQueryTransform(llm_of(lora, "query-expert"))
    here = ReGeSQueryTransform(adapted, adapter="query-expert", decoding=decoding)
    bare = ReGeSQueryTransform(adapted, adapter=None, decoding=decoding)
    said = remote.run(WISH).query_str
    assert said == here.run(WISH).query_str == (await remote.arun(WISH)).query_str
    assert said != bare.run(WISH).query_str == ReGeSQueryTransform(llm_of(lora)).run(WISH).query_str


def test_one_engine_two_adapters(lora, few_films):
    """`query_llm` for LLM_QR, `llm` for LLM_G: two names on one server."""
    lora.requests.clear()
    engine = ReGeSQueryEngine.from_defaults(
        few_films,
        llm=llm_of(lora, "item-expert", should_use_structured_outputs=True),
        query_llm=llm_of(lora, "query-expert"),
        mode="constrained",
        similarity_top_k=4,
    )
    response = engine.query(WISH)
    assert [body["model"] for body in lora.requests] == ["query-expert", "item-expert"]
    assert response.metadata["report"]["rerank"]["score_source"] == "structured"
    assert response.metadata["item_id"] in {film.id for film in few_films.items()}


COMPONENTS = {
    "transform": lambda llm: ReGeSQueryTransform(llm).run(WISH),
    "rerank": lambda llm: ReGeSRerank(llm).rank(nodes_of(FILMS), WISH),
    "rerank, structured": lambda llm: ReGeSRerank(llm, mode="constrained").rank(nodes_of(FILMS), WISH),
    "synthesizer": lambda llm: ReGeSSynthesizer(llm, style="sentence").synthesize(WISH, nodes_of(FILMS)),
}


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("place", ["api_key", "header", "environment"])
def test_a_wrong_key_is_never_told(lora, component, place, caplog, monkeypatch):
    """The server answers with the key."""
    caplog.set_level(logging.DEBUG)
    options = {"should_use_structured_outputs": True, "max_retries": 1}
    if place == "api_key":
        options["api_key"] = WRONG
    elif place == "header":
        options |= {"api_key": "none", "default_headers": {"Authorization": f"Bearer {WRONG}"}}
    else:
        monkeypatch.setenv("OPENAI_API_KEY", WRONG)
        options["api_key"] = None
    lora.requests.clear()
    with pytest.raises(LLMServerError, match="HTTP 401") as caught:
        COMPONENTS[component](llm_of(lora, **options))
    error = caught.value
    assert len(lora.requests) == error.attempts == 1
    assert "api_key=" in error.hint
    told = [str(error), repr(error), *traceback.format_exception(error), *map(str, error.args)]
    seen = error
    while (seen := seen.__cause__ or seen.__context__) is not None:
        told.append(repr(seen))
    shown = "\n".join([*told, *(str(record.__dict__) for record in caplog.records), caplog.text])
    assert WRONG not in shown
    assert WRONG.removeprefix("sk-") not in shown


def test_a_model_that_the_server_does_not_have(lora):
    with pytest.raises(LLMServerError, match="nobody at http") as caught:
        ReGeSRerank(llm_of(lora, "nobody", max_retries=2)).rank(nodes_of(FILMS), WISH)
    assert (caught.value.status, caught.value.attempts) == (404, 1)
    assert "know a model 'nobody'" in caught.value.hint
