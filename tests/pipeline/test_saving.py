import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from llama_index.core.llms import MockLLM
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.prompts import PromptTemplate
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from pydantic import BaseModel

from reges_index import (
    ItemCatalog,
    LiveCatalog,
    PipelineSettings,
    ReGeSQueryEngine,
    ReGeSRerank,
    demo_catalog,
    load_pipeline,
    save_pipeline,
)
from reges_index.errors import ConfigError, InputError, StorageError, StoreNotFoundError
from reges_index.fusion import FusionModel
from reges_index.pipeline import SavedCatalog, SavedPipeline, read_pipeline, write_pipeline
from reges_index.presets import PRESETS
from tests.cli.conftest import no_file_longer_than
from tests.pipeline.test_build import SAID, build_engine, same
from tests.tiny import tiny_lm

KEY = "sk-secret-0123456789"


def saved(settings, store=None, name="items"):
    return SavedPipeline(catalog=SavedCatalog(store=store, name=name), settings=settings)


def test_a_saved_pipeline_answers_as_before(settings, catalog, tmp_path):
    engine = build_engine(settings, catalog)
    path = save_pipeline(engine, tmp_path / "deep" / "pipeline.yaml", name="tiny")
    loaded = load_pipeline(path)
    assert same(loaded.recommend(SAID), engine.recommend(SAID))
    assert loaded.catalog.name == "films"
    assert loaded.settings == read_pipeline(path).settings
    again = save_pipeline(loaded, tmp_path / "deep" / "again.yaml", name="tiny")
    assert again.read_text() == path.read_text()
    assert sorted(file.name for file in path.parent.iterdir()) == ["again.yaml", "pipeline.yaml"]


def test_what_was_changed_after_building_is_saved(settings, catalog, tmp_path):
    engine = build_engine(settings, catalog)
    engine.update_prompts(
        {
            "query_transform:query_prompt": PromptTemplate(
                "{conversation_history}\nQuery for {item_noun}, é:"
            ),
            "rerank:select_prompt": PromptTemplate("{candidates}\n# {conversation_history}: Which?\x07"),
            "response_synthesizer:sentence_prompt": PromptTemplate("{conversation_history} {item} why"),
        }
    )
    engine.retriever.similarity_top_k, engine.exclude_mentioned, engine.rerank.top_n = 5, False, 2
    year = sorted(item.year for item in catalog.items())[3]
    engine = engine.with_filters(
        MetadataFilters(filters=[MetadataFilter(key="year", value=year, operator=">=")], condition="and")
    )
    loaded = load_pipeline(save_pipeline(engine, tmp_path / "p.yaml"))
    assert {name: p.template for name, p in loaded.get_prompts().items()} == {
        name: p.template for name, p in engine.get_prompts().items()
    }
    assert len(loaded.recommend(SAID).ranking) == 5
    assert same(loaded.recommend(SAID), engine.recommend(SAID))
    assert loaded.rerank.top_n == 2


def test_chain_of_thought_generation_and_scoring_survive(settings, catalog, tmp_path):
    for changes in (
        {"mode": "reason", "item_adapter": "none", "reasoning": {"max_new_tokens": 5, "one_line": True}},
        {"mode": "generate", "seed": 5},
        {"mode": "constrained", "rerank_top_k": 3, "on_error": "retrieval_order", "style": "sentence"},
        {"mode": "score", "query_on_error": "last_message", "answer_on_error": "title"},
    ):
        engine = build_engine(settings.with_options(**changes), catalog)
        loaded = load_pipeline(save_pipeline(engine, tmp_path / "p.yaml"))
        assert same(loaded.recommend(SAID), engine.recommend(SAID))
        now = loaded.settings
        assert now.override(name="custom") == engine.settings.override(name="custom")
        assert now.rerank.mode == changes["mode"]
        assert now == now.with_options(**{k: v for k, v in changes.items() if k != "reasoning"})


def test_everything_moves_together(parts, tmp_path, settings, catalog, monkeypatch):
    """Folders beside the file are named relative to it; elsewhere they are named from the root."""
    here = tmp_path / "here"
    shutil.copytree(parts, here)
    moved = PipelineSettings.parse(
        yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json")).replace(str(parts), str(here)))
    )
    path = write_pipeline(saved(moved, str(here / "store"), "films"), here / "p.yaml")
    assert str(tmp_path) not in path.read_text()
    there = here.rename(tmp_path / "there")
    monkeypatch.chdir("/")
    loaded = load_pipeline(there / "p.yaml")
    assert loaded.rerank.backend.lm.name == str(there / "llm")
    assert same(loaded.recommend(SAID), build_engine(settings, catalog).recommend(SAID))
    outside = write_pipeline(saved(settings, str(parts / "store")), tmp_path / "p.yaml")
    assert read_pipeline(outside) == saved(settings, str(parts / "store"))
    for kind in ("", "chroma:", "qdrant:", "lancedb:"):
        named = saved(settings, f"{kind}{there / 'store'}")
        write_pipeline(named, there / "kind.yaml")
        assert f"store: {kind}./store" in (there / "kind.yaml").read_text().replace("'", "")
        assert read_pipeline(there / "kind.yaml").catalog.store == f"{kind}{there / 'store'}"
    text = "format: reges-pipeline\nversion: 1\nsettings: {llm: ../llm, encoder: 'dpr:./q,~/c'}\n"
    (there / "by-hand.yaml").write_text(text)
    read = read_pipeline(there / "by-hand.yaml").settings
    assert read.llm == str(tmp_path / "llm")
    assert read.encoder == f"dpr:{there / 'q'},{os.path.expanduser('~')}/c"  # noqa: PTH111


@pytest.mark.parametrize("name", PRESETS)
def test_presets_as_files(name, tmp_path):
    made = saved(PipelineSettings.preset(name), "http://localhost:8000", "films")
    assert read_pipeline(write_pipeline(made, tmp_path / "p.yaml")) == made


def test_no_key_is_in_the_file(few_films, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_LIKE_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    for name in ("openai:gpt-4o-mini", "openai-like:m@http://127.0.0.1:9/v1"):
        settings = PipelineSettings(
            llm=name,
            llm_options={"temperature": 0.3},
            encoder="given",
            item_adapter="none",
            query_adapter="none",
        )
        engine = build_engine(settings, few_films)
        path = save_pipeline(engine, tmp_path / "p.yaml")
        read = read_pipeline(path).settings
        assert read.llm == name
        assert read.llm_options["temperature"] == 0.3
        assert KEY not in path.read_text()
        assert load_pipeline(path, catalog=few_films).rerank.backend.llm.model in name
        assert KEY not in caplog.text
    secret = (
        MockLLM(additional_kwargs={"api_key": KEY})
        if "additional_kwargs" in MockLLM.model_fields
        else MockLLM()
    )
    path = save_pipeline(build_engine(settings, few_films, llm=secret), tmp_path / "p.yaml")
    assert read_pipeline(path).settings.llm == "given"
    from llama_index.llms.openai_like import OpenAILike

    headers = OpenAILike(model="m", api_base="http://h/v1", api_key=KEY, default_headers={"x-key": KEY})
    path = save_pipeline(build_engine(settings, few_films, llm=headers), tmp_path / "p.yaml")
    assert KEY not in path.read_text()
    assert read_pipeline(path).settings.llm == "given"
    for url in (f"http://me:{KEY}@h:1", f"http://h:1?token={KEY}"):
        with pytest.raises(ConfigError) as error:
            write_pipeline(saved(settings, url), tmp_path / "q.yaml")
        assert KEY not in str(error.value)
    assert not (tmp_path / "q.yaml").exists()


def test_objects_without_a_name_are_passed_again(few_films, tiny, tmp_path, caplog):
    """An encoder of one's own, a catalog in memory, an LLM of another library: the file says so."""
    llm = MockLLM()
    rerank = ReGeSRerank(tiny, adapter=None)
    engine = ReGeSQueryEngine.from_defaults(few_films, query_llm=llm, rerank=rerank, similarity_top_k=4)
    path = save_pipeline(engine, tmp_path / "p.yaml")
    assert "encoder, query_llm must be passed" in caplog.text
    with pytest.raises(ConfigError, match="names no store"):
        load_pipeline(path)
    with pytest.raises(ConfigError, match="query_llm"):
        load_pipeline(path, catalog=few_films, llm=tiny)
    loaded = load_pipeline(path, catalog=few_films, llm=tiny, query_llm=llm)
    assert same(loaded.recommend(SAID), engine.recommend(SAID))
    stock = ReGeSQueryEngine.from_defaults(
        retriever=few_films.as_retriever(similarity_top_k=3), llm=tiny, rerank=rerank
    )
    path = save_pipeline(stock, tmp_path / "p.yaml")
    again = load_pipeline(path, retriever=few_films.as_retriever(similarity_top_k=3), llm=tiny)
    assert same(again.recommend(SAID), stock.recommend(SAID))


def test_a_live_catalog_is_opened_at_its_live_version(settings, tmp_path):
    items = demo_catalog("films")
    live = LiveCatalog.from_items(
        items[:6], persist_dir=tmp_path / "store", name="films", embed_model=settings.encoder
    )
    settings = settings.with_options(exclude_mentioned=False)
    path = save_pipeline(build_engine(settings, live), tmp_path / "p.yaml")
    assert read_pipeline(path).catalog.name == "films"
    live.swap(items[6:12])
    loaded = load_pipeline(path)
    assert set(loaded.recommend(SAID).ranking) == {item.id for item in items[6:12]}
    live.rollback()
    assert set(loaded.recommend(SAID).ranking) == {item.id for item in items[:6]}


def test_a_catalog_that_went_live_after_the_pipeline_was_saved_is_read_at_its_live_version(
    settings, tmp_path
):
    items = demo_catalog("films")
    where = {"persist_dir": tmp_path / "store", "name": "films", "embed_model": settings.encoder}
    plain = ItemCatalog.from_items(items[:6], **where)
    path = save_pipeline(
        build_engine(settings.with_options(exclude_mentioned=False), plain), tmp_path / "p.yaml"
    )
    LiveCatalog.open(**where).swap(items[6:12])
    assert set(load_pipeline(path).recommend(SAID).ranking) == {item.id for item in items[6:12]}


def test_a_live_catalog_of_which_no_place_says_the_version_must_be_passed(settings, tmp_path, caplog):
    items = demo_catalog("films")[:8]
    where = {"persist_dir": tmp_path / "store", "name": "films", "embed_model": settings.encoder}
    live = LiveCatalog.from_items(items[:6], **where, state_file=tmp_path / "shared.json")
    path = save_pipeline(build_engine(settings, live), tmp_path / "p.yaml")
    assert "the catalog must be passed" in caplog.text
    with pytest.raises(ConfigError, match="names no store"):
        load_pipeline(path)
    assert load_pipeline(path, catalog=live).catalog.name == "films"


def test_the_retriever_is_saved_by_name(tmp_path, settings):
    items = ItemCatalog.from_items(demo_catalog("films")[:12], persist_dir=tmp_path / "store", name="films")
    FusionModel.default().save(tmp_path / "fusion")
    base = PipelineSettings(retrieval={"similarity_top_k": 5})
    for name in ("fusion", "vectors", str(tmp_path / "fusion")):
        engine = build_engine(base.with_options(retriever=name, write_query="never"), items)
        path = save_pipeline(engine, tmp_path / "p.yaml")
        assert read_pipeline(path).settings.retrieval.retriever == name
        assert ("./fusion" in path.read_text()) == (name not in ("fusion", "vectors"))
        assert same(load_pipeline(path).recommend(SAID), engine.recommend(SAID))
    own = ReGeSQueryEngine.from_defaults(items, retriever=FusionModel.default())
    path = save_pipeline(own, tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="retriever"):
        load_pipeline(path)
    assert same(load_pipeline(path, retriever=FusionModel.default()).recommend(SAID), own.recommend(SAID))


def test_what_a_file_cannot_hold_is_refused(settings, catalog, tmp_path, tiny, few_films):
    own = tiny_lm()
    other = build_engine(settings.with_options(style="sentence"), catalog, llm=own, query_llm=own)
    engine = build_engine(settings, catalog)
    engine.response_synthesizer = other.response_synthesizer
    with pytest.raises(ConfigError, match="another LLM"):
        save_pipeline(engine, tmp_path / "p.yaml")

    class Answer(BaseModel):
        title: str

    parser = PydanticOutputParser(output_cls=Answer)
    engine = build_engine(settings, catalog)
    for prompt in (
        PromptTemplate("{candidates} {conversation_history}", output_parser=parser),
        PromptTemplate("{candidates} {conversation_history} {tone}").partial_format(tone="kind"),
    ):
        engine.rerank.update_prompts({"select_prompt": prompt})
        with pytest.raises(ConfigError, match="select_prompt"):
            save_pipeline(engine, tmp_path / "p.yaml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected keys and values"),
        ("- a\n", "expected keys and values"),
        ("format: reges-pipeline\n", "version None"),
        ("format: reges-pipeline\nversion: 0\n", "version 0; this version of the package reads 1"),
        (
            "format: reges-pipeline\nversion: 2\nfuture: {}\n",
            "version 2; this version of the package reads 1",
        ),
        ("format: reges-pipeline\nversion: true\n", "version True"),
        ("format: reges-pipeline\nversion: 1\nsettings: {}\nmore: 1\n", "more: there is no such key"),
        ("format: reges-pipeline\nversion: 1\nsettings: []\n", "settings: "),
        (
            "format: reges-pipeline\nversion: 1\ncatalog: {pass: x}\nsettings: {}\n",
            "catalog.pass: there is",
        ),
        ("format: reges-pipeline\nversion: 1\nsettings: {model: x}\n", "model: there is no such key"),
        ("format: reges-pipeline\nversion: 1\nsettings: {rerank: {mode: guess}}\n", "rerank.mode: "),
        ("format: reges-pipeline\nversion: 1\nsettings: !!python/object:os.system {}\n", "not valid YAML"),
        ("format: [\n", "not valid YAML"),
        (b"\xff\xff", "not UTF-8"),
    ],
)
def test_files_that_are_none(tmp_path, text, words):
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=rf"(?s)pipeline\.yaml.*{words}"):
        load_pipeline(path)


def test_places_that_are_not_there(settings, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_pipeline(tmp_path / "none.yaml")
    path = write_pipeline(saved(settings, str(tmp_path / "gone")), tmp_path / "p.yaml")
    with pytest.raises(StoreNotFoundError, match="gone"):
        load_pipeline(path)


def test_a_file_is_written_whole_or_not_at_all(settings, tmp_path):
    path = write_pipeline(saved(settings), tmp_path / "p.yaml")
    before = path.read_bytes()
    with no_file_longer_than(100), pytest.raises(StorageError, match=r"p\.yaml cannot be written"):
        write_pipeline(saved(settings.with_options(similarity_top_k=9)), path)
    assert path.read_bytes() == before
    with pytest.raises(StorageError):
        write_pipeline(saved(settings), path / "under-a-file.yaml")
    assert [file.name for file in tmp_path.iterdir()] == ["p.yaml"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: write_pipeline(saved(settings.with_options(seed=k)), path), range(20)))
    assert read_pipeline(path).settings.rerank.seed in range(20)
    assert [file.name for file in tmp_path.iterdir()] == ["p.yaml"]
