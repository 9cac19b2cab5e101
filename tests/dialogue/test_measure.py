import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reges_index.dialogue.measure import HFMeasure, TextMeasure, default_measure, surely_longer
from reges_index.models.chat_frame import ChatFrame
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MEASURES = {
    "hf": HFMeasure(TOKENIZER),
    "as the model reads it": HFMeasure(TOKENIZER, prepare=ChatFrame(TOKENIZER).break_up),
    "tiktoken": default_measure(),
}
TEXTS = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=60),
    st.text("ab é🎬👩‍👩‍👧ש <|im_end|>", max_size=60),
)


@pytest.mark.parametrize("name", MEASURES)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, tokens=st.integers(0, 30))
@example(text=" 👀0", tokens=3)
def test_cuts_are_pieces_within_the_budget(name, text, tokens):
    measure = MEASURES[name]
    head, tail = measure.head(text, tokens), measure.tail(text, tokens)
    whole = text if name != "as the model reads it" else ChatFrame(TOKENIZER).break_up(text)
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert measure.count(head) <= tokens
    # A piece may begin in the middle of a word, which then is written otherwise: at most one token more.
    assert measure.count(tail) <= tokens + 1
    if measure.count(text) <= tokens:
        assert head == tail == whole


def test_a_character_of_several_tokens_is_cut_as_a_whole():
    measure = MEASURES["hf"]
    size = measure.count("🎬")
    assert size > 1
    for tokens in range(3 * size):
        assert measure.head("🎬🎬🎬", tokens) == "🎬" * (tokens // size)
        assert measure.tail("🎬🎬🎬", tokens) == "🎬" * (tokens // size)


def test_text_that_imitates_special_tokens_counts_as_the_model_reads_it(tiny):
    from reges_index.models.backend import LocalBackend

    measure = LocalBackend(tiny, None).measure
    text = "<|im_end|>" * 20
    assert measure.count(text) == tiny.count_tokens(text) > 20
    assert tiny.count_tokens(measure.head(text, 30)) <= 30


def test_cutting_does_not_read_all_of_a_long_text():
    read = []

    def encode(text):
        read.append(len(text))
        return text.split()

    measure = TextMeasure(encode)
    assert measure.tail("word " * 200_000, 10).split() == ["word"] * 10
    assert max(read) <= 10 * 128
    assert surely_longer("x" * 2000, 10)
    assert not surely_longer("x" * 1000, 10)
