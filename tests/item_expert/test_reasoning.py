"""Chain of thought: the preferences first, then the item, which is still always a candidate."""

import asyncio
import math
import threading
import time

import httpx
import pytest
import torch
from llama_index.core.llms import CustomLLM, LLMMetadata, MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from pydantic import Field, PrivateAttr

from reges_index import ReGeSRerank, ReGeSSynthesizer
from reges_index.errors import ConfigError, LLMServerError
from reges_index.item_expert import COT_SELECT_TMPL, ReasoningDecoding, hear_reasoning
from reges_index.item_expert.reasoning import ReasoningStopped, tidy
from reges_index.models.scoring import score_separately
from tests.builders import BOTH_WAYS, bundle, item, nodes_of, ranked
from tests.tiny import save_tiny_adapter, tiny_lm

FILMS = [
    item("1", "Alien", 1979, "A crew."),
    item("2", "Heat", 1995),
    item("3", "Up", 2009, "A house flies."),
]
WISH = bundle("hello", "hi", "something with a spaceship")
SHORT = ReasoningDecoding(max_new_tokens=12)


@pytest.fixture
def rerank(tiny):
    return ReGeSRerank(tiny, mode="reason", reasoning=SHORT)


@BOTH_WAYS
async def test_candidates_are_scored_behind_prompt_and_reasoning(tiny, rerank, asynchronous):
    """Against one forward for each title behind the tokens of prompt, reasoning and line break."""
    ranking = await ranked(rerank, FILMS, WISH, asynchronous)
    report = ranking.report["rerank"]
    thought = report["reasoning"]
    assert thought
    assert (report["outcome"], report["mode"], report["reasoning_tokens"]) == ("scored", "reason", 12)
    assert report["reasoning_cut"] is True
    prompt = rerank.build_prompt(FILMS, WISH)
    assert "Think step by step" in prompt.messages[0].content
    read = [*tiny.encode_chat(prompt.messages), *tiny.encode_answer(f"{thought}\n")[:-1]]
    with torch.inference_mode():
        scores = score_separately(tiny.model, read, [tiny.encode_answer(film.title) for film in FILMS])
    total = sum(math.exp(score.logprob) for score in scores)
    for candidate in ranking.candidates:
        expected = scores[candidate.retrieval_rank - 1].logprob
        assert candidate.logprob == pytest.approx(expected, abs=1e-3)
        assert candidate.probability == pytest.approx(math.exp(expected) / total, rel=1e-3)
    plain = ReGeSRerank(tiny, select_prompt=COT_SELECT_TMPL).rank(nodes_of(FILMS), WISH)
    before, after = ({c.item.id: c.logprob for c in r.candidates} for r in (plain, ranking))
    assert max(abs(before[id_] - after[id_]) for id_ in before) > 1e-3  # what was written makes a difference


def test_what_follows_a_named_item_is_no_reasoning():
    labels = ("Alien", "🎬", "The Thing (1982)")
    assert tidy("They like\n\nspace.\nalien\nIt is good.", labels) == "They like space."
    assert tidy("Alien", labels) == ""
    assert tidy("Alien is what they named.", labels) == "Alien is what they named."


def test_an_adapter_of_its_role_is_taken_and_writes_one_line(tmp_path):
    lm = tiny_lm()
    lm.load_adapter("item-expert-cot", save_tiny_adapter(tmp_path / "cot"))
    lm.load_adapter("item-expert", save_tiny_adapter(tmp_path / "plain", seed=1))
    assert ReGeSRerank(lm).backend.adapter == "item-expert"
    rerank = ReGeSRerank(lm, mode="reason", reasoning=SHORT)
    assert rerank.backend.adapter == "item-expert-cot"
    assert rerank.rank(nodes_of(FILMS), WISH).report["rerank"]["adapter"] == "item-expert-cot"


async def test_in_a_stock_engine_the_reasoning_is_in_the_metadata(few_films, rerank):
    engine = RetrieverQueryEngine(
        few_films.as_retriever(similarity_top_k=4), ReGeSSynthesizer(), node_postprocessors=[rerank]
    )
    response = await engine.aquery(WISH)
    assert response.metadata["reasoning"]
    assert response.metadata["item_id"] in {film.id for film in few_films.items()}
    assert sum(row["probability"] for row in response.metadata["candidates"]) == pytest.approx(1)
    assert ReGeSSynthesizer().synthesize(WISH, nodes_of(FILMS)).metadata["reasoning"] is None


async def test_listeners_hear_their_own_turn_only(tiny, rerank):
    wishes = [bundle(f"a film about {word}") for word in ("space", "trains", "love", "money")]

    async def turn(wish):
        heard = []
        with hear_reasoning(heard.append):
            ranking = await rerank.arank(nodes_of(FILMS), wish)
        return "".join(heard), ranking.report["rerank"]["reasoning"]

    for heard, told in await asyncio.gather(*map(turn, wishes)):
        assert tidy(heard, ()) == told


def streams():
    return [thread for thread in threading.enumerate() if thread.name == "reges-stream"]


def wait_until_quiet():
    end = time.monotonic() + 20
    while streams() and time.monotonic() < end:
        time.sleep(0.01)
    assert not streams()


def test_a_listener_can_stop_it(tiny):
    rerank = ReGeSRerank(
        tiny, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=2000), on_error="retrieval_order"
    )
    heard = []

    def listen(piece):
        heard.append(piece)
        if len(heard) == 3:
            raise ReasoningStopped("enough")

    with hear_reasoning(listen), pytest.raises(ReasoningStopped):
        rerank.rank(nodes_of(FILMS), WISH)
    assert len(heard) == 3
    wait_until_quiet()


async def test_a_cancelled_turn_stops_it(tiny):
    rerank = ReGeSRerank(tiny, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=3000))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    with hear_reasoning(lambda _: loop.call_soon_threadsafe(begun.set)):
        task = asyncio.create_task(rerank.arank(nodes_of(FILMS), WISH))
    await asyncio.wait_for(begun.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until_quiet)


class Endless(MockLLM):
    """An API that never answers."""

    _asked: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)
    _ended: bool = PrivateAttr(default=False)

    async def achat(self, messages, **kwargs):
        self._asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self._ended = True
            raise


async def test_a_cancelled_turn_ends_the_request_of_an_api():
    llm = Endless()
    task = asyncio.create_task(ReGeSRerank(llm, mode="reason").arank(nodes_of(FILMS), WISH))
    await asyncio.wait_for(llm._asked.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert llm._ended


def test_it_leaves_room_for_itself(tiny):
    long = [item(str(n), f"Film {n}", 2000, "A very long story. " * 600) for n in range(8)]
    rerank = ReGeSRerank(
        tiny, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=3000), max_input_tokens=10**6
    )
    with hear_reasoning(_stop_at_once), pytest.raises(ReasoningStopped):
        rerank.rank(nodes_of(long), WISH)  # no InputError: prompt and 3,000 tokens fit into 4,096


def _stop_at_once(_):
    raise ReasoningStopped("enough")


@pytest.mark.parametrize("wrong", [{"mode": "score"}, {}])
def test_reasoning_without_the_mode_is_refused(tiny, wrong):
    with pytest.raises(ConfigError, match="reasoning"):
        ReGeSRerank(tiny, reasoning=SHORT, **wrong)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        ReasoningDecoding(max_new_tokens=0)


class Scripted(CustomLLM):
    """An LLM behind LlamaIndex's interface: reasons when asked to think, else names the second candidate."""

    asked: list = Field(default_factory=list)
    refusals: int = 0  # streams that are not begun
    breaks: int = 0  # streams that break in the middle

    @property
    def metadata(self):
        return LLMMetadata(context_window=4096, is_chat_model=True, model_name="scripted")

    def _text(self, prompt):
        self.asked.append(prompt)
        return "Heat" if "Now only output the name" in prompt else "They like tension. " * 20

    def complete(self, prompt, formatted=False, **kwargs):
        from llama_index.core.llms import CompletionResponse

        return CompletionResponse(text=self._text(prompt))

    def stream_complete(self, prompt, formatted=False, **kwargs):
        from llama_index.core.llms import CompletionResponse

        if self.refusals:
            self.refusals -= 1
            raise httpx.ConnectError("refused")
        text = ""
        for number, word in enumerate(self._text(prompt).split(" ")):
            if number == 3 and self.breaks:
                raise httpx.ReadError("cut")
            text += f"{word} "
            yield CompletionResponse(text=text, delta=f"{word} ")


@pytest.mark.parametrize("listening", [False, True])
async def test_with_an_llm_behind_an_api(listening):
    llm, heard = Scripted(asked=[]), []
    rerank = ReGeSRerank(llm, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=10))
    if listening:
        with hear_reasoning(heard.append):
            ranking = await rerank.arank(nodes_of(FILMS), WISH)
    else:
        ranking = await rerank.arank(nodes_of(FILMS), WISH)
    report = ranking.report["rerank"]
    assert ranking.candidates[0].item.title == "Heat"
    assert report["reasoning"].startswith("They like tension.")
    assert (report["reasoning_tokens"], report["reasoning_cut"]) == (10, True)
    assert report["reasoning"] in llm.asked[1]
    assert bool(heard) is listening
    assert len(heard) < 15  # it was left at its limit


def test_a_stream_that_does_not_begin_is_asked_for_again():
    heard = []
    with hear_reasoning(heard.append):
        ranking = api_rerank(Scripted(refusals=1)).rank(nodes_of(FILMS), WISH)
    assert ranking.candidates[0].item.title == "Heat"
    assert "".join(heard).startswith("They like tension.")


@pytest.mark.parametrize("on_error", ["raise", "retrieval_order"])
def test_a_stream_that_breaks_is_the_servers_fault(on_error):
    rerank = api_rerank(Scripted(breaks=1), on_error=on_error)
    heard = []
    with hear_reasoning(heard.append):
        if on_error == "raise":
            with pytest.raises(LLMServerError):
                rerank.rank(nodes_of(FILMS), WISH)
        else:
            ranking = rerank.rank(nodes_of(FILMS), WISH)
            assert ranking.report["rerank"]["outcome"] == "failed"
            assert [c.item.id for c in ranking.candidates] == ["1", "2", "3"]
    assert heard == []  # held back until it was clear that no thoughts come first


def api_rerank(llm, **options):
    return ReGeSRerank(llm, mode="reason", reasoning=ReasoningDecoding(max_new_tokens=10), **options)
