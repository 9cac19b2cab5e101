"""The query tower over the real embedded encoder: it learns, and is kept as PEFT keeps it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from reges_index.catalog import ItemCatalog, resolve_encoder
from reges_index.catalog.encoder import embed_queries, encoder_identity
from reges_index.dialogue import DialogueQueryBundle, Message
from reges_index.errors import ConfigError, ModelError
from reges_index.fusion.adapter import TOWER
from reges_index.fusion.features import CatalogSources, dialogue_texts
from reges_index.fusion.fit_adapter import AdapterTraining
from reges_index.fusion.fit_tower import TowerTraining
from reges_index.fusion.fitting import TrainSet
from reges_index.fusion.model import FusionModel
from reges_index.fusion.retriever import FusionRetriever
from reges_index.fusion.statistics import ItemStatistics
from reges_index.fusion.tower import QueryTower, TowerAdapter, tower_base
from reges_index.fusion.training import (
    FusionTraining,
    Workbench,
    fit_fusion,
    out_of_fold,
    ranked_out_of_fold,
)
from tests.catalog.hashing import HashingEmbedding

from .films import FILMS, train_turns
from .small import SETTINGS, small_train_set

TOWER_SETTINGS = TowerTraining(epochs=4, batch_size=8, lora_r=4, max_tokens=32)
TRAINING = replace(SETTINGS, tower=TOWER_SETTINGS, adapter=AdapterTraining(batch_size=8, sample=5))


@pytest.fixture(scope="module")
def encoder():
    return resolve_encoder()


@pytest.fixture(scope="module")
def train_set(encoder):
    def texts(rows):
        return np.array(encoder.get_text_embedding_batch(list(rows)), dtype=np.float32)

    def queries(rows):
        return np.array(embed_queries(encoder, rows), dtype=np.float32)

    return TrainSet.build("films", train_turns(), FILMS, texts, queries)


@pytest.fixture(scope="module")
def bench(encoder, tmp_path_factory):
    return Workbench(encoder, tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def made(train_set, bench):
    return out_of_fold([train_set], TRAINING, bench)


@pytest.fixture(scope="module")
def fusion(train_set, made, bench):
    identity = encoder_identity()
    manifest = {"encoder": {"name": identity.name, "dimension": identity.dimension}}
    return fit_fusion([train_set], TRAINING, manifest, made, bench)


def test_it_moves_dialogues_towards_what_was_recommended(train_set, fusion, encoder):
    texts = [dialogue_texts(turn.chat)[0] for turn in train_set.turns]
    frozen = np.array(embed_queries(encoder, texts), dtype=np.float32)
    trained = QueryTower.shared(fusion.tower, encoder).encode(texts)
    assert np.allclose(np.linalg.norm(trained, axis=1), 1, atol=1e-5)

    def margin(vectors):
        cosines = vectors @ train_set.sources.vectors.T
        own = [cosines[row, its[0]] for row, its in enumerate(train_set.targets)]
        return float(np.mean(np.array(own) - cosines.mean(axis=1)))

    assert margin(trained) > margin(frozen) + 0.02
    assert TOWER in fusion.adapter.weights


def test_the_catalogs_encoder_stays_as_it_was(fusion, encoder):
    text = "I want a scary horror film"
    before = encoder.get_query_embedding(text)
    QueryTower(fusion.tower, tower_base(encoder)).encode([text])
    assert encoder.get_query_embedding(text) == before


def test_a_vector_does_not_depend_on_its_batch(fusion, encoder):
    tower = QueryTower.shared(fusion.tower, encoder)
    texts = ["short", "a much longer dialogue about films in which nothing happens " * 9, "mid size text"]
    together = tower.encode(texts)
    alone = np.concatenate([tower.encode([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-4)


def test_saved_and_loaded_it_gives_the_same_vectors(fusion, encoder, tmp_path):
    fusion.save(tmp_path)
    loaded = FusionModel.load(tmp_path)
    assert loaded.fingerprint == FusionModel.load(tmp_path).fingerprint
    assert loaded.tower.fingerprint == fusion.tower.fingerprint
    texts = ["something in space with freighters", "a quiet drama"]
    one, two = (QueryTower(m.tower, tower_base(encoder)).encode(texts) for m in (fusion, loaded))
    assert np.array_equal(one, two)  # kept in half precision, and used so from the start


def test_its_folder_is_a_peft_adapter(fusion, encoder, tmp_path):
    from peft import PeftModel

    fusion.tower.save(tmp_path)
    base = tower_base(encoder)
    merged = PeftModel.from_pretrained(base[0].auto_model, str(tmp_path)).merge_and_unload()
    base[0].auto_model = merged
    base.max_seq_length = fusion.tower.max_tokens
    expected = QueryTower.shared(fusion.tower, encoder).encode(["a comedy"])
    assert np.allclose(base.encode(["a comedy"], normalize_embeddings=True), expected, atol=1e-5)


def test_a_retriever_uses_it_and_can_do_without(fusion, encoder):
    catalog = ItemCatalog.from_items(FILMS, name="tower")
    bundle = DialogueQueryBundle.from_dialogue([{"role": "user", "content": "I want a scary horror film"}])
    with_it = FusionRetriever(catalog, fusion, similarity_top_k=8).retrieve(bundle)
    assert with_it[0].node.node_id in ("f4", "f5")
    without = FusionRetriever(catalog, fusion, similarity_top_k=8, without=("adapter",)).retrieve(bundle)
    assert [n.score for n in with_it] != [n.score for n in without]


def test_what_a_killed_run_has_made_is_not_trained_again(train_set, bench, made, monkeypatch):
    def no_training(*_args, **_options):
        raise AssertionError("trained again")

    monkeypatch.setattr("reges_index.fusion.training.fit_tower", no_training)
    again = out_of_fold([train_set], TRAINING, bench)
    for one, two in zip(made.examples[0], again.examples[0], strict=True):
        assert np.array_equal(one.features, two.features)
    other = replace(TRAINING, tower=replace(TOWER_SETTINGS, epochs=1))
    with pytest.raises(AssertionError, match="trained again"):
        out_of_fold([train_set], other, bench)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (Message(role="user", content="Something quite different"),)},
        {"messages": (Message(role="assistant", content="I want a scary horror film, number 0"),)},
        {"dialog_id": "another"},
        {"targets": ("f5",)},
    ],
)
def test_other_dialogues_under_the_same_ids_are_trained_anew(train_set, bench, made, change, monkeypatch):
    trained = []

    def no_training(sets, *_args):
        trained.append(sets)
        raise AssertionError("trained again")

    monkeypatch.setattr("reges_index.fusion.training.fit_tower", no_training)
    turns = [train_set.turns[0].model_copy(update=change), *train_set.turns[1:]]
    other = TrainSet("films", turns, train_set.sources, train_set.vectors)
    with pytest.raises(AssertionError, match="trained again"):
        out_of_fold([other], TRAINING, bench)
    assert trained


def test_another_catalog_of_the_same_vectors_is_trained_anew(train_set, bench, made, monkeypatch):
    def no_training(*_args):
        raise AssertionError("trained again")

    monkeypatch.setattr("reges_index.fusion.training.fit_tower", no_training)
    items = [FILMS[0].model_copy(update={"title": "Another Name"}), *FILMS[1:]]
    sources = CatalogSources(items, train_set.sources.vectors, ItemStatistics.count([]))
    other = TrainSet("films", train_set.turns, sources, train_set.vectors)
    with pytest.raises(AssertionError, match="trained again"):
        out_of_fold([other], TRAINING, bench)


def test_ranked_out_of_fold_is_a_ranking_with_chances(train_set, made):
    [lists] = ranked_out_of_fold(made, TRAINING.weights, 5)
    assert len(lists) == len(train_set.turns)
    for best in lists:
        items, logs = zip(*best, strict=True)
        assert len(set(items)) == len(items) <= 5
        assert list(logs) == sorted(logs, reverse=True)
        assert sum(np.exp(logs)) <= 1 + 1e-6


def test_encoders_without_a_trainable_side_are_refused():
    with pytest.raises(ConfigError, match="no sentence-transformers model"):
        tower_base(HashingEmbedding())
    with pytest.raises(ConfigError, match="Workbench"):
        out_of_fold([small_train_set()], FusionTraining(folds=2, tower=TOWER_SETTINGS))


def test_damage_and_mixtures_are_reported(fusion, tmp_path):
    with pytest.raises(ModelError, match="no query tower"):
        TowerAdapter.load(tmp_path / "nowhere")
    fusion.save(tmp_path)
    config = tmp_path / "query-tower" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "r": 5}), "utf-8")
    with pytest.raises(ModelError, match="not the query tower"):
        FusionModel.load(tmp_path)


def test_weights_of_another_encoder_are_refused(fusion, encoder):
    first = next(iter(fusion.tower.weights))
    other = {first: fusion.tower.weights[first][:, :100]} | {
        name: w for name, w in fusion.tower.weights.items() if name != first
    }
    with pytest.raises(ModelError, match="does not fit"):
        QueryTower(replace(fusion.tower, weights=other), tower_base(encoder))
