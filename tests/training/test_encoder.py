"""Training the encoder: what a step compares, and a run that goes on where it was killed."""

import json

import numpy as np
import pytest

from reges_index.catalog import ReGeSEmbedding
from reges_index.errors import ConfigError, InputError, TrainingError
from reges_index.training.data import DataSet
from reges_index.training.encoder import train_encoder
from reges_index.training.encoder_data import EncoderTraining, Sampler, TurnSet, read_encoder_recipe

ITEMS = [
    {"id": f"i{n}", "title": f"Kettle {word}", "genres": ["kettle"], "abstract": f"Of {word}, {n} litres."}
    for n, word in enumerate(("glass", "steel", "copper", "clay", "tin"))
]
TURNS = [
    {
        "id": f"t{n}",
        "dialog_id": f"d{n}",
        "messages": [{"role": "user", "content": f"a kettle of {word} please"}],
        "targets": [f"i{n}"],
        "suitable": [f"i{n}", "i4", "gone"],
        "mentioned": ["i0"] if n == 3 else [],
        "query": f"{word} kettle",
    }
    for n, word in enumerate(("glass", "steel", "copper", "clay"))
]
RECIPE = """
out: run
domains: shops
training: {passes: 2, batch_size: 2, rank: 2, query_tokens: 16, item_tokens: 16, FROZEN}
"""


@pytest.fixture
def shops(tmp_path):
    folder = tmp_path / "shops" / "kettles"
    folder.mkdir(parents=True)
    for name, rows in (("catalog", ITEMS), ("turns", TURNS)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return folder


def write(tmp_path, frozen="false"):
    path = tmp_path / "encoder.yaml"
    path.write_text(RECIPE.replace("FROZEN", f"frozen_items: {frozen}"), "utf-8")
    return path


def read(shops, **more):
    files = {"conversations": shops / "turns.jsonl", "catalog": shops / "catalog.jsonl"}
    return TurnSet.read(DataSet(name="kettles", **files, **more))


def test_a_step_shares_the_mass_among_what_fits_and_hides_what_was_named(shops):
    settings = EncoderTraining(batch_size=4, lookups=0.5)
    [group] = Sampler([read(shops)], settings.model_copy(update={"passes": 1})).groups()
    assert list(group.items) == [0, 1, 2, 3, 4]
    for example in group.examples:
        assert sum(example.mass.values()) == pytest.approx(1)
        assert not example.hidden & set(example.mass)
    by_text = {example.text: example for example in group.examples}
    assert by_text["clay kettle"].hidden == {0}
    assert by_text["glass kettle"].mass == pytest.approx({0: 0.75, 4: 0.25})


def test_a_teacher_needs_no_truth_and_the_same_step_is_the_same_in_every_run(shops, tmp_path):
    rankings = tmp_path / "rankings.jsonl"
    rows = [{"id": "t0", "ranking": ["i1", "gone", "i2"]}, {"id": "t3", "ranking": ["i0"]}]
    rankings.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bare = [{**turn, "targets": [], "suitable": []} for turn in TURNS]
    (shops / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    its = read(shops, teacher_rankings=rankings)
    assert its.usable == [0, 3]
    sampler = Sampler([its], EncoderTraining(lookups=0, passes=1))
    [group], [again] = sampler.groups(), sampler.groups()
    assert group == again
    masses = [example.mass for example in group.examples if "glass" in example.text]
    assert all(mass == pytest.approx({1: 3.5 / (3.5 + 1.5), 2: 1.5 / 5.0}, abs=0.2) for mass in masses)
    assert all(example.mass == {} for example in group.examples if "clay" in example.text)


def test_rankings_of_other_turns_are_refused(shops, tmp_path):
    rankings = tmp_path / "rankings.jsonl"
    rankings.write_text('{"id": "t0", "ranking": []}\n{"id": "other", "ranking": ["i1"]}\n')
    with pytest.raises(InputError, match="no ranking is for any of these turns"):
        read(shops, teacher_rankings=rankings)


@pytest.mark.parametrize("frozen", ["false", "true"])
def test_a_run_makes_an_adapter_and_goes_on_where_it_was(shops, tmp_path, frozen):
    recipe = read_encoder_recipe(write(tmp_path, frozen))
    report = train_encoder(recipe)
    assert report["steps"] == 4
    made = ReGeSEmbedding("frozen" if frozen == "true" else "trained", adapter=tmp_path / "run" / "adapter")
    first = made.get_query_embedding("steel")
    assert np.isfinite(first).all()
    again = train_encoder(recipe)  # all steps are done: the adapter alone is written again
    assert {**again, "seconds": 0} == {**report, "seconds": 0}


def test_recipes_say_what_is_wrong(shops, tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text().replace("rank: 2", "rnak: 2"))
    with pytest.raises(ConfigError, match="rnak"):
        read_encoder_recipe(path)
    path.write_text("out: run\ndomains: shops\nkept_out: [kettles]\n")
    with pytest.raises(TrainingError, match="no turn"):
        train_encoder(read_encoder_recipe(path))
