"""A fusion by its recipe: the whole, its query side alone, second-round negatives, the final choice."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reges_index.catalog import ItemCatalog
from reges_index.cli.finetune import finetune_app
from reges_index.dialogue import DialogueQueryBundle
from reges_index.errors import InputError, TrainingError
from reges_index.fusion import FusionModel, FusionRetriever
from reges_index.fusion.by_recipe import QUERY_ADAPTER, train_by_recipe
from reges_index.fusion.choice_file import fit_choice_file, read_choices
from reges_index.fusion.features import FEATURES
from reges_index.fusion.recipe import read_recipe
from reges_index.training.fusion_negatives import mine_fusion_negatives
from reges_index.training.negatives_file import read_negatives
from tests.catalog.hashing import HashingEmbedding

from .films import FILMS, train_turns
from .recipes import RECIPE, write_recipe

ROOT = Path(__file__).parents[2]
IDS = {film.id for film in FILMS}
TARGETS = {turn.id: set(turn.targets) for turn in train_turns()}


def call(*words):
    """Run a command; what it printed, or the error it raised."""
    result = CliRunner().invoke(finetune_app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def retrieve(model, text, top_k, without=()):
    catalog = ItemCatalog.from_items(FILMS, embed_model=HashingEmbedding(), name="by-recipe")
    retriever = FusionRetriever(catalog, model, top_k, without=without)
    return retriever.retrieve(DialogueQueryBundle.from_dialogue(text))


def test_a_fusion_is_trained_written_and_retrieves(tmp_path):
    report = train_by_recipe(read_recipe(write_recipe(tmp_path)), embed_model=HashingEmbedding())
    assert report.out == str(tmp_path / "made")
    assert report.cross_validation["all"]["films"]["recall@1"] > 0.8  # 1 in 8 by chance
    model = FusionModel.load(report.out)
    assert model.manifest["encoder"]["name"] == HashingEmbedding().model_name
    assert "sources" not in model.manifest
    assert retrieve(model, "Something in space with freighters", 1)[0].node.node_id == "f8"


def test_the_query_adapter_alone_is_a_fusion_without_other_sources(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path))
    report = train_by_recipe(
        recipe, out=tmp_path / "alone", only=QUERY_ADAPTER, embed_model=HashingEmbedding()
    )
    model = FusionModel.load(report.out)
    for scorer in (model.known, model.unknown):  # a catalog that nobody knows has nothing else either
        assert {name for name in FEATURES if scorer.uses(name)} <= {"adapted", "again_adapted"}
        assert scorer.uses("adapted")
    assert model.manifest["sources"] == ["adapter"]
    assert report.cross_validation["all"]["films"]["recall@1"] > 0.3  # 1 in 8 by chance
    text = "A comedy that makes me laugh please"
    chances, blind = (
        [node.score for node in retrieve(model, text, 8, without)] for without in ((), QUERY_ADAPTER)
    )
    assert max(chances) > 2 / 8
    assert blind == pytest.approx([1 / 8] * 8)  # nothing else says anything
    with pytest.raises(InputError, match="wings"):
        train_by_recipe(recipe, only=("wings",), embed_model=HashingEmbedding())


def test_negatives_of_the_second_round_are_read_by_the_item_expert(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path))
    [films] = mine_fusion_negatives(recipe, tmp_path / "out", top_k=4, embed_model=HashingEmbedding())
    assert (films.name, films.turns, films.written) == ("films", 24, 24)
    lists = read_negatives(films.out, turns=train_turns(), item_ids=IDS)
    assert {len(ids) for ids in lists.values()} == {4}
    assert not any(TARGETS[turn] & set(ids) for turn, ids in lists.items())
    with pytest.raises(InputError, match="top_k is 0"):
        mine_fusion_negatives(recipe, tmp_path / "out", top_k=0)


def write_choices(folder):
    rows = [
        {"dialogue": f"d{n}", "retrieval": [0.6, 0.3, 0.1], "logprobs": [-3.0, -0.1, -4.0],
         "targets": [n % 4 == 0, n % 4 != 0, False]}
        for n in range(40)
    ]  # fmt: skip
    (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "choices.jsonl"


def test_the_choice_is_fitted_from_a_file(tmp_path, fusion):
    fusion.save(tmp_path / "model")
    report = fit_choice_file(tmp_path / "model", write_choices(tmp_path), tmp_path / "out")
    assert report.turns == 40
    assert report.model > 0.1  # LLM_G is right three times in four, where the retrieval is not
    assert report.cross_fitted["turns_right"] == pytest.approx(0.75)
    assert report.cross_fitted["ece"] < 0.1
    made = FusionModel.load(tmp_path / "out")
    assert (made.choice.retrieval, made.choice.model) == (report.retrieval, report.model)
    assert replace(made, choice=fusion.choice).fingerprint == FusionModel.load(tmp_path / "model").fingerprint


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "choices.jsonl:1: no choice"),
        ('{"dialogue": "d", "retrieval": [1.0], "targets": [true]}', "'logprobs'"),
        ('{"dialogue": "d", "retrieval": [1.0], "logprobs": null, "targets": [true, false]}', "lengths"),
        ('{"dialogue": "d", "retrieval": [], "logprobs": null, "targets": []}', "lengths or none"),
        (
            '{"dialogue": "d", "retrieval": [1], "logprobs": [-Infinity], "targets": [true]}',
            ":1: -inf is no fin",
        ),
        (
            '{"dialogue": "d", "retrieval": ["nan"], "logprobs": null, "targets": [true]}',
            ":1: nan is no finite",
        ),
        ('{"dialogue": 1, "retrieval": [1' + "0" * 400 + '], "logprobs": null, "targets": [1]}', "no choice"),
        ('{"dialogue": "d", "retrieval": [1.0], "logprobs": [], "targets": [true]}', "lengths"),
        ("[" * 200_000, "choices.jsonl:1: no choice"),
        ("", "no turn in it"),
    ],
)
def test_choices_that_cannot_be_read_name_their_line(tmp_path, line, says):
    (tmp_path / "choices.jsonl").write_text(line)
    with pytest.raises(InputError, match=says):
        read_choices(tmp_path / "choices.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_choices(tmp_path / "nowhere.jsonl")


def test_nothing_is_written_where_the_choice_cannot_be_judged(tmp_path, fusion):
    fusion.save(tmp_path / "model")
    lines = write_choices(tmp_path).read_text().replace('"d1"', '"d0"').split("\n")
    (tmp_path / "choices.jsonl").write_text("\n".join(lines[:2]))
    with pytest.raises(TrainingError, match="are of one dialogue"):
        fit_choice_file(tmp_path / "model", tmp_path / "choices.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_report_says_that_repeats_are_as_they_were_learnt(tmp_path):
    text = RECIPE.replace("epochs: 3}", "epochs: 3, repeat_share: SHARE}")
    for share, missed in (("null", False), ("0.9", True)):  # one turn in four names an item
        recipe = read_recipe(write_recipe(tmp_path, text.replace("SHARE", share)))
        report = train_by_recipe(recipe, embed_model=HashingEmbedding())
        assert report.to_dict()["repeat_share_missed"] is missed
        manifest = json.loads((tmp_path / "made" / "fusion.json").read_text("utf-8"))
        assert ("repeat_share_missed" in manifest) is missed


def test_the_commands(tmp_path):
    """With the embedded encoder, as a user has it."""
    recipe = write_recipe(tmp_path)
    report = json.loads(call("fusion", recipe, "--json"))
    assert report["out"] == str(tmp_path / "made")
    FusionModel.load(tmp_path / "made")
    assert "recall@1" in call("query-adapter", recipe)
    assert FusionModel.load(tmp_path / "made-query-adapter").manifest["sources"] == ["adapter"]
    hard = ["--top-k", 3, "--out", tmp_path / "hard"]
    assert "24 of 24 turns" in call("fusion-negatives", recipe, *hard)
    assert json.loads(call("fusion-negatives", recipe, *hard, "--json"))["films"]["written"] == 24
    choices = [tmp_path / "made", write_choices(tmp_path), "--out", tmp_path / "chosen"]
    assert "40 turns" in call("fusion-choice", *choices)
    assert FusionModel.load(tmp_path / "chosen").choice.model > 0.1
    (tmp_path / "fusion.yaml").write_text(RECIPE.replace("films.jsonl}", "other.jsonl}"))
    other = json.dumps({**FILMS[0].model_dump(mode="json"), "id": "other"})
    (tmp_path / "other.jsonl").write_text(other + "\n")
    with pytest.raises(TrainingError, match="turns with targets"):
        call("fusion", tmp_path / "fusion.yaml")


def test_the_script_is_a_face_of_the_commands(tmp_path, fusion):
    fusion.save(tmp_path / "model")
    script = [sys.executable, str(ROOT / "finetune" / "train_fusion.py")]
    words = ["choice", tmp_path / "model", write_choices(tmp_path), "--out", tmp_path / "out"]
    done = subprocess.run([*script, *map(str, words)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["turns"] == 40
    for command in ("fit", "negatives"):
        done = subprocess.run(
            [*script, command, str(tmp_path / "nowhere.yaml"), *(["--out", "x"] * (command != "fit"))],
            capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == InputError.exit_code
        assert "nowhere.yaml: cannot be read" in " ".join(done.stderr.split())
    done = subprocess.run([*script, "fits"], capture_output=True, text=True, timeout=280)
    assert (done.returncode, "train_fusion.py fit" in done.stderr) == (2, True)


def test_a_query_tower_is_a_part_of_the_query_adapter(tmp_path):
    text = RECIPE + "query_tower: {epochs: 1, batch_size: 12, lora_r: 2, max_tokens: 32}\n"
    call("query-adapter", write_recipe(tmp_path, text), "--out", tmp_path / "alone")
    model = FusionModel.load(tmp_path / "alone")
    assert model.tower is not None
    assert model.manifest["tower"] == model.tower.fingerprint
    assert {name for name in FEATURES if model.known.uses(name)} <= {"adapted", "again_adapted"}
