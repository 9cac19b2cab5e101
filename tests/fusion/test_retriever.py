"""`FusionRetriever` as LlamaIndex uses it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from reges_index.catalog import Item, ItemCatalog
from reges_index.dialogue import DialogueQueryBundle
from reges_index.errors import CatalogError, EncoderMismatchError, InputError
from reges_index.fusion.features import BM25, FEATURES, SOURCES, QueryVectors
from reges_index.fusion.retriever import FusionRetriever
from reges_index.item_expert.rerank import ReGeSRerank
from reges_index.item_expert.synthesizer import ReGeSSynthesizer
from tests.catalog.hashing import HashingEmbedding

from .films import FILMS


def ask(text):
    return DialogueQueryBundle.from_dialogue(text)


def ids(nodes):
    return [node.node.node_id for node in nodes]


def test_it_returns_nodes_with_probabilities(catalog, fusion):
    nodes = FusionRetriever(catalog, fusion, similarity_top_k=50).retrieve(ask("horror, a family in a house"))
    assert ids(nodes)[0] == "f4"
    assert sorted(ids(nodes)) == [item.id for item in FILMS]
    assert sum(node.score for node in nodes) == pytest.approx(1, abs=1e-6)
    assert [node.score for node in nodes] == sorted((node.score for node in nodes), reverse=True)
    assert Item.from_node(nodes[0].node) == FILMS[3]
    assert len(FusionRetriever(catalog, fusion, similarity_top_k=2).retrieve(ask("horror"))) == 2


def test_filters_hold_and_probabilities_are_among_what_passes(catalog, fusion):
    comedy = MetadataFilters(filters=[MetadataFilter(key="genres", value="Comedy")])
    nodes = FusionRetriever(catalog, fusion, filters=comedy).retrieve(ask("a scary horror film"))
    assert sorted(ids(nodes)) == ["f6", "f7"]
    assert sum(node.score for node in nodes) == pytest.approx(1, abs=1e-6)
    nothing = MetadataFilters(filters=[MetadataFilter(key="genres", value="Opera")])
    assert FusionRetriever(catalog, fusion, filters=nothing).retrieve(ask("horror")) == []


def test_catalogs_of_stop_words_are_searched(fusion):
    assert BM25(["It", "The Who"]).scores("it is the one").tolist() == [0, 0]
    assert BM25([]).scores("it").tolist() == []
    items = [Item(id="a", title="It"), Item(id="b", title="The Who", abstract="A band plays.")]
    catalog = ItemCatalog.from_items(items, embed_model=HashingEmbedding(), name="stop-words")
    nodes = FusionRetriever(catalog, fusion).retrieve(ask("a band, I loved It"))
    assert sorted(ids(nodes)) == ["a", "b"]
    assert sum(node.score for node in nodes) == pytest.approx(1, abs=1e-6)


def test_changes_of_the_catalog_are_seen_at_once(catalog, fusion):
    retriever = FusionRetriever(catalog, fusion, check_every=0)
    assert "f9" not in ids(retriever.retrieve(ask("freighters in space")))
    new = Item(id="f9", title="Freighters in Space", year=2024, abstract="Freighters, in space.")
    catalog.sync([*FILMS[:7], new])
    found = ids(retriever.retrieve(ask("freighters in space")))
    assert "f8" not in found
    assert "f9" in found
    catalog.sync([new.model_copy(update={"abstract": "Rewritten."})])
    [node] = retriever.retrieve(ask("freighters in space"))
    assert Item.from_node(node.node).abstract == "Rewritten."


@pytest.fixture
def two(tmp_path):
    """The same catalog twice, as two processes have it."""
    one = ItemCatalog.from_items(FILMS, persist_dir=tmp_path, embed_model=HashingEmbedding(), name="films")
    return one, ItemCatalog.open(tmp_path, name="films", embed_model=HashingEmbedding())


def test_changes_by_the_catalog_itself_need_no_look(catalog, fusion):
    retriever = FusionRetriever(catalog, fusion, check_every=3600)
    assert "f8" in ids(retriever.retrieve(ask("horror")))
    catalog.remove(["f8"])
    assert "f8" not in ids(retriever.retrieve(ask("horror")))


def test_between_two_looks_the_catalog_counts_as_unchanged_by_others(two, fusion):
    mine, other = two
    retriever = FusionRetriever(mine, fusion, check_every=3600)
    before = ids(retriever.retrieve(ask("horror")))
    other.sync(FILMS[:7])
    assert ids(retriever.retrieve(ask("horror"))) == before
    retriever.check_every = 0
    assert "f8" not in ids(retriever.retrieve(ask("horror")))


def test_looks_that_take_long_are_rare_and_yet_nothing_removed_is_returned(two, fusion):
    mine, other = two
    retriever = FusionRetriever(mine, fusion, check_every=1e-6)
    retriever.retrieve(ask("horror"))
    retriever._shared.look_took = 3600
    other.add([Item(id="f9", title="Newest Horror", genres=["Horror"], abstract="A scary horror film.")])
    assert "f9" not in ids(retriever.retrieve(ask("horror")))
    other.remove(["f8"])
    found = ids(retriever.retrieve(ask("horror")))
    assert "f8" not in found
    assert "f9" in found
    assert retriever._shared.look_took < 3600


class Watched(FusionRetriever):
    """Lets a test in before it prepares a catalog."""

    def before(self):
        pass

    def _prepare(self, catalog):
        self.before()
        return super()._prepare(catalog)


def changed(catalog, retriever):
    """Prepare the catalog, change it, and let the time between two looks pass."""
    assert "f8" in ids(retriever.retrieve(ask("horror")))
    catalog.sync(FILMS[:7])
    retriever._shared.looked -= 2 * retriever.check_every


def test_while_a_changed_catalog_is_prepared_nobody_is_given_the_old_state(catalog, fusion):
    retriever = Watched(catalog, fusion, check_every=3600)
    changed(catalog, retriever)
    building, go_on = threading.Event(), threading.Event()

    def hold():
        building.set()
        assert go_on.wait(30)

    retriever.before = hold
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(retriever.retrieve, ask("horror"))
        assert building.wait(30)
        second = pool.submit(retriever.retrieve, ask("horror"))
        done, _ = wait([second], timeout=1)
        go_on.set()
        assert not done  # it waits for what is being prepared
        for found in (first, second):
            assert "f8" not in ids(found.result(30))


def test_a_catalog_that_could_not_be_prepared_is_tried_again(catalog, fusion):
    retriever = Watched(catalog, fusion, check_every=3600)
    changed(catalog, retriever)

    def fail():
        raise CatalogError("the store is away")

    retriever.before = fail
    for _ in range(2):
        with pytest.raises(CatalogError, match="away"):
            retriever.retrieve(ask("horror"))
    del retriever.before
    assert "f8" not in ids(retriever.retrieve(ask("horror")))


def matrix_of(retriever, messages):
    retriever.retrieve(ask("hello"))
    sources = retriever._shared.sources
    return sources, sources.features(messages, QueryVectors(sources.vectors[0], sources.vectors[0]))


def test_likeness_to_a_named_item_is_no_wish_for_it(catalog, fusion):
    messages = ask("I loved Harbour Lights (1994), something like it").messages
    sources, matrix = matrix_of(FusionRetriever(catalog, fusion), messages)
    named = [item.id for item in sources.items].index("f1")
    like = {name: matrix[named, FEATURES.index(name)] for name in FEATURES}
    assert like["is_named"] == 1
    assert like["dialogue"] == like["bm25_share"] == like["title_shared"] == 0
    assert like["again_dialogue"] > 0
    other = matrix[:, FEATURES.index("dialogue")]
    assert (np.delete(other, named) != 0).all()


def test_the_order_of_the_items_does_not_matter(catalog, fusion):
    turned = ItemCatalog.from_items(FILMS[::-1], embed_model=HashingEmbedding(), name="turned")
    said = ask("I loved Harbour Lights (1994), a drama by Ana Vell")
    here, there = (FusionRetriever(its, fusion).retrieve(said) for its in (catalog, turned))
    assert ids(here) == ids(there)
    assert [node.score for node in here] == pytest.approx([node.score for node in there], rel=1e-5)


def test_what_a_catalog_does_not_have_counts_for_nothing(fusion):
    """Titles that no train dialogue knows, without people, genres and years."""
    bare = [Item(id=str(n), title=f"Blue kettle {n}", abstract=f"A kettle of {n} litres.") for n in range(5)]
    catalog = ItemCatalog.from_items(bare, embed_model=HashingEmbedding(), name="bare")
    retriever = FusionRetriever(catalog, fusion)
    _, matrix = matrix_of(retriever, ask("A kettle of 3 litres, no drama please").messages)
    absent = ("recommended", "recent", "together", "together_last", "people_named", "people_shared")
    for name in (*absent, "genre_shared"):
        assert not matrix[:, FEATURES.index(name)].any(), name
    said = ask("a kettle of 3 litres")
    everything = retriever.retrieve(said)
    assert len(everything) == 5
    assert sum(node.score for node in everything) == pytest.approx(1, abs=1e-6)
    without = FusionRetriever(catalog, fusion, without=["popularity", "together"])
    assert ids(without.retrieve(said)) == ids(everything)
    assert [n.score for n in without.retrieve(said)] == [n.score for n in everything]


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_can_be_switched_off(catalog, fusion, source):
    bundle = ask(
        [{"role": "user", "content": "I loved Harbour Lights (1994), a drama by Ana Vell from the 90s"}]
    )
    nodes = FusionRetriever(catalog, fusion, without=[source]).retrieve(bundle)
    assert sorted(ids(nodes)) == [item.id for item in FILMS]


def test_sources_cover_all_features_once():
    assert sorted(name for names in SOURCES.values() for name in names) == sorted(FEATURES)


def test_bad_arguments_are_refused(catalog, fusion):
    with pytest.raises(InputError, match="similarity_top_k"):
        FusionRetriever(catalog, fusion, similarity_top_k=0)
    with pytest.raises(InputError, match="no source 'magic'"):
        FusionRetriever(catalog, fusion, without=["magic"])
    other = ItemCatalog.from_items(FILMS, embed_model=HashingEmbedding(model_name="test/other"), name="other")
    with pytest.raises(EncoderMismatchError, match="test/other"):
        FusionRetriever(other, fusion)


def test_threads_and_async_agree_with_one_call(catalog, fusion):
    asked = ["a scary horror film", "something that makes me laugh", "freighters in space", "Heat (1995)"] * 4
    once = [ids(FusionRetriever(catalog, fusion).retrieve(ask(text))) for text in asked]
    shared = FusionRetriever(catalog, fusion)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: ids(shared.retrieve(ask(text))), asked)) == once

    async def together():
        return await asyncio.gather(*(shared.aretrieve(ask(text)) for text in asked))

    assert [ids(nodes) for nodes in asyncio.run(together())] == once


def test_it_goes_into_a_stock_query_engine(catalog, fusion):
    retriever = FusionRetriever(catalog, fusion, similarity_top_k=3)
    engine = RetrieverQueryEngine(retriever, ReGeSSynthesizer())
    assert ids(engine.query("horror, a family in a house").source_nodes)[0] == "f4"


def test_an_empty_catalog_gives_nothing(fusion):
    empty = ItemCatalog.open(embed_model=HashingEmbedding(), name="void", create=True)
    assert FusionRetriever(empty, fusion).retrieve(ask("anything")) == []


def test_it_runs_over_other_stores_and_finds_the_same(catalog, fusion, tmp_path):
    from llama_index.vector_stores.lancedb import LanceDBVectorStore

    store = LanceDBVectorStore(uri=str(tmp_path), table_name="films")
    other = ItemCatalog.from_items(FILMS, vector_store=store, embed_model=HashingEmbedding())
    comedy = MetadataFilters(filters=[MetadataFilter(key="genres", value="Comedy")])
    for filters in (None, comedy):
        here, there = (
            FusionRetriever(its, fusion, filters=filters).retrieve(ask("a scary film"))
            for its in (catalog, other)
        )
        assert ids(there) == ids(here)
        assert [node.score for node in there] == pytest.approx([node.score for node in here], rel=1e-3)


def test_an_item_expert_in_a_stock_engine_takes_its_probabilities_for_a_prior(catalog, fusion, tiny):
    retriever = FusionRetriever(catalog, fusion, similarity_top_k=4)
    engine = RetrieverQueryEngine(
        retriever, node_postprocessors=[ReGeSRerank(tiny)], response_synthesizer=ReGeSSynthesizer()
    )
    wish = DialogueQueryBundle.from_dialogue("a film about the sea")
    ranked = ReGeSRerank(tiny).rank(retriever.retrieve(wish), wish)
    assert ranked.report["rerank"]["prior"] is True
    assert engine.query(wish).metadata["item_id"] == ranked.candidates[0].item.id
