"""What the retriever knows and what the model says, combined: the arithmetic, and recall in drawn runs."""

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.schema import NodeWithScore
from pydantic import PrivateAttr

from reges_index import ReGeSRerank
from reges_index.item_expert.prior import combine, pick_evidence, rank_evidence
from tests.builders import BOTH_WAYS, bundle, item, nodes_of

FILMS = [item(str(n), f"Film {n}") for n in range(20)]
WISH = bundle("something tense")
CHANCES = st.lists(st.floats(1e-6, 1 / 20), min_size=1, max_size=20)


class Ranker(CustomLLM):
    """Answers with a ranking that it is told."""

    answer: str = ""
    _asked: int = PrivateAttr(default=0)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=32768, num_output=256, is_chat_model=True, model_name="ranker")

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return ChatResponse(message=ChatMessage(role="assistant", content=self.answer))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self.answer)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def with_chances(chances, films=FILMS, *, said=True):
    """Nodes of a retriever of probabilities, best first."""
    nodes = nodes_of(films[: len(chances)])
    for node, chance in zip(nodes, chances, strict=True):
        node.score = chance
        if said:
            node.node.metadata["score_kind"] = "probability"
    return nodes


@given(CHANCES, st.floats(0, 5), st.randoms(use_true_random=False))
def test_the_mass_is_the_priors_whatever_the_model_says(prior, weight, draw):
    said = rank_evidence(draw.sample(range(len(prior)), min(5, len(prior))), len(prior))
    chances = combine(prior, said, weight)
    assert math.fsum(chances) == pytest.approx(math.fsum(prior))
    assert all(chance >= 0 for chance in chances)
    assert combine(prior, said, 0.0) == pytest.approx(prior)
    assert combine(prior, None, weight) == pytest.approx(prior)
    shifted = [told + 3.0 for told in said]
    assert combine(prior, shifted, weight) == pytest.approx(chances)


def test_the_formula():
    chances = combine([0.2, 0.1, 0.1], rank_evidence([2, 0], 3), 2.5)
    told = [-math.log(3), -math.log(4), -math.log(2)]  # ranks 2, 3 (left out, alone there) and 1
    raw = [p * math.exp(2.5 * e) for p, e in zip([0.2, 0.1, 0.1], told, strict=True)]
    assert chances == pytest.approx([0.4 * value / sum(raw) for value in raw])
    one = combine([0.25, 0.25, 0.25, 0.25], pick_evidence(1, 4, 0.4), 1.0)
    assert one == pytest.approx([0.2, 0.4, 0.2, 0.2])


def test_left_out_candidates_share_what_their_places_are_worth():
    said = rank_evidence([3], 4)
    assert said[3] == -math.log(2)
    assert said[0] == said[1] == said[2] == pytest.approx(-math.log(3 * 4 * 5) / 3)
    assert rank_evidence([], 3) == pytest.approx([-math.log(2 * 3 * 4) / 3] * 3)


@BOTH_WAYS
async def test_a_ranking_and_the_retriever_together(asynchronous):
    rerank = ReGeSRerank(Ranker(answer="3, 1"), mode="rank")
    nodes = with_chances([0.3, 0.1, 0.05])
    ranking = await rerank.arank(nodes, WISH) if asynchronous else rerank.rank(nodes, WISH)
    report = ranking.report["rerank"]
    assert (report["prior"], report["prior_weight"], report["evidence"]) == (True, 2.5, "rank")
    found = {c.item.id: c.probability for c in ranking.candidates}
    assert sum(found.values()) == pytest.approx(0.45)
    raw = [0.3 * 3**-2.5, 0.1 * 4**-2.5, 0.05 * 2**-2.5]
    assert [found[id_] for id_ in "012"] == pytest.approx([0.45 * value / sum(raw) for value in raw])
    assert [c.item.id for c in ranking.candidates] == ["0", "2", "1"]
    assert [c.node.score for c in ranking.candidates] == [c.probability for c in ranking.candidates]


def test_when_there_is_a_prior():
    llm = Ranker(answer="2")
    unsaid = with_chances([0.3, 0.1], said=False)

    def used(prior, nodes, **known):
        return ReGeSRerank(llm, mode="rank", prior=prior).rank(nodes, WISH, **known).report["rerank"]["prior"]

    assert used("auto", with_chances([0.3, 0.1]))
    assert not used("auto", unsaid)  # cosines are no probabilities
    assert used("auto", unsaid, scores_are_probabilities=True)
    assert used(True, unsaid)
    assert not used(False, with_chances([0.3, 0.1]))
    assert not used("auto", with_chances([0.3, math.nan]))


def test_without_an_answer_the_prior_stands():
    nodes = with_chances([0.1, 0.3])
    ranking = ReGeSRerank(Ranker(answer="no idea"), mode="rank").rank(nodes, WISH)
    assert [c.probability for c in ranking.candidates] == pytest.approx([0.3, 0.1])


def test_the_weight_is_a_setting(tiny):
    nodes = with_chances([0.3, 0.1, 0.05])
    for weight in (0.0, 0.5):
        rerank = ReGeSRerank(tiny, prior_weight=weight)
        prompt = rerank.build_prompt([FILMS[n] for n in range(3)], WISH)
        scores = tiny.score(prompt.messages, list(prompt.labels))
        raw = [p * math.exp(weight * s.logprob) for p, s in zip([0.3, 0.1, 0.05], scores, strict=True)]
        found = {c.item.id: c.probability for c in rerank.rank(nodes, WISH).candidates}
        assert [found[id_] for id_ in "012"] == pytest.approx(
            [0.45 * value / sum(raw) for value in raw], rel=1e-3
        )


# -- drawn runs: a model of known quality --------------------------------------------------------------------


def drawn(quality: float, draw: random.Random) -> tuple[list[float], int | None, list[int]]:
    """A retriever's probabilities, the true candidate (None: not among them), and a model's ranking.

    The model puts the true candidate on a place drawn from a geometric distribution, and the others in any
    order.
    """
    weights = sorted((draw.expovariate(1.0) ** 2 for _ in FILMS), reverse=True)
    chances = [0.6 * weight / sum(weights) for weight in weights]
    true = draw.choices([*range(len(FILMS)), None], [*chances, 0.4])[0]
    ranked = draw.sample(range(len(FILMS)), len(FILMS))
    if true is not None:
        ranked.remove(true)
        place = 0
        while draw.random() > quality and place < len(ranked):
            place += 1
        ranked.insert(place, true)
    return chances, true, ranked[:10]


def expected_hit(chances, true, ranked, top) -> bool:
    """The same by the formula, written down once more."""
    tail = [math.log(1 + rank) for rank in range(11, len(chances) + 1)]
    evidence = {index: -math.log(2 + place) for place, index in enumerate(ranked)}
    rest = -sum(tail) / len(tail)
    scores = [math.log(p) + 2.5 * evidence.get(n, rest) for n, p in enumerate(chances)]
    return true in sorted(range(len(scores)), key=lambda n: -scores[n])[:top]


@pytest.mark.parametrize("quality", [0.05, 0.3, 0.7])
def test_recall_is_what_arithmetic_expects(quality):
    draw = random.Random(int(quality * 100))
    hits = {"prior": [0, 0], "model": [0, 0], "retriever": [0, 0], "expected": [0, 0]}
    for _ in range(250):
        chances, true, ranked = drawn(quality, draw)
        llm = Ranker(answer=", ".join(str(n + 1) for n in ranked))
        nodes: list[NodeWithScore] = with_chances(chances)
        ranking = ReGeSRerank(llm, mode="rank").rank(nodes, WISH)
        order = [int(c.item.id) for c in ranking.candidates]
        alone = ReGeSRerank(llm, mode="rank", prior=False).rank(nodes, WISH)
        without = [int(c.item.id) for c in alone.candidates]
        for place, top in enumerate((1, 10)):
            hits["prior"][place] += true in order[:top]
            hits["model"][place] += true in without[:top]
            hits["retriever"][place] += true is not None and true < top
            hits["expected"][place] += expected_hit(chances, true, ranked, top)
    assert hits["prior"] == hits["expected"]
    # The prior costs nothing among the first ten, but for the luck of the draw, and gains on the first place.
    assert hits["prior"][1] >= 0.98 * hits["model"][1]
    assert hits["prior"][0] >= hits["model"][0] - 2
