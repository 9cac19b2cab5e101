import pytest
import torch
from llama_index.core.llms import ChatMessage

from reges_index.errors import AdapterError, InputError
from reges_index.models.generation import GenerationOptions, generate_batch
from tests.tiny import ARCHITECTURES, SENTENCES, SLIDING_WINDOW, tiny_lm

PROMPTS = [
    "A film",
    "I love science fiction films from the eighties, with",
    "No horror please,",
    "Up",
    "0 1 2 3 4",
]


def texts(results):
    return [[generation.text for generation in own] for own in results]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_batch_gives_what_each_prompt_gives_alone(arch):
    lm = tiny_lm(arch)
    alone = [lm.generate([prompt], max_new_tokens=10)[0] for prompt in PROMPTS]
    assert lm.generate(PROMPTS, max_new_tokens=10, batch_size=3) == alone
    assert lm.generate(PROMPTS, max_new_tokens=10, batch_size=8) == alone


def test_greedy_is_the_argmax_of_each_step(lm):
    ids = lm.encode(PROMPTS[0])
    with torch.inference_mode():
        for _ in range(8):
            ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = lm.tokenizer.decode(ids[-8:], skip_special_tokens=True)
    assert lm.generate(PROMPTS[:1], max_new_tokens=8)[0][0].text == expected


def test_messages_and_raw_text_in_one_call(lm):
    messages = [ChatMessage(role="user", content="A film?")]
    rendered = lm.tokenizer.decode(lm.encode_chat(messages))
    assert len(set(map(tuple, lm.generate([messages, rendered], max_new_tokens=6)))) == 1


def test_counts_and_reasons(lm):
    result = lm.generate(["A film"], max_new_tokens=5)[0][0]
    assert result.prompt_tokens == len(lm.encode("A film"))
    assert (result.new_tokens, result.finish_reason) == (5, "length")
    whole = lm.generate(["A film"], max_new_tokens=40)[0][0].text
    stop = whole[6:9]
    cut = lm.generate(["A film", PROMPTS[1]], max_new_tokens=40, stop=[stop])[0][0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.new_tokens < 40


def test_the_end_token_ends_an_answer(lm):
    lm.model.lm_head.weight.data[lm.end_token_id] = 0
    lm.model.lm_head.weight.data[lm.end_token_id] += 100 * lm.model.model.norm(torch.ones(32))
    seen = lm.generate(PROMPTS, max_new_tokens=30)
    ended = [own[0] for own in seen if own[0].finish_reason == "stop"]
    assert ended
    assert all(result.new_tokens < 30 and "<|im_end|>" not in result.text for result in ended)


def test_seeds(lm):
    options = {"temperature": 1.0, "num_return_sequences": 3, "max_new_tokens": 8}
    before = torch.random.get_rng_state()
    one, same, other = (texts(lm.generate(PROMPTS, seed=seed, **options)) for seed in (1, 1, 2))
    assert one == same != other
    assert all(len(own) == 3 for own in one)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("prompts", [[*PROMPTS, " ".join(SENTENCES[:2])], ["A film"]])
def test_samples_are_transformers_own(arch, prompts):
    lm = tiny_lm(arch)
    lm.tokenizer.padding_side = "left"
    inputs = lm.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    longest = inputs["input_ids"].shape[1]
    assert longest > SLIDING_WINDOW or len(prompts) == 1
    torch.manual_seed(5)
    output = lm.model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=True,
        top_k=0,
        max_new_tokens=24,
        num_return_sequences=3,
        eos_token_id=[*lm._frame.stop_token_ids, lm.tokenizer.pad_token_id],
        pad_token_id=lm.tokenizer.pad_token_id,
    )
    theirs = lm.tokenizer.batch_decode(
        output[:, longest:],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    ours = generate_batch(
        lm.model,
        lm._frame,
        [lm.encode(prompt) for prompt in prompts],
        GenerationOptions(temperature=1.0, num_return_sequences=3, max_new_tokens=24, seed=5),
    )
    assert [text for own in texts(ours) for text in own] == theirs


def test_top_p_and_temperature_near_zero_are_greedy(lm):
    greedy = texts(lm.generate(PROMPTS, max_new_tokens=8))
    assert texts(lm.generate(PROMPTS, max_new_tokens=8, temperature=1.0, top_p=1e-6, seed=0)) == greedy
    assert texts(lm.generate(PROMPTS, max_new_tokens=8, temperature=1e-4, seed=0)) == greedy


def test_the_ban_of_repetitions_changes_the_text(lm):
    plain = lm.generate(PROMPTS[1:2], max_new_tokens=40)
    assert lm.generate(PROMPTS[1:2], max_new_tokens=40, no_repeat_ngram_size=1) != plain


def test_the_models_own_generation_config_has_no_say(lm):
    plain = lm.generate(PROMPTS, max_new_tokens=10)
    lm.model.generation_config.update(
        do_sample=True, temperature=5.0, top_k=3, repetition_penalty=3.0, no_repeat_ngram_size=1, num_beams=2
    )
    assert lm.generate(PROMPTS, max_new_tokens=10) == plain


def test_no_prompts(lm):
    assert lm.generate([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_p": 0}, "top_p=0"),
        ({"stop": [""]}, "stop"),
        ({"num_return_sequences": 2}, "greedy has one result"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_new_tokens": 5000}, "do not fit into the 4096 tokens"),
    ],
)
def test_options_that_cannot_be(lm, options, message):
    with pytest.raises(InputError, match=message):
        lm.generate(["A film"], **options)


def test_prompts_that_cannot_be(lm):
    with pytest.raises(InputError, match="is a text, not a list"):
        lm.generate("A film")
    with pytest.raises(InputError, match="prompt is empty"):
        lm.generate([""])
    long = "film " * 4100
    for run in (lambda: lm.generate([long]), lambda: lm.score(long, ["Up"]), lambda: lm.stream(long)):
        with pytest.raises(InputError, match=r"of \d+ tokens and \d+ for the answer do not fit"):
            run()
    with pytest.raises(AdapterError, match="no adapter 'nobody'; known: none is loaded"):
        lm.generate(["A film"], adapter="nobody")


def test_choices_that_cannot_be(lm):
    for choices, message in (
        ([], "nothing to choose"),
        ("Heat", "nothing to choose"),
        (["Up", " "], "choice 1"),
    ):
        with pytest.raises(InputError, match=message):
            lm.score("A film:", choices)
        with pytest.raises(InputError, match=message):
            lm.choose("A film:", choices)
