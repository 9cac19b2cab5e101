import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.llms import ChatMessage, MockLLM

from reges_index.errors import AdapterError, InputError
from reges_index.models.backend import wrap_llm
from reges_index.models.llm import ReGeSLLM
from reges_index.models.local_lm import LocalLM
from tests.builders import ticks_during
from tests.tiny import tiny_lm, tiny_model, tiny_tokenizer

MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="A film?")]


@pytest.fixture
def llm(adapted):
    return ReGeSLLM(adapted, adapter="first", max_new_tokens=12)


def test_metadata(llm):
    data = llm.metadata
    assert (data.context_window, data.num_output, data.model_name) == (4096, 12, "tiny-llama-0")
    assert data.is_chat_model
    assert llm.class_name() == "ReGeSLLM"
    assert llm.to_dict()["adapter"] == "first"


def test_chat_is_generate_with_the_adapter(llm, adapted):
    expected = adapted.generate([MESSAGES], adapter="first", max_new_tokens=12)[0][0]
    response = llm.chat(MESSAGES)
    assert response.message.content == expected.text
    assert response.message.role == "assistant"
    assert response.additional_kwargs["prompt_tokens"] == expected.prompt_tokens
    assert response.additional_kwargs["completion_tokens"] == expected.new_tokens
    assert response.raw["usage"]["total_tokens"] == expected.prompt_tokens + expected.new_tokens


def test_complete_is_one_user_message(llm):
    as_chat = llm.chat([ChatMessage(role="user", content="A film?")])
    assert llm.complete("A film?").text == as_chat.message.content
    raw = llm.complete("A film?", formatted=True)
    assert raw.additional_kwargs["prompt_tokens"] < as_chat.additional_kwargs["prompt_tokens"]


def test_complete_is_raw_without_a_chat_template():
    lm = tiny_lm(chat=False)
    expected = lm.generate(["A film"], max_new_tokens=8)[0][0].text
    assert ReGeSLLM(lm, max_new_tokens=8).complete("A film").text == expected


def test_arguments_of_one_call_are_honoured(llm, adapted):
    assert llm.complete("A film?", max_tokens=3).additional_kwargs["completion_tokens"] == 3
    assert llm.complete("A film?", max_new_tokens=2).additional_kwargs["completion_tokens"] == 2
    whole = llm.complete("A film?").text
    assert llm.complete("A film?", stop=[whole[5:8]]).text == whole[: whole.index(whole[5:8])]
    sampled = {llm.complete("A film?", temperature=3.0, seed=seed).text for seed in range(3)}
    assert len(sampled) == 3
    bare = ReGeSLLM(adapted, max_new_tokens=12).complete("A film?").text
    assert llm.complete("A film?", adapter=None).text == bare != whole
    assert llm.complete("A film?", stop=None, temperature=None).text == whole


def test_unknown_arguments(llm):
    with pytest.raises(InputError, match="does not know the argument beams, top_q"):
        llm.complete("A film?", beams=3, top_q=1)
    with pytest.raises(InputError, match="mean the same"):
        llm.chat(MESSAGES, max_tokens=3, max_new_tokens=3)
    with pytest.raises(AdapterError, match="known: first, second"):
        llm.chat(MESSAGES, adapter="third")


def test_streams(llm):
    whole = llm.chat(MESSAGES)
    pieces = list(llm.stream_chat(MESSAGES))
    assert "".join(piece.delta for piece in pieces) == whole.message.content == pieces[-1].message.content
    assert pieces[-1].additional_kwargs == whole.additional_kwargs
    completed = list(llm.stream_complete("A film?"))
    assert completed[-1].text == llm.complete("A film?").text
    assert list(llm.stream_complete("A film?", max_tokens=2))[-1].additional_kwargs["completion_tokens"] == 2


async def test_async_gives_the_same(llm):
    assert (await llm.achat(MESSAGES)).message.content == llm.chat(MESSAGES).message.content
    assert (await llm.acomplete("A film?")).text == llm.complete("A film?").text
    pieces = [piece async for piece in await llm.astream_chat(MESSAGES)]
    assert pieces[-1].message.content == llm.chat(MESSAGES).message.content
    completed = [piece async for piece in await llm.astream_complete("A film?")]
    assert completed[-1].text == llm.complete("A film?").text


@pytest.mark.parametrize("kind", ["acomplete", "achat", "astream_complete", "astream_chat"])
async def test_the_loop_goes_on_meanwhile(adapted, kind):
    llm = ReGeSLLM(adapted, adapter="first", max_new_tokens=150)

    async def answer():
        result = await getattr(llm, kind)("A film?" if kind.endswith("complete") else MESSAGES)
        if kind.startswith("astream"):
            async for _ in result:
                pass

    _, ticks, longest = await ticks_during(answer())
    assert ticks > 5
    assert longest < 0.8  # of the time; on a loop that is held up it is all of it


def test_stream_errors_reach_the_reader(llm, monkeypatch):
    def fails(*args, input_ids=None, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(llm.local_lm.model, "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(llm.stream_chat(MESSAGES))


def test_works_in_a_stock_component(llm):
    from llama_index.core.response_synthesizers import get_response_synthesizer
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = [NodeWithScore(node=TextNode(text="Alien is a film."), score=1.0)]
    response = get_response_synthesizer(llm=llm).synthesize("Which film?", nodes)
    assert str(response)


def test_wrap(llm, adapted):
    assert wrap_llm(llm) is adapted
    assert wrap_llm(MockLLM()) is None
    assert wrap_llm("gpt-4") is None


def test_wrap_hugging_face_llm(adapter_paths):
    huggingface = pytest.importorskip("llama_index.llms.huggingface")
    tokenizer = tiny_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer))
    model.name_or_path = tokenizer.name_or_path = "tiny-llama-0"
    theirs = huggingface.HuggingFaceLLM(
        model=model, tokenizer=tokenizer, max_new_tokens=8, context_window=512
    )
    ours = wrap_llm(theirs)
    assert ours.model is model
    assert wrap_llm(theirs) is ours
    assert ours.name == "tiny-llama-0"
    before = theirs.complete("A film about").text
    assert ours.generate(["A film about"], max_new_tokens=8)[0][0].text == before
    ours.load_adapter("first", adapter_paths["first"])
    assert ours.generate(["A film about"], max_new_tokens=8, adapter="first")[0][0].text != before
    assert theirs.complete("A film about").text == before


def test_is_an_llm_with_fields(adapted):
    llm = ReGeSLLM(adapted, temperature=0.5, stop=["\n"])
    assert (llm.temperature, llm.stop, llm.adapter) == (0.5, ["\n"], None)
    with pytest.raises(ValueError):
        ReGeSLLM(adapted, max_new_tokens=0)


def test_threads_that_wrap_one_model_get_one_lock(monkeypatch):
    huggingface = pytest.importorskip("llama_index.llms.huggingface")
    tokenizer = tiny_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer))
    theirs = huggingface.HuggingFaceLLM(model=model, tokenizer=tokenizer, context_window=512)
    start, make = threading.Barrier(4), LocalLM.__init__

    def make_slowly(self, *args, **options):
        time.sleep(0.05)  # a large model takes its time, and others ask meanwhile
        make(self, *args, **options)

    def wrap():
        start.wait()
        return wrap_llm(theirs)

    monkeypatch.setattr(LocalLM, "__init__", make_slowly)
    with ThreadPoolExecutor(4) as threads:
        made = [work.result() for work in [threads.submit(wrap) for _ in range(4)]]
    assert len({id(local) for local in made}) == 1
