import asyncio

import pytest
import torch
from llama_index.core.llms import ChatMessage

from reges_index.errors import AdapterError, ConfigError, InputError, ModelError, ModelNotFoundError
from reges_index.models.llm import ReGeSLLM
from reges_index.models.loading import pick_device, pick_dtype
from reges_index.models.local_lm import LocalLM
from tests.tiny import save_tiny, save_tiny_adapter, tiny_lm, tiny_model, tiny_tokenizer

PROMPTS = ["A film about", "No horror please,", "I love science fiction films from the eighties, with"]
TITLES = ["Alien", "Aliens", "Toy Story", "Toy Story 2", "Up"]
ADAPTERS = [None, "first", "second"]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# -- adapters ------------------------------------------------------------------------------------------


def test_adapters_and_the_bare_base(adapted):
    bare = tiny_lm()
    assert adapted.adapters == ("first", "second")
    assert adapted.has_adapter("first")
    assert not adapted.has_adapter("third")
    answers = {adapter: adapted.generate(PROMPTS, adapter=adapter, max_new_tokens=8) for adapter in ADAPTERS}
    assert answers[None] == bare.generate(PROMPTS, max_new_tokens=8)
    assert answers["first"] != answers["second"] != answers[None]


def test_an_adapter_gives_what_peft_gives(adapter_paths, adapted):
    from peft import PeftModel

    reference = PeftModel.from_pretrained(
        tiny_model(vocab_size=len(adapted.tokenizer)), adapter_paths["second"]
    )
    ids = torch.tensor([adapted.encode(PROMPTS[0])])
    with torch.inference_mode(), adapted._using("second"):
        torch.testing.assert_close(adapted.model(ids).logits, reference(ids).logits)


def test_model_is_the_bare_base_for_others(adapted):
    ids = torch.tensor([adapted.encode(PROMPTS[0])])
    bare = tiny_lm().model(ids).logits
    adapted.generate(PROMPTS, adapter="first", max_new_tokens=2)
    torch.testing.assert_close(adapted.model(ids).logits, bare)
    assert not any(
        parameter.requires_grad for name, parameter in adapted.model.named_parameters() if "lora" in name
    )


@pytest.mark.parametrize("failing", ["generate", "score", "choose"])
def test_an_exception_leaves_the_model_as_it_was(adapted, monkeypatch, failing):
    expected = [adapted.score(PROMPTS[0], TITLES, adapter=adapter) for adapter in ADAPTERS]
    arguments = ([PROMPTS[0]],) if failing == "generate" else (PROMPTS[0], TITLES)
    with monkeypatch.context() as patch:
        patch.setattr(adapted.model, "forward", _raise)
        with pytest.raises(MemoryError):
            getattr(adapted, failing)(*arguments, adapter="first")
    assert [adapted.score(PROMPTS[0], TITLES, adapter=adapter) for adapter in ADAPTERS] == expected
    assert not torch.is_inference_mode_enabled()
    assert not adapted.model.training


def _raise(*args, input_ids=None, **kwargs):
    raise MemoryError("no memory")


def test_unknown_adapter(adapted):
    calls = [
        lambda: adapted.generate(PROMPTS, adapter="third"),
        lambda: adapted.score(PROMPTS[0], TITLES, adapter="third"),
        lambda: adapted.choose(PROMPTS[0], TITLES, adapter="third"),
        lambda: adapted.stream(PROMPTS[0], adapter="third"),
        lambda: adapted.manifest("third"),
        lambda: ReGeSLLM(adapted, adapter="third"),
    ]
    for call in calls:
        with pytest.raises(AdapterError, match="no adapter 'third'; known: first, second"):
            call()


def test_names_of_adapters(adapted, adapter_paths):
    with pytest.raises(AdapterError, match="loaded already"):
        adapted.load_adapter("first", adapter_paths["second"])
    with pytest.raises(AdapterError, match=r"cannot be called 'a\.b'"):
        adapted.load_adapter("a.b", adapter_paths["second"])
    assert adapted.adapters == ("first", "second")


@pytest.mark.parametrize("already", [False, True])
def test_an_adapter_that_does_not_fit_leaves_nothing_behind(tmp_path, adapter_paths, already):
    from safetensors.torch import load_file, save_file

    path = save_tiny_adapter(tmp_path / "cut", seed=5)
    tensors = load_file(path / "adapter_model.safetensors")
    tensors.popitem()
    save_file(tensors, path / "adapter_model.safetensors")

    lm = tiny_lm()
    if already:
        lm.load_adapter("first", adapter_paths["first"])
    before, flags = weights(lm.model), [parameter.requires_grad for parameter in lm.model.parameters()]
    with pytest.raises(AdapterError, match="1 tensors missing"):
        lm.load_adapter("cut", path)
    assert same(before, weights(lm.model))
    assert flags == [parameter.requires_grad for parameter in lm.model.parameters()]
    assert lm.adapters == (("first",) if already else ())
    lm.load_adapter("cut", adapter_paths["second"])
    assert lm.generate(PROMPTS, adapter="cut", max_new_tokens=4)


def test_an_adapter_of_another_shape(tmp_path):
    path = save_tiny_adapter(tmp_path / "wide", arch="mistral", seed=1)
    other = tiny_model("llama", vocab_size=len(tiny_tokenizer()), hidden_size=64)
    lm = LocalLM(other, tiny_tokenizer(), name="tiny-mistral-0")
    before = weights(lm.model)
    with pytest.raises(AdapterError, match="does not fit LlamaForCausalLM"):
        lm.load_adapter("wide", path)
    assert same(before, weights(lm.model))


def test_layers_of_adapters_without_the_peft_model_around_them(adapter_paths):
    from peft import PeftModel

    tokenizer = tiny_tokenizer()
    own = PeftModel.from_pretrained(tiny_model(vocab_size=len(tokenizer)), adapter_paths["first"])
    lm = LocalLM(own.get_base_model(), tokenizer, name="tiny-llama-0")
    assert lm.generate(PROMPTS, max_new_tokens=4)
    with pytest.raises(AdapterError, match="holds adapters that were not loaded here"):
        lm.load_adapter("second", adapter_paths["second"])


# -- several at once -----------------------------------------------------------------------------------


def jobs(lm):
    """Twenty different calls, over prompts and adapters."""
    calls = []
    for number in range(20):
        prompt, adapter = f"{PROMPTS[number % 3]} {number}", ADAPTERS[number % 3]
        if number % 2:
            calls.append((lm.score, (prompt, TITLES), {"adapter": adapter}))
        else:
            calls.append((lm.generate, ([prompt],), {"adapter": adapter, "max_new_tokens": 6}))
    return calls


def one_after_the_other(lm):
    return [call(*args, **kwargs) for call, args, kwargs in jobs(lm)]


async def test_threads_and_tasks_and_streams_at_once(adapted):
    expected = one_after_the_other(adapted)
    streamed = {
        adapter: adapted.generate(PROMPTS[:1], adapter=adapter, max_new_tokens=6)[0][0].text
        for adapter in ADAPTERS
    }

    async def stream(adapter):
        return await asyncio.to_thread(
            lambda: "".join(adapted.stream(PROMPTS[0], adapter=adapter, max_new_tokens=6))
        )

    threads = [asyncio.to_thread(one_after_the_other, adapted) for _ in range(2)]
    tasks = [asyncio.to_thread(call, *args, **kwargs) for call, args, kwargs in jobs(adapted)]
    results = await asyncio.gather(*threads, *tasks, *map(stream, ADAPTERS))
    assert results[:2] == [expected, expected]
    assert results[2:22] == expected
    assert results[22:] == [streamed[adapter] for adapter in ADAPTERS]


# -- making one ----------------------------------------------------------------------------------------


def test_from_a_folder_with_adapters(tmp_path, adapter_paths):
    folder = save_tiny(tmp_path / "base")
    lm = LocalLM.from_pretrained(folder, dtype="fp32", device="cpu", adapters=adapter_paths)
    assert lm.name == str(folder)
    assert lm.adapters == ("first", "second")
    assert lm.generate(PROMPTS, max_new_tokens=6) == tiny_lm().generate(PROMPTS, max_new_tokens=6)
    assert lm.fingerprint == tiny_lm().fingerprint


def test_dtypes_and_devices(tmp_path):
    folder = save_tiny(tmp_path)
    assert LocalLM.from_pretrained(folder, dtype="bf16", device="cpu").model.dtype == torch.bfloat16
    assert pick_dtype("float32") == pick_dtype(torch.float32) == torch.float32
    assert pick_dtype("auto", torch.device("cpu")) in (torch.bfloat16, torch.float32)
    with pytest.raises(ConfigError, match="dtype 'int3' is not known"):
        pick_dtype("int3")
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        pick_device("abacus")


def test_adapters_are_cast_to_the_base_and_still_fit(tmp_path, adapter_paths):
    lm = LocalLM.from_pretrained(save_tiny(tmp_path), dtype="bf16", device="cpu", adapters=adapter_paths)
    assert {parameter.dtype for parameter in lm.model.parameters()} == {torch.bfloat16}
    assert lm.score(PROMPTS[0], TITLES, adapter="first") != lm.score(PROMPTS[0], TITLES)


def test_pickled_weights_are_not_read(tmp_path):
    folder = save_tiny(tmp_path)
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        LocalLM.from_pretrained(folder)


def test_a_base_that_is_nowhere():
    with pytest.raises(ModelNotFoundError, match="nobody/nothing"):
        LocalLM.from_pretrained("nobody/nothing")


def test_context_window():
    lm = tiny_lm()
    assert lm.context_window == 4096
    lm = tiny_lm()
    lm.tokenizer.model_max_length = 100
    assert lm.context_window == 100
    with pytest.raises(InputError, match="do not fit into the 100 tokens"):
        lm.generate(["film " * 99])


def test_a_prompt_that_just_fits():
    lm = tiny_lm()
    lm.tokenizer.model_max_length = 40
    prompt = "film" * 3
    room = 40 - len(lm.encode(prompt))
    assert lm.generate([prompt], max_new_tokens=room)
    with pytest.raises(InputError):
        lm.generate([prompt], max_new_tokens=room + 1)


@pytest.mark.slow
def test_the_embedded_default_answers():
    lm = LocalLM.default()
    assert LocalLM.default() is lm
    answer = lm.generate([[ChatMessage(role="user", content="What is the capital of France?")]])[0][0]
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
