"""An LLM of known quality: ``mode="rank"`` and the prior give the Recall that arithmetic expects.

The LLM names ten candidates and knows one of them: the true item, which it puts at a place drawn by seed. All
else is real: dialogues, catalogs, retrieval, prompts, and the reading of what the LLM writes.
"""

from pathlib import Path

import numpy as np
import pytest
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.llms import CustomLLM

import reges_index.catalog.demo
from reges_index import FusionModel, Item, ItemCatalog, ReGeSRerank, demo_catalog, read_items, read_turns
from reges_index.dialogue import DialogueQueryBundle, render_history
from reges_index.evaluation.baselines import bm25_queries
from reges_index.fusion import FusionRetriever
from tests.builders import nodes_of

TOP, LISTED, WEIGHT = 50, 10, 2.5
QUALITIES = (0.15, 0.3, 0.6)  # the chance of the first place, of the second if not the first, and so on
DEMO = Path(reges_index.catalog.demo.__file__).parent


class Knowing(CustomLLM):
    answer: str = ""

    @property
    def metadata(self):
        return LLMMetadata(context_window=32768, is_chat_model=True)

    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text=self.answer)

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError


def by_words(folder):
    """BM25's candidates; the probability of a place is how often train turns have their target there."""
    items = read_items(folder / "catalog.jsonl")
    by_id = {item.id: item for item in items}

    def found(name):
        turns = read_turns(folder / name)
        queries = [render_history(turn.chat).text for turn in turns]
        return list(zip(turns, bm25_queries(queries, items, top_k=TOP), strict=True))

    train = found("train.jsonl")
    places = [ids.index(turn.targets[0]) for turn, ids in train if turn.targets[0] in ids]
    place = np.log(np.arange(1, TOP + 1))
    power = np.polyfit(place, np.log(np.bincount(places, minlength=TOP) + 1.0), 1)
    chances = np.exp(np.polyval(power, place)) / len(train)
    return [(turn, [by_id[i] for i in ids], chances[: len(ids)]) for turn, ids in found("dev.jsonl")]


def by_fusion(name):
    """The default retriever's candidates with its probabilities."""
    catalog = ItemCatalog.from_items(demo_catalog(name), name=f"known-{name}")
    retriever = FusionRetriever(catalog, FusionModel.default(), similarity_top_k=TOP)
    turns = read_turns(DEMO / "demo" / f"{name}_turns.jsonl")
    found = [(turn, retriever.retrieve(DialogueQueryBundle.from_dialogue(turn.chat))) for turn in turns]
    return [
        (turn, [Item.from_node(node.node) for node in nodes], np.array([node.score for node in nodes]))
        for turn, nodes in found
    ]


def expected_place(true, listed, chances, prior):
    """Where the true item comes: by the LLM's list alone, or by log prior + w * -log(1 + rank)."""
    behind = [index for index in range(len(chances)) if index not in listed]
    order = [*listed, *behind]
    if not prior:
        return order.index(true)
    worth = -np.log(1.0 + np.arange(1, len(chances) + 1))
    evidence = np.full(len(chances), worth[len(listed) :].mean() if behind else 0.0)
    evidence[listed] = worth[: len(listed)]
    score = np.log(chances) + WEIGHT * evidence
    return sorted(order, key=lambda index: -score[index]).index(true)


def check(dev, name):
    llm = Knowing()
    ways = [ReGeSRerank(llm, mode="rank", prior=on, max_candidate_tokens=8) for on in (False, True)]
    places = [[item.id for item in items] for _, items, _ in dev]
    known = [
        (*case, ids.index(case[0].targets[0]))
        for case, ids in zip(dev, places, strict=True)
        if case[0].targets[0] in ids
    ]
    retriever = sum(true < 10 for *_, true in known)
    for quality in QUALITIES:
        draw = np.random.default_rng(7)
        alone = both = drawn = 0
        for turn, items, chances, true in known:
            rank = int(draw.geometric(quality))
            others = [int(index) for index in draw.permutation(len(items)) if index != true]
            listed = (others[: rank - 1] + [true] * (rank <= LISTED) + others[rank - 1 :])[:LISTED]
            llm.answer = ", ".join(str(index + 1) for index in listed)
            nodes = nodes_of(items)
            for node, chance in zip(nodes, chances, strict=True):
                node.score = float(chance)
            found = []
            for rerank in ways:
                ranked = [
                    c.item.id
                    for c in rerank.rank(nodes, DialogueQueryBundle.from_dialogue(turn.chat)).candidates
                ]
                found.append(ranked.index(turn.targets[0]))
            assert found == [expected_place(true, listed, chances, prior=on) for on in (False, True)]
            drawn += rank <= LISTED
            alone, both = alone + (found[0] < 10), both + (found[1] < 10)
        print(f"{name}: of {len(dev)}, retriever {retriever}, LLM ({quality}) {alone}, both {both}")
        assert alone == drawn
        assert both >= alone
        assert both >= retriever or alone < retriever  # an LLM that is worse than the retriever may cost some


@pytest.mark.shared
@pytest.mark.parametrize("name", ["inspired", "redial"])
def test_films(shared, name):
    check(by_words(shared / "data" / name), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["books", "houseplants"])
def test_domains(name):
    check(by_fusion(name), name)
