"""A tiny random LLM and adapter, a tiny random DPR, twelve films in a Chroma folder: all real, all small."""

from __future__ import annotations

import pytest

from reges_index import ItemCatalog, PipelineSettings, demo_catalog
from tests.tiny import save_tiny, save_tiny_adapter
from tests.tiny_dpr import save_tiny_dpr


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """A folder with all that a pipeline names: ``llm``, ``adapter``, ``dpr``, ``store``."""
    folder = tmp_path_factory.mktemp("parts")
    save_tiny(folder / "llm")
    save_tiny_adapter(folder / "adapter")
    sides = save_tiny_dpr(folder / "dpr")
    ItemCatalog.from_items(
        demo_catalog("films")[:12],
        persist_dir=folder / "store",
        name="films",
        embed_model=f"dpr:{sides[0]},{sides[1]}",
    )
    return folder


@pytest.fixture
def settings(parts):
    """A whole pipeline over these parts, every answer of it cheap."""
    return PipelineSettings(
        name="tiny",
        llm=str(parts / "llm"),
        encoder=f"dpr:{parts / 'dpr' / 'question'},{parts / 'dpr' / 'context'}",
        item_adapter=str(parts / "adapter"),
        retrieval={"similarity_top_k": 6},
        rerank={"mode": "score", "max_input_tokens": 1500, "length_penalty": 0.5},
        query={"decoding": {"max_new_tokens": 6, "num_queries": 2, "seed": 3}},
    )


@pytest.fixture
def catalog(parts, settings):
    return ItemCatalog.open(parts / "store", name="films", embed_model=settings.encoder)
