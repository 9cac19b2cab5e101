import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from reges_index.dialogue import normalise, one_line

ANY_TEXT = st.text(st.characters(), max_size=80)  # surrogates included


@given(ANY_TEXT)
def test_one_line_leaves_one_clean_line(text):
    line = one_line(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in line)
    assert len(line.splitlines()) <= 1
    assert line == line.strip()
    assert one_line(line) == line
    line.encode("utf-8")


@given(st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp", "Zs"))))
def test_one_line_keeps_what_may_stay(text):
    assert one_line(text) == text


def test_emoji_and_right_to_left_text_stay():
    for text in ("👩‍👩‍👧 and 🇫🇷", "אני אוהב מתח", "أحب أفلام \u202bالإثارة\u202c", "❤️"):
        assert one_line(text) == text


def test_breaks_become_spaces():
    assert one_line("a\r\nb\u2028c\x00d\x1b[31m\te") == "a b c d [31m e"
    assert one_line("lost \ud83d half") == "lost \ufffd half"


@given(ANY_TEXT)
def test_normalise_leaves_words_and_single_blanks(text):
    words = normalise(text)
    assert words == words.strip()
    assert "  " not in words
    assert all(char == " " or char == "_" or char.isalnum() for char in words)


def test_normalise_folds_case_accents_and_punctuation():
    assert normalise("  AMÉLIE — the Film!! ") == "amelie the film"
    assert normalise("Straße") == normalise("STRASSE")
    assert normalise("?!…") == ""
