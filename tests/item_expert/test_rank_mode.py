"""``mode="rank"`` and "auto": what is asked, how it is read, windows, passes, what is remembered."""

import json

import pytest
from llama_index.core.prompts import PromptTemplate

from reges_index import ReGeSRerank
from reges_index.errors import ConfigError, InputError
from reges_index.item_expert import DEFAULT_RANK_TMPL, DEFAULT_SELECT_TMPL
from tests.builders import BOTH_WAYS, bundle, item, nodes_of, ranked
from tests.servers.scripted import call, client, letters

FILMS = [item(str(n), title) for n, title in enumerate(["Alien", "Heat", "Up", "300", "Se7en"], 1)]
WISH = bundle("something tense")


async def ids(rerank, asynchronous, films=FILMS, **known):
    ranking = await ranked(rerank, films, WISH, asynchronous, **known)
    return [c.item.id for c in ranking.candidates], ranking.report["rerank"]


def test_the_prompt_is_the_papers_with_one_sentence_changed():
    ours, theirs = (t.template.split(". ") for t in (DEFAULT_RANK_TMPL, DEFAULT_SELECT_TMPL))
    changed = [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]
    assert [pair[1] for pair in changed] == ["Only output one {item_noun} name"]


@BOTH_WAYS
async def test_numbers_in_structured_output(server, asynchronous):
    server.script += [call(ranking=["3", "5", "99", "3", 1])]
    rerank = ReGeSRerank(client(server, is_function_calling_model=True), mode="rank", top_n=3)
    order, report = await ids(rerank, asynchronous)
    assert order == ["3", "5", "1", "2", "4"]  # those left out follow in the retriever's order
    assert (report["outcome"], report["evidence"], report["prior"]) == ("ranked", "rank", False)
    assert (report["ranked"], report["numbers_outside"], report["numbers_twice"]) == (3, 1, 1)
    assert (report["requests"], report["fallbacks"]) == (1, 0)
    [asked] = server.requests
    entries = asked["tools"][0]["function"]["parameters"]["properties"]["ranking"]["items"]
    assert entries["enum"] == ["1", "2", "3", "4", "5"]
    assert "\n2. Heat\n" in asked["messages"][-1]["content"]
    assert "the 5 best movies" in asked["messages"][-1]["content"]


@BOTH_WAYS
async def test_numbers_by_json_schema(server, asynchronous):
    server.script += [json.dumps({"ranking": ["2", "1"]})]
    rerank = ReGeSRerank(client(server, should_use_structured_outputs=True), mode="rank")
    order, report = await ids(rerank, asynchronous)
    assert (order, report["ranked"]) == (["2", "1", "3", "4", "5"], 2)
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["ranking"]["items"]["enum"] == ["1", "2", "3", "4", "5"]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("answer", "order", "outside", "twice"),
    [
        ("3, 1, 2", "31245", 0, 0),
        ("[5] > [4] > [1]", "54123", 0, 0),
        ("<think>\n1, 2, 3?\n</think>\n\n4, 2", "42135", 0, 0),
        ('```json\n{"ranking": [2, 2, 9]}\n```', "21345", 1, 1),
        ("1. 3\n2. 5", "35124", 0, 0),
        ("1. Up\n2. Se7en - dark\n3. Titanic", "35124", 1, 0),
        ("Sure! The ranking is: 5, 3.", "53124", 0, 0),
        ("3. Up (because it is fun)\n1. Alien", "31245", 0, 0),
        ('[{"candidate": "Heat", "reason": "like Alien"}, {"candidate": "Up"}]', "23145", 0, 0),
        ("The best one is Heat.", "21345", 0, 0),
        ("300", "41235", 0, 0),
    ],
)
async def test_text_is_read(server, answer, order, outside, twice, asynchronous):
    server.script += [answer]
    found, report = await ids(ReGeSRerank(client(server), mode="rank"), asynchronous)
    assert ("".join(found), report["outcome"]) == (order, "ranked")
    assert (report["numbers_outside"], report["numbers_twice"]) == (outside, twice)


@BOTH_WAYS
@pytest.mark.parametrize("answer", ["", "I cannot say.", "<think>\n3, 1 and then", "99"])
async def test_no_ranking_is_the_retrievers_order(server, answer, asynchronous):
    server.script += [answer]
    found, report = await ids(ReGeSRerank(client(server), mode="rank"), asynchronous)
    assert (found, report["outcome"], report["evidence"]) == (["1", "2", "3", "4", "5"], "hallucinated", None)
    assert report.get("thinking_unclosed", False) == answer.startswith("<think>")


@BOTH_WAYS
async def test_long_lists_are_ranked_in_windows_from_their_end(server, asynchronous):
    films = [item(str(n), f"Film number {n}") for n in range(1, 11)]
    # The last of ten goes up through three windows of four.
    server.script += ["4, 3", "3, 4", "3, 4", "3, 4"]
    rerank = ReGeSRerank(client(server), mode="rank", window=4, top_n=1)
    order, report = await ids(rerank, asynchronous, films)
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert ["Film number 10" in text for text in asked] == [True, True, True, True]
    assert all(text.count("Film number") == 4 for text in asked)
    assert (report["windows"], report["requests"], report["candidates"]) == (4, 4, 10)
    assert sorted(order) == sorted(str(n) for n in range(1, 11))
    assert order[0] == "10"


@BOTH_WAYS
async def test_passes_are_merged_and_take_out_what_a_place_is_worth(server, asynchronous):
    server.script += ["1, 2, 3, 4, 5"] * 7  # a model that knows nothing but places
    rerank = ReGeSRerank(client(server), mode="rank", passes=7)
    order, report = await ids(rerank, asynchronous)
    assert (report["passes"], report["requests"]) == (7, 7)
    shown = {request["messages"][-1]["content"] for request in server.requests}
    assert len(shown) > 3
    assert order != ["1", "2", "3", "4", "5"]


@BOTH_WAYS
async def test_prompts_are_changed_through_llamaindex(server, asynchronous):
    rerank = ReGeSRerank(client(server), mode="rank")
    assert set(rerank.get_prompts()) == {"select_prompt", "rank_prompt"}
    rerank.update_prompts({"rank_prompt": PromptTemplate("{count}? {candidates} {conversation_history}")})
    server.script += ["2", "2"]
    await ids(rerank, asynchronous)
    assert server.requests[0]["messages"][-1]["content"].startswith("5? ")
    own = ReGeSRerank(client(server), mode="rank", select_prompt="Mine: {candidates}{conversation_history}")
    await ids(own, asynchronous)
    text = server.requests[1]["messages"][-1]["content"]
    assert text.startswith("Mine: ")
    assert "the numbers of the 5 best" in text
    with pytest.raises(ConfigError, match="rank_prompt needs the slots"):
        rerank.update_prompts({"rank_prompt": PromptTemplate("{count}")})


# -- auto ------------------------------------------------------------


@BOTH_WAYS
async def test_noise_is_no_choice_and_that_is_remembered_for_the_llm(server, asynchronous):
    """A model that thinks first begins with a mark, and its letters have next to no probability."""
    noise = {"logprobs": [{"token": "<think>", "logprob": -1e-6, "bytes": None},
                          {"token": "B", "logprob": -18.0, "bytes": None}]}  # fmt: skip
    server.script += [noise, "3, 1", noise, "2, 1"] + ["4, 1"] * 6
    llm = client(server)
    for place, best in enumerate("32444444"):  # eight components, such as eight chats
        order, report = await ids(ReGeSRerank(llm), asynchronous)
        assert (order[0], report["outcome"]) == (best, "ranked")
        assert report["requests"] == (2 if place < 2 else 1)
    assert report["given_up"] == ["logprobs"]
    assert len(server.requests) == 10
    server.script += [letters(A=1.0)]  # another LLM is asked for itself
    assert (await ids(ReGeSRerank(client(server)), asynchronous))[1]["outcome"] == "logprobs"


@BOTH_WAYS
async def test_the_least_mass_is_a_setting(server, asynchronous):
    server.script += [letters(The=0.96, B=0.04), letters(The=0.96, B=0.04), "3"]
    order, report = await ids(ReGeSRerank(client(server), min_mass=0.01), asynchronous)
    assert (order[0], report["outcome"]) == ("2", "logprobs")
    order, report = await ids(ReGeSRerank(client(server), min_mass=0.5), asynchronous)
    assert (order[0], report["outcome"], report["fallbacks"]) == ("3", "ranked", 1)


async def test_more_candidates_than_letters_are_ranked(server):
    films = [item(str(n), f"Film {n}") for n in range(60)]
    server.script += ["60, 1"]
    order, report = await ids(ReGeSRerank(client(server)), False, films)
    assert (order[:3], report["requests"]) == (["59", "0", "1"], 1)


# -- models in this process ------------------------------------------------------------


@BOTH_WAYS
async def test_a_local_model_ranks_too(lm, asynchronous):
    rerank = ReGeSRerank(lm, mode="rank", adapter=None)
    order, report = await ids(rerank, asynchronous)
    assert sorted(order) == ["1", "2", "3", "4", "5"]
    assert report["mode"] == "rank"
    assert report["outcome"] in ("ranked", "hallucinated")


def test_auto_scores_with_a_local_model(tiny):
    assert ReGeSRerank(tiny).rank(nodes_of(FILMS), WISH).report["rerank"]["outcome"] == "scored"


def test_a_prior_that_is_wanted_in_any_case_needs_probabilities(tiny):
    nodes = nodes_of(FILMS)
    nodes[2].score = 1.7
    with pytest.raises(InputError, match="score 1"):
        ReGeSRerank(tiny, prior=True).rank(nodes, WISH)
