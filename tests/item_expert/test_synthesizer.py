import pytest
from llama_index.core import Settings
from llama_index.core.prompts import PromptTemplate

from reges_index import ReGeSRerank, ReGeSSynthesizer
from reges_index.errors import ConfigError
from reges_index.item_expert.synthesizer import answer_title
from tests.builders import bundle, item, nodes_of

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat", 1995)]


@pytest.fixture(autouse=True)
def _nobody_asks_settings(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(type(Settings), "llm", property(lambda self: pytest.fail("Settings.llm was asked")))


@pytest.fixture
def ranked(tiny):
    return ReGeSRerank(tiny).postprocess_nodes(nodes_of(FILMS), bundle("tense"))


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_title_and_what_is_known(ranked, asynchronous):
    query = bundle("tense").refined(["tense films"], {"query": {"fallback": False}})
    synthesizer = ReGeSSynthesizer()
    response = (
        await synthesizer.asynthesize(query, ranked)
        if asynchronous
        else synthesizer.synthesize(query, ranked)
    )
    best = ranked[0].node
    assert str(response) == best.metadata["title"]
    metadata = response.metadata
    assert metadata["item_id"] == best.node_id
    assert metadata["query"] == "tense films"
    assert metadata["report"]["query"] == {"fallback": False}
    assert metadata["report"]["rerank"]["candidates"] == 2
    assert set(metadata["report"]) == {"query", "rerank"}
    assert [row["rank"] for row in metadata["candidates"]] == [1, 2]
    assert sum(row["probability"] for row in metadata["candidates"]) == pytest.approx(1)
    assert {row["retrieval_score"] for row in metadata["candidates"]} == {0.9, 0.89}
    assert response.source_nodes == ranked


async def test_without_nodes_it_says_so():
    for response in (
        ReGeSSynthesizer().synthesize("x", []),
        await ReGeSSynthesizer(empty_response="none").asynthesize("x", []),
    ):
        assert str(response) in ("Nothing in the catalog fits: no candidate is left to recommend.", "none")
        assert response.metadata["item_id"] is None
        assert response.metadata["candidates"] == []


async def test_a_sentence_begins_with_the_item(tiny, ranked):
    synthesizer = ReGeSSynthesizer(tiny, style="sentence")
    texts = [str(synthesizer.synthesize(bundle("tense"), ranked))]
    texts.append(str(await synthesizer.asynthesize(bundle("tense"), ranked)))
    assert texts[0] == texts[1]
    title = f"{ranked[0].node.metadata['title']} ({ranked[0].node.metadata['year']})"
    assert texts[0].startswith(title)
    assert "\n" not in texts[0]
    report = synthesizer.synthesize(bundle("tense").refined(["x"], {"query": {}}), ranked).metadata["report"]
    assert report["rerank"]["score_source"] == "scored"
    rest = {part: said for part, said in report.items() if part != "rerank"}
    assert rest == {"query": {}, "answer": {"requests": 0, "retries": 0, "error": None}}


async def test_text_chunks_and_prompts(tiny):
    synthesizer = ReGeSSynthesizer(tiny, style="sentence")
    assert synthesizer.get_response("q", ["Alien (1979)\nBy", "x"]) == "Alien (1979)"
    assert (await synthesizer.aget_response("q", [])).startswith("Nothing")
    template = PromptTemplate("{conversation_history} {item}")
    synthesizer.update_prompts({"sentence_prompt": template})
    assert synthesizer.get_prompts() == {"sentence_prompt": template}
    with pytest.raises(ConfigError, match="style"):
        ReGeSSynthesizer(style="poem")
    with pytest.raises(ConfigError, match="on_error"):
        ReGeSSynthesizer(on_error="ignore")


def test_a_year_is_not_said_twice():
    assert answer_title(item("1", "Heat (1995)", 1995)) == "Heat (1995)"
    assert answer_title(item("1", "Heat\n", 1995)) == "Heat (1995)"
    assert answer_title(item("1", "Heat")) == "Heat"
