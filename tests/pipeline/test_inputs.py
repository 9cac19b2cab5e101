"""What a resumed run of `reges predict` holds its catalog, adapters and fusion against."""

from __future__ import annotations

from dataclasses import replace

from reges_index import ReGeSQueryEngine
from reges_index.pipeline import engine_inputs
from tests.fusion.small import small_fusion


def test_a_fusion_is_known_by_what_it_ranks_with(few_films, tiny):
    def said(fusion):
        engine = ReGeSQueryEngine.from_defaults(
            few_films, llm=tiny, similarity_top_k=6, retriever=fusion or "vectors"
        )
        return engine_inputs(engine)["fusion"]

    fusion = small_fusion()
    again = replace(fusion, weights=fusion.weights * 2)
    assert dict(again.manifest) == dict(fusion.manifest)
    assert said(fusion) == said(replace(fusion)) != said(again)
    assert said(None) is None
