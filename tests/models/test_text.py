"""What a model says, without what it thought and put around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reges_index.models.text import SpokenStream, begins_in_thoughts, read_text, spoken
from reges_index.query_expert.cleaning import clean_query

HARMONY = (
    "<|channel|>analysis<|message|>They want space.<|end|><|start|>assistant"
    "<|channel|>final<|message|>slow films<|return|>"
)
SAYS_SLOW_FILMS = [
    "slow films",
    "<think>\nThey want space.\n</think>\n\nslow films",
    "<THINK>a</THINK>slow films",
    "<thinking>a</thinking>\nslow films",
    "<reasoning>a\nb</reasoning>slow films",
    "<think>one</think><think>two</think>slow films",
    "<think>they say <think> twice</think>slow films",
    "They want space.\n</think>\n\nslow films",
    "[THINK]a[/THINK]slow films",
    "◁think▷a◁/think▷slow films",
    HARMONY,
    "analysisThey want space.assistantfinalslow films",
    "```\nslow films\n```",
    "```text\nslow films\n```",
    "# Query\nslow films",
    "## Search query:\n\nslow films",
    "**Query:**\nslow films",
    "assistant\nslow films",
    "Assistant: slow films",
    "<|im_start|>assistant\nslow films<|im_end|>",
    "Let me think step by step. slow films",
    "Let me think step by step.\n\nslow films",
    "Okay, let's think this through: slow films",
    "<answer>slow films</answer>",
    "slow films</s>",
    "<|START_THINKING|>They want space.<|END_THINKING|><|START_RESPONSE|>slow films<|END_RESPONSE|>",
    "<unused94>thought\nThey want space.<unused95>slow films",
    "&lt;think&gt;They want space.&lt;/think&gt;slow films",
    '<details type="reasoning"><summary>Thought for 3 s</summary>\n> They want\n</details>\nslow films',
    "<think>They want space.</thinking>\nslow films",
    "<think/>slow films",
    "<search_query>slow films</search_query>",
    "[INST] slow films [/INST]",
    r"They want space, so the query is \boxed{slow films}.",
    r"So $\boxed{\text{slow films}}$",
    "Reasoning: they want space. They said so.\nFinal answer: slow films",
    "**Reasoning:** They want space.\n\n**Final Answer:** slow films",
    "They want space.\n\n### Final Query\nslow films",
    "Thoughts: they want space. Answer: slow films",
]


@pytest.mark.parametrize("raw", SAYS_SLOW_FILMS)
def test_what_is_said(raw):
    assert spoken(raw) == "slow films"
    assert clean_query(raw) == "slow films"
    assert not read_text(raw).unclosed


@pytest.mark.parametrize(
    "raw", ["<think>\nThey want", "<|channel|>analysis<|message|>They want", "[THINK]They"]
)
def test_thoughts_that_never_end_are_no_answer(raw):
    read = read_text(raw)
    assert (read.text, read.unclosed) == ("", True)
    assert "They" in read.thought
    assert clean_query(raw) == ""


ORDINARY = [
    *("Alien", "# Alien", "**Alien**\nbecause", "Thinking, Fast and Slow", "analysis of love", "A.I."),
    *("a < b > c", "I think that Heat fits.", "Let's go!", "#Alive", "Se7en", "[REC]", "<3"),
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text):
    assert spoken(text) == text.removeprefix("# ")


@pytest.mark.parametrize(
    "raw",
    [
        '```json\n{"query": "slow films"}\n```',
        '["slow films"]',
        "- slow films",
        "1. slow films",
        "> slow films",
    ],
)
def test_a_query_in_json_or_in_a_list(raw):
    assert clean_query(raw) == "slow films"


def test_a_labelled_query_goes_before_other_lines():
    assert clean_query("The user wants space films.\nQuery: slow space films") == "slow space films"


@given(st.text(max_size=60))
def test_any_text_is_read(text):
    read = read_text(text)
    assert read.text == read.text.strip()
    assert read_text(read.text).unclosed in (False, True)


def test_an_answer_behind_reasons_and_boxes_of_a_list():
    read = read_text("Reasoning: they want space.\nFinal answer: 3, 1")
    assert (read.text, read.thought) == ("3, 1", "Reasoning: they want space.")
    assert spoken("1. \\boxed{Heat {x}}\n2. $\\boxed{Up}$") == "1. Heat {x}\n2. Up"


def streamed(raw, size, *, held):
    stream = SpokenStream(held=held)
    shown = [stream.feed(raw[start : start + size]) for start in range(0, len(raw), size)]
    return [*shown, stream.end()]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_streams_hold_thoughts_back(size):
    for raw in SAYS_SLOW_FILMS[:12]:
        text = "".join(streamed(raw, size, held=begins_in_thoughts(raw)))  # as is known once one was read
        assert "They" not in text
        assert spoken(text).endswith("slow films")
    assert begins_in_thoughts("They want space.\n</think>\n\nslow films")
    assert not begins_in_thoughts("<think>They want space.</think>slow films")
    assert streamed("slow films", 5, held=False)[0] == "slow "
    assert streamed("slow films", 5, held=True) == ["", "", "slow films"]
