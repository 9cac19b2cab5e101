"""Every kind of ``llm`` in every component; those behind an API ask a real ``transformers serve``.

It has no logprobs and no structured output (it ignores both), so these fall back here; see
``test_lora_server.py`` for a server that has them.
"""

import pytest
from llama_index.llms.huggingface import HuggingFaceLLM
from llama_index.llms.openai import OpenAI

from reges_index import LocalLM, ReGeSQueryEngine, ReGeSQueryTransform, ReGeSRerank
from reges_index.errors import LLMServerError
from reges_index.models.backend import wrap_llm
from reges_index.settings import QueryDecoding
from tests.builders import bundle, item, nodes_of
from tests.servers.scripted import client
from tests.tiny import tiny_model, tiny_tokenizer

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat", 1995), item("3", "Heat", 1986)]
WISH = bundle("hello", "hi", "something tense in space")
TOKENS = 6
# Greedy and as plain as a server's, so that all four kinds have to say the same.
DECODING = QueryDecoding(max_new_tokens=TOKENS, no_repeat_ngram_size=0)


def openai_like(server, model="gpt-4o-mini", **options):
    own = {"model": model, "temperature": 0.0, "max_tokens": TOKENS, "context_window": 4096, "timeout": 120}
    return client(server, **own | options)


@pytest.fixture(scope="module")
def llms(served, tiny):
    """The same weights four times."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer))
    options = {"api_base": served.url, "api_key": "none", "temperature": 0.0, "max_tokens": TOKENS}
    return {
        "LocalLM": tiny,
        "HuggingFaceLLM": HuggingFaceLLM(model=model, tokenizer=tokenizer, context_window=4096),
        "OpenAI": OpenAI(model="gpt-4o-mini", max_retries=0, timeout=120, **options),
        "OpenAILike": openai_like(served),
    }


KINDS = pytest.mark.parametrize("kind", ["LocalLM", "HuggingFaceLLM", "OpenAI", "OpenAILike"])


@KINDS
async def test_query_transform(llms, kind):
    transform = ReGeSQueryTransform(llms[kind], decoding=DECODING)
    wanted = ReGeSQueryTransform(llms["LocalLM"], decoding=DECODING).run(WISH).query_str
    refined = transform.run(WISH)
    assert refined.query_str == (await transform.arun(WISH)).query_str == wanted
    report = refined.report["query"]
    assert (report["fallback"], report["error"], report["retries"]) == (False, None, 0)
    assert report["requests"] == (0 if isinstance(llms[kind], LocalLM) or wrap_llm(llms[kind]) else 1)


@KINDS
async def test_rerank(llms, kind):
    rerank = ReGeSRerank(llms[kind])
    nodes = nodes_of(FILMS)
    rankings = [rerank.rank(nodes, WISH), await rerank.arank(nodes, WISH), rerank.rank(nodes, WISH)]
    for number, ranking in enumerate(rankings):
        assert sorted(c.item.id for c in ranking.candidates) == ["1", "2", "3"]
        report = ranking.report["rerank"]
        if kind in ("LocalLM", "HuggingFaceLLM"):
            assert (report["score_source"], report["requests"], report["fallbacks"]) == ("scored", 0, 0)
            continue
        # No logprobs, no schema: a random model's text names nothing, so the retriever's order stays.
        tried = 2 if kind == "OpenAI" else 1
        assert (report["outcome"], report["score_source"]) == ("hallucinated", "retrieval")
        assert report["fallbacks"] == tried
        # Logprobs are asked for once, and structured output twice: what failed twice is given up.
        assert report["requests"] == ((3, 2, 1) if kind == "OpenAI" else (2, 1, 1))[number]
        assert [c.item.id for c in ranking.candidates] == ["1", "2", "3"]


async def test_a_whole_engine(served, few_films):
    engine = ReGeSQueryEngine.from_defaults(few_films, llm=openai_like(served), similarity_top_k=5)
    for response in (engine.query(WISH), await engine.aquery(WISH)):
        assert response.metadata["item_id"] in {film.id for film in few_films.items()}
        report = response.metadata["report"]
        assert report["rerank"]["score_source"] in ("matched", "retrieval")
        assert report["query"]["requests"] == 1


def test_the_embedded_model_behind_a_server_names_a_candidate(served):
    repeat = "{candidates}{conversation_history}\nRepeat exactly, and nothing else: Heat (1986)"
    llm = openai_like(served, "smollm2", max_tokens=12)
    ranking = ReGeSRerank(llm, mode="generate", select_prompt=repeat).rank(nodes_of(FILMS[1:]), bundle("hi"))
    report = ranking.report["rerank"]
    assert (report["score_source"], report["fallbacks"]) == ("matched", 0)
    assert ranking.candidates[0].item.title == "Heat"


async def test_a_model_without_chat_template(served):
    """As a chat it is an error that says what to do; doing that works."""
    with pytest.raises(LLMServerError, match="HTTP 500") as caught:
        ReGeSRerank(openai_like(served, "bare"), mode="generate").rank(nodes_of(FILMS), WISH)
    assert "is_chat_model=False" in caught.value.hint
    llm = openai_like(served, "bare", is_chat_model=False)
    transform = ReGeSQueryTransform(llm)
    assert transform.run(WISH).query_str == (await transform.arun(WISH)).query_str != ""
    ranking = await ReGeSRerank(llm).arank(nodes_of(FILMS), WISH)
    assert ranking.report["rerank"]["error"] is None
    assert len(ranking.candidates) == 3


def test_a_huggingface_llm_without_chat_template(caplog):
    """A documented plain frame (`ChatFrame`): "User: ..." lines, and a warning."""
    tokenizer = tiny_tokenizer(chat=False)
    bare = HuggingFaceLLM(
        model=tiny_model(vocab_size=len(tokenizer)), tokenizer=tokenizer, context_window=4096
    )
    ranking = ReGeSRerank(bare).rank(nodes_of(FILMS), WISH)
    assert ranking.report["rerank"]["score_source"] == "scored"
    assert ReGeSQueryTransform(bare, decoding=DECODING).run(WISH).query_str
    assert "no chat template" in caplog.text
