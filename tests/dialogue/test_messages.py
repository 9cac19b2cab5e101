import io
import json

import pytest
from llama_index.core.base.llms.types import ChatMessage

from reges_index import Turn, read_turns
from reges_index.dialogue import Message, read_conversation, to_messages
from reges_index.errors import InputError

GOOD = {"id": "a", "messages": [{"role": "user", "content": "a thriller\u2028please"}], "targets": ["7"]}


def write(tmp_path, *lines, encoding="utf-8"):
    path = tmp_path / "turns.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_every_form_of_a_dialogue_means_the_same():
    wanted = (ChatMessage(role="user", content="a thriller"),)
    turn = Turn(messages=(Message(role="user", content="a thriller"),))
    mapping = {"role": "user", "content": "a thriller"}
    for form in ("a thriller", turn, list(turn.messages), list(wanted), [mapping]):
        assert to_messages(form) == wanted
    system = [{"role": "system", "content": "be nice"}, mapping, ChatMessage(role="tool", content="x")]
    assert to_messages(system) == wanted
    asides = [{"role": "system", "content": "be nice"}, mapping, {"role": "tool", "content": None}]
    assert Turn.model_validate({"messages": asides}) == turn
    assert to_messages(Turn(messages=asides)) == wanted


@pytest.mark.parametrize(
    "nothing", ["", " \n", [], [{"role": "user", "content": " "}], [ChatMessage(role="user")]]
)
def test_an_empty_dialogue_is_an_error(nothing):
    with pytest.raises(InputError, match="dialogue is empty"):
        to_messages(nothing)


@pytest.mark.parametrize(
    "wrong", [[{"role": "seeker", "content": "x"}], [{"role": "user"}], ["text"], {"a": 1}]
)
def test_a_wrong_message_is_named(wrong):
    with pytest.raises(InputError, match="message 1 of the dialogue"):
        to_messages(wrong)


def test_turns_are_read_with_line_separators_inside_strings(tmp_path):
    path = write(tmp_path, "", json.dumps(GOOD, ensure_ascii=False), "  ")
    (turn,) = read_turns(path)
    assert turn.messages[0].content == "a thriller\u2028please"
    assert (turn.targets, turn.mentioned) == (("7",), None)
    assert read_turns(write(tmp_path, json.dumps(GOOD), encoding="utf-8-sig"))[0].id == "a"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "object with 'messages'"),
        ('{"id": "b"}', "object with 'messages'"),
        ('{"id": "b", "messages": []}', "dialogue is empty"),
        ('{"id": "b", "messages": [{"role": "user", "content": " "}]}', "dialogue is empty"),
        ('{"id": "b", "messages": [{"role": "bot", "content": "x"}]}', "messages.0.role"),
        ('{"id": "b", "messages": [{"role": "user", "content": 3}]}', "messages.0.content"),
        ('{"id": 3, "messages": [{"role": "user", "content": "x"}]}', "id"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no 'id'"),
        (json.dumps(GOOD), "was used on line 1"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path, line, what):
    path = write(tmp_path, json.dumps(GOOD), "", line)
    with pytest.raises(InputError) as error:
        read_turns(path)
    assert f"{path}:3" in str(error.value)
    assert what in str(error.value)
    assert error.value.exit_code == 2


def test_bad_files_are_named(tmp_path):
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes("Amélie".encode("latin-1"))
    empty = write(tmp_path, "")
    for path, what in (
        (latin, "not UTF-8"),
        (empty, "no turn"),
        (tmp_path / "no", "no such"),
        (tmp_path, "read"),
    ):
        with pytest.raises(InputError, match=what) as error:
            read_turns(path)
        assert str(path) in str(error.value)


def test_a_conversation_is_read_from_a_file_or_standard_input(tmp_path, monkeypatch):
    path = tmp_path / "dialogue.json"
    path.write_text(json.dumps(GOOD, indent=2), encoding="utf-8")
    turn = read_conversation(path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert read_conversation("-") == turn
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff{}")))
    with pytest.raises(InputError, match="standard input"):
        read_conversation("-")
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"dialogue\.json: expected"):
        read_conversation(path)


def test_files_may_hold_what_neither_side_has_said(tmp_path):
    system = {"role": "system", "content": "You are a film expert."}
    turn = {**GOOD, "messages": [system, *GOOD["messages"], {"role": "tool", "content": None}]}
    assert read_turns(write(tmp_path, json.dumps(turn))) == read_turns(write(tmp_path, json.dumps(GOOD)))
    path = tmp_path / "dialogue.json"
    path.write_text(json.dumps({"messages": turn["messages"]}), encoding="utf-8")
    assert [message.role for message in read_conversation(path).messages] == ["user"]
    path.write_text(json.dumps({"messages": [system]}), encoding="utf-8")
    with pytest.raises(InputError, match="dialogue is empty"):
        read_conversation(path)
