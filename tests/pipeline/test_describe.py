"""What `describe_engine` says of parts that were made apart: each keeps what it was given."""

import logging

import pytest

from reges_index import (
    ReGeSQueryEngine,
    ReGeSQueryTransform,
    ReGeSRerank,
    build_engine,
    load_pipeline,
    save_pipeline,
)
from reges_index.cli.engine_options import EngineOptions
from reges_index.dialogue.wording import Domain
from reges_index.pipeline import describe_engine, read_pipeline
from tests.pipeline.test_build import SAID, same

PLAYS, FILMS = Domain("play", "plays"), Domain("film", "films")


@pytest.fixture
def apart(settings, catalog):
    """An engine whose experts call items by other names; the first or the second one logs."""

    def make(talks):
        engine = build_engine(settings.override(item_adapter="none"), catalog)
        lm, decoding = engine.rerank.local_model, engine.query_transform.decoding
        return ReGeSQueryEngine(
            engine.retrieve_with,
            ReGeSQueryTransform(lm, domain=PLAYS, decoding=decoding, verbose=talks == "query"),
            ReGeSRerank(lm, domain=FILMS, verbose=talks == "item"),
            engine.response_synthesizer,
            similarity_top_k=4,
        )

    return make


@pytest.mark.parametrize("talks", ["query", "item"])
def test_each_expert_keeps_its_words_and_its_log(apart, talks, tmp_path, caplog):
    engine = apart(talks)
    path = save_pipeline(engine, tmp_path / "p.yaml")
    loaded = load_pipeline(path)
    for each in (engine, loaded):
        assert (each.domain, each.query_transform.domain, each.rerank.domain) == (PLAYS, PLAYS, FILMS)
        assert each.query_transform.verbose == (talks == "query")
        assert each.rerank.verbose == (talks == "item")
    assert same(loaded.recommend(SAID), engine.recommend(SAID))
    assert describe_engine(loaded) == describe_engine(engine) == read_pipeline(path).settings
    caplog.clear()
    caplog.set_level(logging.INFO, logger="reges_index")
    loaded.recommend(SAID)
    logged = {record.name.split(".")[1] for record in caplog.records if record.levelno == logging.INFO}
    assert {"query_expert", "item_expert"} & logged == {f"{talks}_expert"}


def test_what_they_share_is_said_once(settings, catalog):
    engine = build_engine(settings.override(item_noun="book", item_plural="books", verbose=True), catalog)
    said = describe_engine(engine)
    assert (said.item_noun, said.item_plural, said.verbose) == ("book", "books", True)
    assert (said.query_item_noun, said.query_item_plural, said.query_verbose) == (None, None, None)
    assert engine.query_transform.domain == engine.rerank.domain == Domain("book", "books")


def test_one_noun_may_be_anothers(settings, catalog):
    engine = build_engine(settings.override(query_item_noun="picture"), catalog)
    assert engine.query_transform.domain == Domain("picture", "movies")
    assert engine.rerank.domain == Domain("movie", "movies")


def test_the_option_of_commands_is_for_both(apart, catalog, tmp_path):
    path = save_pipeline(apart("item"), tmp_path / "p.yaml")
    engine = build_engine(EngineOptions(pipeline=path, domain="book").settings(), catalog)
    assert engine.query_transform.domain == engine.rerank.domain == Domain("book", "books")
