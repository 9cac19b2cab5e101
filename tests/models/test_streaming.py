import gc
import threading
import time

import pytest

from reges_index.errors import InputError
from tests.tiny import tiny_lm

PROMPT = "I love science fiction films from the eighties, with"


def writers():
    return [thread for thread in threading.enumerate() if thread.name == "reges-stream"]


def wait_for_no_writers():
    deadline = time.monotonic() + 10
    while writers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not writers()


@pytest.mark.parametrize("stop", [(), ("e",), ("zzz", " t")])
def test_pieces_make_the_whole(lm, stop):
    whole = lm.generate([PROMPT], max_new_tokens=30, stop=stop)[0][0]
    stream = lm.stream(PROMPT, max_new_tokens=30, stop=stop)
    pieces = list(stream)
    assert "".join(pieces) == whole.text
    assert stream.result == whole
    assert all(pieces)
    assert len(pieces) > 1 or stop


def test_what_goes_wrong_reaches_the_reader_and_the_model_stays_usable(adapted, monkeypatch):
    expected = adapted.generate([PROMPT], max_new_tokens=4)
    forward, calls = adapted.model.forward, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(adapted.model, "forward", failing)
        stream = adapted.stream(PROMPT, adapter="first", max_new_tokens=30)
        with pytest.raises(RuntimeError, match="out of memory"):
            list(stream)
        assert list(stream) == []
    assert adapted.generate([PROMPT], max_new_tokens=4) == expected


def test_a_reader_that_leaves_ends_the_writing(lm):
    with lm.stream(PROMPT, max_new_tokens=3000) as stream:
        next(stream)
    wait_for_no_writers()
    assert list(stream) == []
    assert lm.generate([PROMPT], max_new_tokens=2)


def test_a_forgotten_stream_ends_too(lm):
    stream = lm.stream(PROMPT, max_new_tokens=3000)
    next(stream)
    del stream
    gc.collect()
    wait_for_no_writers()


def test_a_reader_may_use_the_model_in_between(lm):
    stream = lm.stream(PROMPT, max_new_tokens=20)
    next(stream)
    assert lm.generate(["Up"], max_new_tokens=2)
    assert stream.result is None
    list(stream)
    assert stream.result.new_tokens == 20


def test_close_wakes_a_waiting_reader(lm):
    stream = lm.stream(PROMPT, max_new_tokens=3000)
    with lm._lock:  # nothing can be written while this is held
        reader = threading.Thread(target=lambda: list(stream))
        reader.start()
        time.sleep(0.05)
        stream.close()
        reader.join(5)
        assert not reader.is_alive()
    wait_for_no_writers()


def test_never_started(lm):
    stream = lm.stream(PROMPT)
    stream.close()
    assert list(stream) == []
    assert not writers()


def test_unknown_options(lm):
    with pytest.raises(InputError, match="no option beams"):
        lm.stream(PROMPT, beams=2)


def test_characters_of_several_bytes_arrive_whole():
    lm = tiny_lm()
    # The random model writes plenty of broken characters; those that are whole must not come in halves.
    stream = lm.stream("é😀 日本", max_new_tokens=60)
    pieces = list(stream)
    assert "".join(pieces) == stream.result.text
