"""LLMs behind an API: which way of asking is taken, against a server that answers what it is told.

``tests/servers`` has the same components against servers that run a model.
"""

import math

import pytest
from llama_index.core.base.llms.types import LogProb
from llama_index.llms.openai import OpenAI

from reges_index import ReGeSRerank
from reges_index.errors import ConfigError
from reges_index.item_expert.selection import NoChoice
from reges_index.item_expert.ways import LETTERS, read_letters
from tests.builders import BOTH_WAYS, bundle, item, nodes_of, ranked
from tests.servers.scripted import call, client, letters, refusal

FILMS = [item("1", "Alien", 1979, "A crew."), item("2", "Heat {x}", 1995), item("3", "Heat {x}", 1986)]
WISH = bundle("something tense")


def expert(server, *, tools=False, llm_options=None, mode="score", **options):
    llm = client(server, is_function_calling_model=tools, **(llm_options or {}))
    return ReGeSRerank(llm, mode=mode, **options)


async def ranking_of(rerank, asynchronous, films=FILMS):
    ranking = await ranked(rerank, films, WISH, asynchronous)
    assert sorted(c.item.id for c in ranking.candidates) == sorted(film.id for film in films)
    return ranking


async def picked(rerank, asynchronous):
    """The item and the report of a ranking that has no probabilities."""
    ranking = await ranking_of(rerank, asynchronous)
    assert all(c.probability is None for c in ranking.candidates)
    assert all(c.node.score == c.retrieval_score for c in ranking.candidates)
    return ranking.candidates[0].item.id, ranking.report["rerank"]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("script", "best", "outcome", "fallbacks"),
    [
        ([call(candidate="3")], "3", "structured", 0),
        ([call(candidate="4"), "Heat {x} (1986)"], "3", "matched", 1),
        ([call(candidate="0"), "Alien"], "1", "matched", 1),
        ([call(title="Alien"), "Titanic"], "1", "hallucinated", 1),
        ([{"tool": "{broken"}, "Heat {x} (1995)"], "2", "matched", 1),
        (["Alien", "Heat {x} (1986)"], "3", "matched", 1),
        ([400, "Alien"], "1", "matched", 1),
        ([403, "Alien"], "1", "matched", 1),
    ],
)
async def test_function_calling(server, script, best, outcome, fallbacks, asynchronous):
    server.script += script
    found, report = await picked(expert(server, tools=True, mode="constrained"), asynchronous)
    assert (found, report["outcome"], report["fallbacks"]) == (best, outcome, fallbacks)
    assert report["score_source"] == ("retrieval" if outcome == "hallucinated" else outcome)
    assert (report["requests"], report["retries"]) == (len(server.requests), 0) == (len(script), 0)
    asked = server.requests[0]
    schema = asked["tools"][0]["function"]["parameters"]["properties"]["candidate"]
    assert schema["enum"] == ["1", "2", "3"]
    assert "3. Heat {x} (1986)" in asked["messages"][-1]["content"]
    assert report["mode"] == "api"


@BOTH_WAYS
async def test_json_schema(server, asynchronous):
    server.script += ['{"candidate": "2"}', '{"candidate": "7"}', "Alien"]
    schema = {"should_use_structured_outputs": True}
    rerank = expert(server, mode="constrained", llm_options=schema)
    found, report = await picked(rerank, asynchronous)
    assert (found, report["score_source"], report["fallbacks"]) == ("2", "structured", 0)
    asked = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert asked["properties"]["candidate"]["enum"] == ["1", "2", "3"]
    found, report = await picked(rerank, asynchronous)
    assert (found, report["score_source"], report["fallbacks"]) == ("1", "matched", 1)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("answer", "best", "outcome"),
    [("Heat {x} (1986)", "3", "matched"), ("\x00?!", "1", "hallucinated"), ("", "1", "hallucinated")],
)
async def test_plain_text(server, answer, best, outcome, asynchronous):
    server.script.append(answer)
    found, report = await picked(expert(server, mode="generate", tools=True), asynchronous)
    assert (found, report["outcome"], report["fallbacks"]) == (best, outcome, 0)
    assert not {"tools", "logprobs"} & set(server.requests[0])


@BOTH_WAYS
async def test_logprobs_of_letters(server, asynchronous):
    server.script.append(letters(B=0.5, _B=0.1, The=0.2, A=0.1))
    ranking = await ranking_of(expert(server), asynchronous)
    report = ranking.report["rerank"]
    assert [c.item.id for c in ranking.candidates] == ["2", "1", "3"]
    # C is not listed: at most what is left (0.1), and no likelier than the least likely token given.
    assert [c.probability for c in ranking.candidates] == pytest.approx([0.6 / 0.8, 0.1 / 0.8, 0.1 / 0.8])
    assert [c.logprob for c in ranking.candidates] == [
        pytest.approx(math.log(0.6)),
        pytest.approx(math.log(0.1)),
        None,
    ]
    assert (report["score_source"], report["fallbacks"], report["candidates_unlisted"]) == ("logprobs", 0, 1)
    assert report["letter_mass"] == pytest.approx(0.7)
    [asked] = server.requests
    assert (asked["max_tokens"], asked["logprobs"], asked["top_logprobs"]) == (1, True, 20)
    assert "\nC. Heat {x} (1986)" in asked["messages"][-1]["content"]


@BOTH_WAYS
async def test_a_server_without_logprobs_is_not_asked_for_them_again(server, asynchronous):
    no_tools = refusal("tools are not supported")
    server.script += ["B", call(candidate="3"), call(candidate="2"), no_tools, "Alien", no_tools, "Alien"]
    rerank = expert(server, tools=True)
    found, report = await picked(rerank, asynchronous)
    assert (found, report["score_source"], report["fallbacks"]) == ("3", "structured", 1)
    assert report["fallback_reasons"] == {"logprobs": "the server gives no logprobs"}
    assert report["given_up"] == ["logprobs"]
    found, report = await picked(rerank, asynchronous)
    assert (found, report["score_source"], report["fallbacks"]) == ("2", "structured", 1)
    assert report["fallback_reasons"] == {"logprobs": "given up"}
    assert ["logprobs" in request for request in server.requests] == [True, False, False]
    for given_up in (["logprobs"], ["logprobs", "structured"]):  # now it refuses tools too, twice
        found, report = await picked(rerank, asynchronous)
        assert (found, report["score_source"], report["fallbacks"]) == ("1", "matched", 2)
        assert report["given_up"] == given_up
    server.script.append("Heat {x} (1995)")
    found, report = await picked(rerank, asynchronous)
    assert (found, report["fallbacks"], len(server.requests)) == ("2", 2, 8)


@pytest.mark.parametrize("said", [letters(The=0.9), ""])  # no letter; and a filter has stopped the answer
async def test_a_prompt_without_letters_says_nothing_of_the_server(server, said):
    server.script += [said, "Alien", letters(C=0.4, The=0.5)]
    rerank = expert(server)
    found, report = await picked(rerank, False)
    assert (found, report["score_source"], report["fallbacks"]) == ("1", "matched", 1)
    assert report["given_up"] == []
    ranking = await ranking_of(rerank, False)  # that was about this prompt, so the next one is asked again
    assert ranking.candidates[0].item.id == "3"


async def test_more_candidates_than_letters(server):
    films = [item(str(n), f"Film {n}") for n in range(len(LETTERS) + 1)]
    server.script += ["Film 52"]
    ranking = await ranking_of(expert(server), False, films)
    assert ranking.candidates[0].item.id == "52"
    assert ranking.report["rerank"]["fallbacks"] == 1
    server.script += [letters(z=1.0)]
    ranking = await ranking_of(expert(server), False, films[:-1])
    assert ranking.candidates[0].item.id == "51"


@pytest.mark.parametrize("size", [1, 2, 19, 52])
@pytest.mark.parametrize("shown", [1, 5, 20])
def test_letters_make_a_distribution(size, shown):
    raw = [1 / (n + 1) for n in range(shown)]
    top = [LogProb(token=mark, logprob=math.log(p / sum(raw))) for mark, p in zip(LETTERS, raw, strict=False)]
    assert read_letters([*top, LogProb(token="z", logprob=-9999.0)], size) == read_letters(top, size)
    selection = read_letters(top, size)
    assert math.fsum(selection.probabilities) == pytest.approx(1)
    assert sorted(selection.order) == list(range(size))
    by_rank = [selection.probabilities[place] for place in selection.order]
    assert by_rank == sorted(by_rank, reverse=True)
    assert selection.details["candidates_unlisted"] == max(0, size - shown)


def test_impossible_tokens():
    with pytest.raises(NoChoice):
        read_letters([LogProb(token="A", logprob=-math.inf), LogProb(token="B", logprob=math.nan)], 2)


def test_the_list_of_letters_has_room_in_the_context(server):
    films = [item(str(n), f"A title of quite a few words {n}", None, "long story " * 300) for n in range(50)]
    server.script.append(letters(A=1.0))
    rerank = expert(server)
    rerank.rank(nodes_of(films), WISH)
    [asked] = server.requests
    assert rerank.backend.measure.count(asked["messages"][-1]["content"]) < 8192
    narrow = client(server, context_window=3000)
    server.script.append(letters(A=1.0))
    ReGeSRerank(narrow).rank(nodes_of(films), WISH)
    assert rerank.backend.measure.count(server.requests[1]["messages"][-1]["content"]) < 3000


def test_adapters_and_unknown_names_are_refused(server):
    with pytest.raises(ConfigError, match="LocalLM"):
        expert(server, adapter="item-expert")
    with pytest.raises(ConfigError, match="mode"):
        expert(server, mode="best")
    with pytest.raises(ConfigError, match="OpenAILike"):
        ReGeSRerank(OpenAI(model="my-own-model", api_base=server.url, api_key="none"))
