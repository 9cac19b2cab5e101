"""`reges finetune`: every command, on the tiny model, with its results as JSON and its exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reges_index.cli import main
from reges_index.cli.finetune import finetune_app
from reges_index.errors import AdapterError, ConfigError, InputError, ModelError
from tests.tiny import save_tiny

from .films import items, turns
from .openai_server import Reply, chat_server

SETTINGS = "{max_steps: 4, batch_size: 4, learning_rate: 1.0e-2, max_tokens: 768, dtype: float32}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    save_tiny(folder / "model")
    for name, rows in (
        ("turns", [turn.model_dump(mode="json") for turn in turns(6)]),
        ("items", [item.model_dump(mode="json") for item in items().values()]),
        ("pq", [{"id": f"t{n}", "query": f"a film of kind {n}"} for n in range(6)]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


def call(*arguments):
    """Run a command; its JSON, or the error it raised."""
    result = CliRunner().invoke(finetune_app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_five_commands_of_the_readme(folder, tmp_path, monkeypatch):
    """From chats without targets to both experts; only teacher, model and size are others here."""
    text = (Path(__file__).parents[2] / "finetune" / "README.md").read_text("utf-8")
    commands = [line.split()[2:] for line in text.splitlines() if line.startswith("    reges finetune ")][:5]
    assert [command[0] for command in commands] == [
        *("teacher-rankings", "pseudo-queries", "query-expert", "negatives", "item-expert")
    ]
    monkeypatch.chdir(tmp_path)
    chats = [t.model_copy(update={"targets": ()}).model_dump(mode="json") for t in turns(6)]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    Path("items.jsonl").write_bytes((folder / "items.jsonl").read_bytes())

    def script(prompt, number):
        return Reply("2, 1" if "numbers of the" in prompt else f"a novel, number {number}")

    with chat_server(script) as server:
        for command in commands:
            given = [
                f"openai-like:t@{server.url}" if word.startswith("openai:") else word for word in command
            ]
            given = [
                "3" if before == "--k" else word for before, word in zip(["", *given], given, strict=False)
            ]
            if command[0] in ("query-expert", "item-expert"):
                given += ["--settings", folder / "settings.yaml"]
            if command[0] in ("query-expert", "negatives", "item-expert"):
                given += ["--model", folder / "model"]
            if command[0] == "negatives":
                given += ["--top-k", "4"]
            assert isinstance(json.loads(call(*given, "--json")), dict)
            if command[0] == "pseudo-queries":
                assert "0 written to" in call(*given).replace("\n", " ")
    assert len(Path("rankings.jsonl").read_text().splitlines()) == 6
    assert "novels the seeker" in server.prompts[-1]
    for expert in ("query-expert", "item-expert"):
        assert json.loads(call("card", expert, "--json"))["role"] == expert


def test_contradicting_or_missing_input(folder, tmp_path):
    data = ["--conversations", folder / "turns.jsonl", "--catalog", folder / "items.jsonl"]
    with pytest.raises(ConfigError, match="either --query-expert or --queries"):
        call("negatives", *data, "--out", tmp_path / "n")
    with pytest.raises(ConfigError, match="--negatives hard needs --hard-negatives"):
        call("item-expert", *data, "--out", tmp_path / "g")
    with pytest.raises(ConfigError, match="negatives"):
        call("item-expert", *data, "--negatives", "soft", "--out", tmp_path / "g")
    with pytest.raises(ConfigError, match="id 't0' is in another of the files too"):
        call(
            "item-expert",
            *data,
            "--conversations",
            folder / "turns.jsonl",
            "--negatives",
            "random",
            "--out",
            "x",
        )
    with pytest.raises(AdapterError, match="no adapter folder"):
        call("card", tmp_path / "nowhere")
    with pytest.raises(AdapterError, match=r"no reges_adapter\.json"):
        call("card", tmp_path)
    with pytest.raises(InputError, match="no such file"):
        call("query-expert", *data[:2], "--pseudo-queries", tmp_path / "x", "--out", tmp_path / "q")


def test_turns_without_an_answer_end_with_the_models_exit_code(folder, tmp_path):
    data = ["--conversations", folder / "turns.jsonl", "--catalog", folder / "items.jsonl"]

    def script(prompt, number):
        return Reply("too long", status=400) if "kind 2" in prompt else Reply("a film")

    out = ["--out", tmp_path / "pq.jsonl"]
    with chat_server(script) as server:
        teacher = ["--teacher", f"openai-like:t@{server.url}"]
        with pytest.raises(ModelError, match="1 turns got no answer; t2: "):
            call("pseudo-queries", *data, *teacher, *out)
    assert len((tmp_path / "pq.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nowhere.yaml"], InputError.exit_code, "nowhere.yaml: no such file"),
        (["card", "nowhere"], AdapterError.exit_code, "there is no adapter folder nowhere"),
        (["run"], 2, "Missing argument"),
    ],
)
def test_exit_codes_of_the_command(arguments, code, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reges", "finetune", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
