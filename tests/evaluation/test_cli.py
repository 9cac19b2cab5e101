from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from reges_index.cli.data import data_app
from reges_index.cli.evaluate import evaluate
from reges_index.errors import ConfigError, InputError

app = typer.Typer()
app.command()(evaluate)
app.add_typer(data_app, name="data")


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def files(write_data, tmp_path):
    paths = write_data()
    paths["pred"] = tmp_path / "pred.jsonl"
    rows = [{"id": "t0", "ranking": ["i0"]}, {"id": "t1", "ranking": ["Title 1", "i0"]}]
    paths["pred"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def base(files):
    return (
        "evaluate", "--conversations", files["turns"], "--catalog", files["catalog"], "--resamples", 200
    )  # fmt: skip


def test_evaluate_writes_a_report_and_prints_json(files, tmp_path):
    out = tmp_path / "out"
    done = call(
        *base(files),
        "--train",
        files["train"],
        "--predictions",
        f"mine={files['pred']}",
        "--out",
        out,
        "--json",
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((out / "report.json").read_text())
    assert "mine: 3 missing turns" in done.stderr
    assert "baseline left out: retriever" in done.stderr
    report = json.loads(done.stdout)
    assert report["systems"]["mine"]["source"]["path"] == str(files["pred"])
    wanted = {"system": "mine", "protocol": "new", "metric": "recall@1"}
    found = [row for row in report["rows"] if wanted.items() <= row.items()]
    assert (found[0]["value"], found[0]["part"].split(" (")[0]) == (0.5, "Per target")


def test_settings_of_predict_are_kept(files, tmp_path):
    settings = {"model": "tiny|<b>", "seed": 0, "fusion": None, "inputs": {"item_adapter": "0123abcd"}}
    (tmp_path / "pred.jsonl.run.json").write_text(json.dumps(settings))
    done = call(*base(files), "--predictions", files["pred"], "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["systems"]["pred"]["source"]["settings"] == settings
    shown = (tmp_path / "out" / "report.md").read_text()
    assert "pred was made with model=tiny\\|&lt;b>, seed=0, inputs.item_adapter=0123abcd." in shown
    assert "inputs.item_adapter=0123abcd" in (tmp_path / "out" / "report.html").read_text()


def test_a_table_and_errors_are_printed(files):
    done = call(*base(files), "--predictions", files["pred"], "--show-errors", 1)
    assert done.exit_code == 0, done.output
    assert "new targets: 4 pairs, 3 turns" in done.stdout
    assert "recall@50" in done.stdout
    assert "Turns that pred got wrong (new targets)" in done.stdout
    assert "seeker: something new" in done.stdout
    assert "target: gone (not in the catalog) (not in catalog, not in the ranking)" in done.stdout


def test_yaml_and_flags(files, tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(
        f"conversations: {files['turns']}\ncatalog: {files['catalog']}\nresamples: 150\nseed: 3\n"
        f"predictions:\n  mine: {files['pred']}\n"
    )
    done = call("evaluate", "--config", path, "--seed", 4, "--json")
    settings = json.loads(done.stdout)["about"]["settings"]
    assert (settings["resamples"], settings["seed"]) == (150, 4)
    path.write_text("converstaions: x\n")
    assert isinstance(call("evaluate", "--config", path).exception, ConfigError)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("resamples: many", "resamples: Input should be a valid integer"),
        ("resamples: 99", "resamples: Input should be greater than or equal to 100"),
        ("level: 2", "level: Input should be less than 1"),
        ("level: .nan", "level"),
        ("seed: -1", "seed: Input should be greater than or equal to 0"),
        ("top_k: 0", "top_k"),
        ("train: [a, b]", "train: Input should be a valid string"),
        ("predictions: 5", "predictions: 5 is no file"),
        ("predictions: [5]", "predictions: 5 is no file"),
        ("predictions: {mine: 5}", "predictions.mine: Input should be a valid string"),
        ("experiments: 5\nout: x", "experiments"),
        ("experiments: figure5\nout: x\nlimit: few", "limit: Input should be a valid integer"),
        ("experiments: figure5\nout: x\ncandidates: 0", "candidates"),
        ("experiments: figure5\nout: x\nresamples: 0", "resamples"),
        ("experiments: figure5\nout: x\nmore_encoders: dpr", "more_encoders"),
    ],
)
def test_values_of_a_yaml_file_are_checked(files, tmp_path, line, said):
    path = tmp_path / "experiment.yaml"
    path.write_text(f"conversations: {files['turns']}\ncatalog: {files['catalog']}\n{line}\n")
    failed = call("evaluate", "--config", path).exception
    assert isinstance(failed, ConfigError)
    assert said in str(failed)


def test_settings_of_the_python_api_are_checked(files, tmp_path):
    from reges_index.evaluation.report import run_evaluation
    from reges_index.evaluation.settings import EvaluationSettings

    paths = {"conversations": files["turns"], "catalog": files["catalog"], "out": tmp_path / "out"}
    run_evaluation(EvaluationSettings.parse({**paths, "resamples": 200}))  # path objects are paths too
    for wrong in ({"level": 2}, {"resamples": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            EvaluationSettings.parse({**paths, **wrong})


def test_what_is_missing_is_named(files):
    failed = call("evaluate", "--catalog", files["catalog"])
    assert isinstance(failed.exception, ConfigError)
    assert "conversations is missing" in str(failed.exception)
    twice = call(*base(files), "--predictions", files["pred"], "--predictions", files["pred"])
    assert "two predictions are named 'pred'" in str(twice.exception)
    absent = call(*base(files), "--predictions", "nowhere.jsonl")
    assert isinstance(absent.exception, InputError)


def test_import(tmp_path):
    row = {
        "movieMentions": {"1": "Heat (1995)"},
        "messages": [{"text": "hi", "senderWorkerId": 0}, {"text": "@1", "senderWorkerId": 1}],
        "conversationId": "c",
        "initiatorWorkerId": 0,
    }
    source = tmp_path / "redial.jsonl"
    source.write_text(json.dumps(row) + "\n")
    out, catalog = tmp_path / "turns.jsonl", tmp_path / "catalog.jsonl"
    done = call(
        "data", "import", source, "--format", "redial", "--out", out, "--write-catalog", catalog, "--json"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"]["turns"] == 1
    scored = call("evaluate", "--conversations", out, "--catalog", catalog, "--json", "--resamples", 200)
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["protocols"]["all"]["targets_outside_catalog"] == 0
    plain = call("data", "import", source, "--format", "redial", "--out", out, "--catalog", catalog)
    assert "1 turns" in plain.stdout
    neither = call("data", "import", source, "--format", "redial", "--out", out)
    assert isinstance(neither.exception, ConfigError)


def test_experiments_from_the_command_line(files, tmp_path):
    from tests.tiny import save_tiny

    out = tmp_path / "lab"
    options = (
        *base(files), "--out", out, "--experiment", "figure5", "--experiment", "table2", "--limit", 2,
        "--model", save_tiny(tmp_path / "tiny"), "--dataset", "redial", "--candidates", 5,
    )  # fmt: skip
    done = call(*options, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert "needs reference queries" in result["not_run"]["table2"]
    assert "table2 was not run" in done.stderr
    about = result["done"]["figure5"]["about"]
    assert about["data"]["turns"] == 2
    assert about["settings"]["dataset"] == "redial"
    assert {row["system"] for row in result["done"]["figure5"]["rows"]} == {
        "last 4 messages, no model",
        "Original (raw dialogue)",
        "Original (raw dialogue) + last 4 messages",
        "Direct Prompt (untrained LLM)",
        "Direct Prompt (untrained LLM) + last 4 messages",
    }
    again = call(*options)
    assert "Figure 5: retrieval by kind of query" in again.stdout
    # The runs in the folder are those of two turns, so an experiment over one of them fails.
    fewer = call(*(1 if option == 2 else option for option in options), "--json")
    assert fewer.exit_code == 2
    result = json.loads(fewer.stdout)
    assert "other settings" in result["failed"]["figure5"]["message"]
    assert "figure5 failed: " in fewer.stderr
    assert "hint: name another output file" in fewer.stderr


def test_a_live_catalog_is_read_at_its_live_version(files, data, tmp_path):
    from reges_index import LiveCatalog
    from reges_index.evaluation.experiments.lab import build_lab
    from reges_index.evaluation.report import catalog_retrieve
    from reges_index.evaluation.settings import EvaluationSettings
    from tests.tiny import save_tiny

    store = tmp_path / "store"
    live = LiveCatalog.from_items(data.items[:4], persist_dir=store, name="films")
    live.swap(data.items)
    (found,) = catalog_retrieve(str(store), "films", None)(["Title 9"], 50)
    assert sorted(found) == sorted(item.id for item in data.items)
    done = call(*base(files), "--store", store, "--name", "films", "--json")
    assert "retriever" in json.loads(done.stdout)["systems"]
    lab = build_lab(
        EvaluationSettings.parse(
            {
                "conversations": files["turns"], "catalog": files["catalog"], "out": tmp_path / "out",
                "store": store, "name": "films", "model": str(save_tiny(tmp_path / "tiny")),
            }
        )
    )  # fmt: skip
    assert len(lab.catalog) == len(data.items)
    live.swap(data.items[:4])
    assert len(lab.catalog) == len(data.items)


def test_options_without_effect_are_refused(files):
    stray = call(*base(files), "--candidates", 5)
    assert "candidates means nothing without --experiment" in str(stray.exception)
    stray = call(*base(files), "--experiment", "figure5", "--top-k", 5)
    assert "top_k means nothing with --experiment" in str(stray.exception)
    stray = call(*base(files), "--out", "x", "--experiment", "figure5", "--show-errors", 2)
    assert "show_errors means nothing with --experiment" in str(stray.exception)
    unknown = call(*base(files), "--out", "x", "--experiment", "figure1")
    assert "unknown experiment 'figure1'" in str(unknown.exception)
    other = call(*base(files), "--out", "x", "--experiment", "figure5", "--dataset", "movielens")
    assert other.exit_code == 2
    assert "--dataset" in other.stderr


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        ("/data/inspired/dev.jsonl", "inspired"),
        ("ReDial_dev.jsonl", "redial"),
        ("dev.jsonl", None),
        ("uninspired.jsonl", None),
    ],
)
def test_the_papers_data_set_is_told_from_the_path(path, dataset):
    from reges_index.evaluation.settings import EvaluationSettings

    assert EvaluationSettings(conversations=path).paper_dataset() == dataset
