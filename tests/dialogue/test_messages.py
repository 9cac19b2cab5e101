import io
import json
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ThinkingBlock

from reges_index import DialogueQueryBundle, Turn, read_turns
from reges_index.dialogue import Message, read_conversation, to_messages
from reges_index.engines.notes import notes
from reges_index.errors import InputError
from reges_index.evaluation.predictions import read_predictions

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
    "wrong", [[{"role": "narrator", "content": "x"}], [{"role": "user"}], ["text"], {"a": 1}]
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
        ("[" * 100_000, "nested too deeply"),
        ("[]", "expected a JSON object"),
        ('{"id": "b"}', "object with 'messages'"),
        ('{"id": "b", "messages": []}', "dialogue is empty"),
        ('{"id": "b", "messages": [{"role": "user", "content": " "}]}', "dialogue is empty"),
        ('{"id": "b", "messages": [{"role": "narrator", "content": "x"}]}', "narrator"),
        ('{"id": "b", "messages": [{"role": "user", "content": 3}]}', "messages.0.content"),
        ('{"id": true, "messages": [{"role": "user", "content": "x"}]}', "id"),
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
    with pytest.raises(InputError, match=r"dialogue\.json: the dialogue is empty"):
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


INPUTS = Path(__file__).parents[1] / "inputs" / "dialogues"
SAID = [("user", "A tense film, please"), ("assistant", "Alien?"), ("user", "Seen it.\nSomething else?")]


@pytest.mark.parametrize("name", sorted(path.name for path in INPUTS.iterdir()))
def test_logs_of_every_kind_are_read_alike(name):
    """OpenAI with tools and parts, Gemini, Cohere, ShareGPT, ChatGPT, LlamaIndex's dump, JSON Lines."""
    turn = read_conversation(INPUTS / name)
    assert [(message.role, message.content) for message in turn.messages] == SAID


def test_the_dump_of_a_chat_message_is_read():
    messages = [
        ChatMessage(role="user", content="a thriller"),
        ChatMessage(role="model", blocks=[ThinkingBlock(content="Hm"), TextBlock(text="Heat?")]),
    ]
    dumped = [message.model_dump() for message in messages]
    for form in (messages, dumped, json.loads(json.dumps(dumped))):
        assert [(m.role.value, m.content) for m in to_messages(form)] == [
            ("user", "a thriller"),
            ("assistant", "Heat?"),
        ]


@pytest.mark.parametrize("role", ["human", "Customer", "SEEKER", " user "])
def test_names_of_the_seeker(role):
    assert to_messages([{"role": role, "content": "x"}])[0].role == "user"


@pytest.mark.parametrize("role", ["model", "chatbot", "AI", "bot", "recommender", MessageRole.CHATBOT])
def test_names_of_the_recommender(role):
    assert to_messages([{"role": role, "content": "x"}])[0].role == "assistant"


@pytest.mark.parametrize("role", ["narrator", "", None, 3, "moderator"])
def test_an_unknown_role_is_an_error_that_names_it_and_the_two_sides(role):
    with pytest.raises(InputError) as error:
        to_messages([{"role": "user", "content": "a"}, {"role": role, "content": "not this one"}])
    assert "message 2" in str(error.value)
    assert repr(str(role)) in str(error.value)
    assert "'assistant'" in str(error.value)


def test_what_is_left_out_is_counted():
    messages = [
        {"role": "system", "content": "be nice"},
        {"role": "user", "content": "a thriller"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "[1, 2]"},
    ]
    bundle = DialogueQueryBundle.from_dialogue(messages)
    assert bundle.report == {"messages_of_others": 3}
    assert len(bundle.messages) == 1
    assert notes({"query": bundle.report}) == ["messages of systems and tools left out: 3"]


def test_ids_are_one_text_however_they_are_written(tmp_path):
    raw = {**GOOD, "id": 12, "dialog_id": 3.0, "targets": [7, " 8 "], "mentioned": ["9 "]}
    (turn,) = read_turns(write(tmp_path, json.dumps(raw)))
    assert (turn.id, turn.dialog_id, turn.targets, turn.mentioned) == ("12", "3", ("7", "8"), ("9",))
    path = tmp_path / "predictions.jsonl"
    path.write_text(
        json.dumps({"id": 12, "ranking": [7, "8 "], "recommendation": 7}) + "\n", encoding="utf-8"
    )
    (prediction,) = read_predictions(path)
    assert (prediction.id, prediction.ranking, prediction.recommendation) == ("12", ("7", "8"), "7")
    for wrong in (True, 1.5, [1]):
        with pytest.raises(InputError, match="targets"):
            read_turns(write(tmp_path, json.dumps({**GOOD, "targets": [wrong]})))


def test_plain_text_is_what_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a quiet film\nabout the sea\n")))
    assert read_conversation("-").messages == (Message(role="user", content="a quiet film\nabout the sea"),)
    (tmp_path / "wish.txt").write_text("something funny", encoding="utf-8")
    assert read_conversation(tmp_path / "wish.txt").messages[0].content == "something funny"


HI_YO = [("user", "hi"), ("assistant", "yo")]
OTHER_LOGS = {
    "langchain": [{"type": "human", "content": "hi"}, {"type": "ai", "content": "yo"}],
    "langchain_dump": [
        {"type": "human", "data": {"content": "hi"}},
        {"type": "system", "data": {"content": "be nice"}},
        {"type": "ai", "data": {"content": "yo", "type": "ai"}},
    ],
    "langchain_dumps": [
        {"lc": 1, "type": "constructor", "id": ["schema", "HumanMessage"], "kwargs": {"content": "hi"}},
        {"lc": 1, "type": "constructor", "id": ["schema", "AIMessage"], "kwargs": {"content": "yo"}},
    ],
    "rasa": {"events": [{"event": "user", "text": "hi"}, {"event": "bot", "text": "yo"}]},
    "history": {"chat_history": [{"role": "Me", "message": "hi"}, {"role": "AI Assistant", "message": "yo"}]},
    "responses": {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "name": "find", "arguments": "{}"},
            {"type": "function_call_output", "output": "Heat"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yo"}]},
        ]
    },
}


@pytest.mark.parametrize("log", OTHER_LOGS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_logs_of_other_libraries(log, encoding, tmp_path):
    path = tmp_path / "log.json"
    path.write_text(json.dumps(OTHER_LOGS[log]), encoding=encoding)
    assert [(m.role, m.content) for m in read_conversation(path).messages] == HI_YO


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("User: hi\nAssistant: yo", HI_YO),
        ("**Seeker:** hi\nRecommender: yo\nthere", [("user", "hi"), ("assistant", "yo\nthere")]),
        ("Expert: I am none", [("user", "Expert: I am none")]),
        ("Films: slow ones", [("user", "Films: slow ones")]),
    ],
)
def test_a_transcript(text, said, tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(text)
    assert [(m.role, m.content) for m in read_conversation(path).messages] == said


QUIET = {"type": "text", "text": "a quiet film"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


@pytest.mark.parametrize(
    "message",
    [
        [QUIET],
        [QUIET, PICTURE],
        [TextBlock(text="a quiet film")],
        {"role": "user", "content": [QUIET, PICTURE]},
        {"role": "user", "content": [TextBlock(text="a quiet film")]},
        ChatMessage(role="user", blocks=[TextBlock(text="a quiet film")]),
    ],
)
def test_a_message_in_parts_is_its_text(message):
    assert [(m.role.value, m.content) for m in to_messages(message)] == [("user", "a quiet film")]


def test_parts_that_are_no_text_are_named():
    for message in ([PICTURE], {"role": "user", "content": [PICTURE]}):
        with pytest.raises(InputError, match="parts of kind image_url are not read"):
            to_messages(message)
    with pytest.raises(InputError, match="message 1 of the dialogue: a part of content is of type int"):
        to_messages([{"role": "user", "content": [QUIET, 5]}])


@pytest.mark.parametrize("key", ["sender", "author", "speaker", "from", "role"])
def test_messages_that_say_their_kind_and_their_speaker_are_no_parts(key):
    log = [{"type": "text", key: "user", "text": "hi"}, {"type": "text", key: "assistant", "text": "yo"}]
    assert [(m.role.value, m.content) for m in to_messages(log)] == HI_YO


def test_messages_may_be_read_once_only():
    log = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    assert [(m.role.value, m.content) for m in to_messages(iter(log))] == HI_YO


@pytest.mark.parametrize("dialogue", [None, 5])
def test_what_is_no_dialogue_is_named(dialogue):
    with pytest.raises(InputError, match=f"the dialogue is of type {type(dialogue).__name__}"):
        to_messages(dialogue)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_turns_as_windows_writes_them(encoding, tmp_path):
    path = tmp_path / "turns.jsonl"
    row = '{"id": "%s", "messages": [{"role": "user", "content": "Amélie, 𝄞"}]}\n'
    path.write_text((row * 2) % ("a", "b"), encoding=encoding)
    assert [(turn.id, turn.messages[0].content) for turn in read_turns(path)] == [
        ("a", "Amélie, 𝄞"),
        ("b", "Amélie, 𝄞"),
    ]
    path.write_text(row % "a" + "{", encoding=encoding)
    with pytest.raises(InputError, match=r"turns.jsonl:2: not valid JSON"):
        read_turns(path)
