"""Swapping catalogs while they are read: the old one or the new one, never a mixture or none."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from reges_index.catalog import Item, ItemCatalog, LiveCatalog
from reges_index.errors import CatalogError, EncoderMismatchError, InputError, StoreNotFoundError
from tests.catalog.hashing import HashingEmbedding
from tests.catalog.test_stores import Failing
from tests.catalog.test_sync import make


def of(side: str, count: int = 8) -> list[Item]:
    return [Item(id=f"{side}{n}", title=f"Film {n} of {side}", year=1990 + n) for n in range(count)]


@pytest.fixture
def live() -> LiveCatalog:
    return LiveCatalog.from_items(of("a"), name="films", embed_model=HashingEmbedding())


def numbers(live: LiveCatalog) -> list[int]:
    return [version.number for version in live.versions()]


def left_after_a_while(folder: str | Path, names: list[str]) -> None:
    """Wait for a thread that deletes what a turn was the last to read."""
    deadline = time.monotonic() + 60
    while (found := ItemCatalog.names(folder, versions=True)) != names:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_swap_and_rollback_in_every_store(place: dict[str, Any]):
    embedding = HashingEmbedding()
    live = LiveCatalog.from_items(of("a"), **place, embed_model=embedding)
    retriever = live.as_retriever(similarity_top_k=3)
    assert {hit.node_id[0] for hit in retriever.retrieve("film")} == {"a"}
    made = live.swap(of("b", 5))
    assert (made.number, made.name, made.items, made.is_live) == (2, f"{place['name']}.v2", 5, True)
    assert (len(live), live.ids()) == (5, [item.id for item in of("b", 5)])
    assert {hit.node_id[0] for hit in retriever.retrieve("film")} == {"b"}
    assert live.rollback().number == 1
    assert {hit.node_id[0] for hit in retriever.retrieve("film")} == {"a"}
    assert [hit.node_id for hit in live.query("film 3", 1)] == ["a3"]
    assert live.rollback(2).number == 2
    assert embedding.embedded == 13
    # What has not changed is not embedded again.
    live.swap([*of("b", 5), *of("c", 2)])
    assert embedding.embedded == 15
    assert live.contents().vectors == pytest.approx(
        np.array(embedding.get_text_embedding_batch([item.text() for item in live.items()])), abs=1e-6
    )
    assert live.prune(keep=0) == [1, 2]
    assert numbers(live) == [3]
    names = live.table.names()
    assert live.name in names
    assert not {place["name"], f"{place['name']}.v2"} & set(names)
    with pytest.raises(InputError, match="no earlier version"):
        live.rollback()
    with pytest.raises(InputError, match="no version 1"):
        live.rollback(1)


def test_items_of_the_live_version_change_in_every_store(place: dict[str, Any]):
    live = LiveCatalog.from_items(of("a"), **place, embed_model=HashingEmbedding())
    live.swap(of("b"))
    new = Item(id="new", title="A film that is new")
    with live.pinned():
        live.rollback()
        report = live.add([new])  # to what is live, not to what this turn reads
        assert (report.added, report.unchanged) == (1, 0)
        assert "new" not in live.ids()
    assert live.ids() == [*(item.id for item in of("a")), "new"]
    assert live.query("A film that is new", 1)[0].node_id == "new"
    assert live.remove(["new", "a0"]) == 2
    assert live.ids() == [item.id for item in of("a")[1:]]
    assert live.sync([new, *of("a", 2)]).removed == 6
    assert live.ids() == ["a0", "a1", "new"]
    assert live.rollback(2).items == 8
    for change, message in (
        (lambda: live.remove(["new"]), "has no item 'new'"),
        (lambda: live.add([new, new]), "'new' occurs twice"),
        (lambda: live.remove(live.ids()), "no item would be left"),
    ):
        with pytest.raises((CatalogError, InputError), match=message):
            change()
    assert live.ids() == [item.id for item in of("b")]


def test_an_item_that_is_added_while_a_swap_builds_is_in_the_new_version(tmp_path: Path):
    building, go_on = threading.Event(), threading.Event()

    class Slow(HashingEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            building.set()
            assert go_on.wait(30)
            return super()._get_text_embeddings(texts)

    where: dict[str, Any] = {"persist_dir": tmp_path, "name": "films"}
    LiveCatalog.from_items(of("a"), **where, embed_model=HashingEmbedding())
    live = LiveCatalog.open(**where, embed_model=Slow())
    other = LiveCatalog.open(**where, embed_model=HashingEmbedding())  # as another process has it
    with ThreadPoolExecutor(3) as pool:
        swapped = pool.submit(live.swap, of("b"))
        assert building.wait(30)
        added = pool.submit(live.add, [Item(id="new", title="One")])
        elsewhere = pool.submit(other.add, [Item(id="newer", title="Two")])
        early, _ = wait([added, elsewhere], timeout=1)
        go_on.set()
        assert not early
        assert swapped.result(30).number == 2
        assert added.result(30).added == elsewhere.result(30).added == 1
    for seen in (live, other):
        assert seen.ids() == [*(item.id for item in of("b")), "new", "newer"]
    assert live.rollback().items == 8


def test_restart_at_the_version_that_was_live(tmp_path: Path):
    where: dict[str, Any] = {"persist_dir": tmp_path, "name": "films", "embed_model": HashingEmbedding()}
    live = LiveCatalog.from_items(of("a"), **where)
    live.swap(of("b"))
    live.prune(keep=0)
    assert LiveCatalog.open(**where).ids() == [item.id for item in of("b")]
    with pytest.raises(StoreNotFoundError, match="no catalog 'films'"):
        ItemCatalog.open(**where)
    again = LiveCatalog.from_items(of("b"), **where)
    assert numbers(again) == [2]
    # Another set of items is another version; who was there first sees it at the next read.
    LiveCatalog.from_items(of("c"), **where)
    assert live.ids() == again.ids() == [item.id for item in of("c")]
    assert again.rollback().number == 2
    assert live.ids() == [item.id for item in of("b")]
    assert live.swap(of("d")).number == 4


def test_an_existing_catalog_goes_live_and_is_not_deleted(tmp_path: Path):
    where: dict[str, Any] = {"persist_dir": tmp_path, "embed_model": HashingEmbedding()}
    for side in "ab":
        ItemCatalog.from_items(of(side), name=f"films-{side}", **where)
    live = LiveCatalog.open(name="films-a", **where)
    other = ItemCatalog.open(name="films-b", **where)
    assert live.swap(other).name == "films-b"
    assert live.swap(ItemCatalog.open(name="films-a", **where)).number == 1
    assert live.swap(other).number == 2
    assert live.prune(keep=0) == [1]
    assert ItemCatalog.names(tmp_path) == ["films-a", "films-b"]
    # From another store it is copied, with its vectors, because a restart must find it.
    elsewhere = ItemCatalog.from_items(of("c"), embed_model=HashingEmbedding())
    made = live.swap(elsewhere)
    assert (made.number, made.name) == (3, "films-a.v3")
    assert LiveCatalog.open(name="films-a", **where).ids() == elsewhere.ids()


def test_a_catalog_of_somebody_elses_is_not_built_over(tmp_path: Path, caplog):
    """Also where it has the very name that the next version would have."""
    where = {"persist_dir": tmp_path / "store", "embed_model": HashingEmbedding()}
    own = ItemCatalog.from_items(of("own"), name="films.v2", **where)
    live = LiveCatalog.from_items(of("a"), name="films", **where)
    made = live.swap(of("b"))
    assert (made.number, made.name) == (3, "films.v3")
    assert "'films.v2' that is no version of 'films'" in caplog.text
    assert own.ids() == [item.id for item in of("own")]
    with pytest.raises(InputError):
        live.swap([*of("c"), *of("c")])
    assert ItemCatalog.open(name="films.v2", **where).ids() == [item.id for item in of("own")]
    assert numbers(live) == [1, 3]


class Zeros(HashingEmbedding):
    def _get_text_embedding(self, text: str) -> list[float]:
        return [0.0] * self.dimension if "broken" in text else super()._get_text_embedding(text)


def test_broken_swaps_are_refused(live: LiveCatalog, tmp_path: Path):
    half = ItemCatalog.open(tmp_path, embed_model=Failing(), create=True)
    with pytest.raises(MemoryError):
        half.sync(make(30), batch_size=10)
    zeros = ItemCatalog.from_items([Item(id="x", title="broken")], embed_model=Zeros())
    empty = ItemCatalog.open(create=True, embed_model=HashingEmbedding())
    for new, error, message in [
        ([], InputError, "the catalog is empty"),
        ([*of("b"), *of("b", 1)], InputError, "'b0' occurs twice"),
        (empty, InputError, "is empty"),
        (half, CatalogError, "half-written"),
        (zeros, CatalogError, "item 'x' has a vector of zeros"),
        (
            ItemCatalog.from_items(of("b"), embed_model=HashingEmbedding(dimension=32)),
            EncoderMismatchError,
            "dimension 64, not 32",
        ),
    ]:
        with pytest.raises(error, match=message):
            live.swap(new)
        assert numbers(live) == [1]
        assert {hit.node_id[0] for hit in live.query("film")} == {"a"}
    assert live.swap(of("b")).number == 2


def test_a_swap_that_fails_midway_leaves_nothing_behind(tmp_path: Path):
    embedding = Failing(batches=10)
    where: dict[str, Any] = {"persist_dir": tmp_path, "name": "films", "embed_model": embedding}
    live = LiveCatalog.from_items(of("a"), **where)
    embedding.batches = 1
    with pytest.raises(MemoryError):
        live.swap(make(600))  # of which 256 were written
    assert ItemCatalog.names(tmp_path, versions=True) == ["films"]
    assert live.ids() == [item.id for item in of("a")]
    embedding.batches = 10
    assert live.swap(make(20)).items == 20


def test_rollback_to_a_version_that_somebody_emptied_is_refused(tmp_path: Path):
    where: dict[str, Any] = {"persist_dir": tmp_path, "embed_model": HashingEmbedding()}
    live = LiveCatalog.from_items(of("a"), name="films", **where)
    live.swap(of("b"))
    first = ItemCatalog.open(name="films", **where)
    with first.table.writing() as writer:
        writer.delete(first.ids())
    with pytest.raises(InputError, match="is empty"):
        live.rollback()
    ItemCatalog.open(name="films", **where).drop()
    with pytest.raises(StoreNotFoundError):
        live.rollback()
    assert live.ids() == [item.id for item in of("b")]


@pytest.mark.parametrize("is_open", [False, True])
def test_versions_that_somebody_dropped_are_gone(place: dict[str, Any], is_open: bool):
    where: dict[str, Any] = {**place, "embed_model": HashingEmbedding()}
    live = LiveCatalog.from_items(of("a"), **where)
    for side in "bcd":
        live.swap(of(side))
    if not is_open and "persist_dir" in place:  # so that the versions have to be looked for in the store
        live = LiveCatalog.open(**where)
    live.current.beside(f"{place['name']}.v3", create=False).drop()
    assert numbers(live) == [1, 2, 4]
    assert live.prune(keep=1) == [1, 3]  # and not 2, as if 3 had been kept
    assert numbers(live) == [2, 4]
    assert live.rollback(2).number == 2
    live.current.drop()
    with pytest.raises(StoreNotFoundError):  # of the live one
        live.versions()
    with pytest.raises(StoreNotFoundError):
        live.prune(keep=0)


def test_a_damaged_state_file(tmp_path: Path):
    where: dict[str, Any] = {"persist_dir": tmp_path, "name": "films", "embed_model": HashingEmbedding()}
    LiveCatalog.from_items(of("a"), **where)
    file = tmp_path / ".reges-live-films.json"
    for text in ("{", "[]", '{"format": 1, "names": {}, "history": [1], "following": 2, "borrowed": []}'):
        file.write_text(text)
        with pytest.raises(CatalogError, match=r"\.reges-live-films\.json is damaged") as caught:
            LiveCatalog.open(**where)
        assert "delete it" in caught.value.hint
        with pytest.raises(CatalogError, match="is damaged"):
            ItemCatalog.names(tmp_path)
    assert ItemCatalog.names(tmp_path, versions=True) == ["films"]
    file.unlink()
    assert LiveCatalog.open(**where).ids() == [item.id for item in of("a")]


def test_a_turn_keeps_its_version(live: LiveCatalog):
    with live.pinned() as catalog:
        live.swap(of("b"))
        assert catalog is live.current
        with live.pinned() as inner:
            assert inner is catalog
        assert live.ids()[0] == "a0"
        with ThreadPoolExecutor(1) as pool:  # another turn
            assert pool.submit(live.ids).result()[0] == "b0"
        # Pruned while it is read: it goes when the turn ends.
        assert live.prune(keep=0) == [1]
        assert live.get(["a1"])[0].title == "Film 1 of a"
    assert live.ids()[0] == "b0"
    assert numbers(live) == [2]
    with pytest.raises(CatalogError, match="has no item 'a1'"):
        live.get(["a1"])


def test_what_is_pruned_goes_when_its_last_reader_is_done(tmp_path: Path):
    live = LiveCatalog.from_items(of("a"), persist_dir=tmp_path, name="films", embed_model=HashingEmbedding())
    reading = live.items()
    first = next(reading)
    live.swap(of("b"))
    live.prune(keep=0)
    assert ItemCatalog.names(tmp_path, versions=True) == ["films", "films.v2"]
    assert [first, *reading] == of("a")
    left_after_a_while(tmp_path, ["films.v2"])


@pytest.mark.parametrize("scheme", ["", "lancedb:"])
def test_a_turn_that_ends_does_not_wait_for_a_writer(tmp_path: Path, scheme: str):
    where: dict[str, Any] = {"persist_dir": f"{scheme}{tmp_path}", "embed_model": HashingEmbedding()}
    books = ItemCatalog.from_items(of("b"), name="books", **where)
    live = LiveCatalog.from_items(of("a"), name="films", **where)
    ended = threading.Event()

    def turn() -> None:
        with live.pinned():
            live.swap(of("c"))
            live.prune(keep=0)
            pinned.set()
            writing.wait(60)
        ended.set()

    pinned, writing = threading.Event(), threading.Event()
    reader = threading.Thread(target=turn)
    reader.start()
    assert pinned.wait(60)
    with books.table.writing():
        writing.set()
        assert ended.wait(30)
    reader.join()
    left_after_a_while(where["persist_dir"], ["books", "films.v2"])


async def test_tasks_and_threads_of_a_turn_see_its_version(live: LiveCatalog):
    async def look() -> str:
        await asyncio.sleep(0.01)
        return (await asyncio.to_thread(live.ids))[0]

    with live.pinned():
        inside = asyncio.create_task(look())
        late = asyncio.create_task(asyncio.sleep(0.05))
        await asyncio.to_thread(live.swap, of("b"))
        assert await inside == "a0"
        outlives = asyncio.create_task(look())
    live.prune(keep=0)
    assert await outlives == "b0"  # its turn is over, and what it had pinned is gone
    await late
    assert await look() == "b0"


def test_readers_do_not_wait_for_a_swap_and_see_no_mixture(live: LiveCatalog):
    building, go_on = threading.Event(), threading.Event()

    class Slow(HashingEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            building.set()
            assert go_on.wait(30)
            return super()._get_text_embeddings(texts)

    live = LiveCatalog(ItemCatalog.from_items(of("a"), embed_model=HashingEmbedding()))
    live._first._embed_model = Slow()
    swapping = threading.Thread(target=live.swap, args=[of("b")])
    swapping.start()
    assert building.wait(30)
    assert {hit.node_id[0] for hit in live.query("film")} == {"a"}
    assert numbers(live) == [1]
    go_on.set()
    swapping.join(30)
    assert live.ids()[0] == "b0"

    over = threading.Event()
    found: list[set[str]] = []

    def read() -> None:
        while not over.is_set():
            found.append({item.id[0] for item in live.items()})
            found.append({hit.node_id[0] for hit in live.query([1.0] * 64)})

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for number in range(6):
        live.swap(of("ab"[number % 2]))
        live.prune(keep=0)
    over.set()
    for reader in readers:
        reader.join(30)
    assert {len(sides) for sides in found} == {1}
    assert set().union(*found) == {"a", "b"}


@pytest.mark.parametrize("scheme", ["", "qdrant:", "lancedb:"])
def test_a_live_catalog_is_listed_once_and_the_callers_own_stay(tmp_path: Path, scheme: str):
    folder = f"{scheme}{tmp_path}"
    where: dict[str, Any] = {"persist_dir": folder, "embed_model": HashingEmbedding()}
    for name in ("films", "films.view", "films.v9", "festival"):
        ItemCatalog.from_items(of("a", 2), name=name, **where)
    live = LiveCatalog.open(name="films", **where)
    live.swap(of("b", 2))
    live.swap(ItemCatalog.open(name="festival", **where))
    assert [version.name for version in live.versions()] == ["films", "films.v2", "festival"]
    assert ItemCatalog.names(folder) == ["festival", "films", "films.v9", "films.view"]
    assert "films.v2" in ItemCatalog.names(folder, versions=True)
    # A swap that was killed leaves a half-built version, which the next one takes over.
    live.current.beside("films.v4")
    assert "films.v4" not in ItemCatalog.names(folder)
    live.swap(of("c", 2))
    live.prune(keep=0)
    ItemCatalog.open(name="films", **where).drop()
    # It is there as long as one of its versions is, whatever that is called.
    assert ItemCatalog.names(folder) == ["festival", "films", "films.v9", "films.view"]
    live.current.drop()
    assert ItemCatalog.names(folder) == ["festival", "films.v9", "films.view"]


def test_pruning_nothing_writes_nothing(tmp_path: Path):
    where: dict[str, Any] = {"persist_dir": tmp_path, "name": "films", "embed_model": HashingEmbedding()}
    ItemCatalog.from_items(of("a"), **where)
    assert LiveCatalog.open(**where).prune(keep=0) == []
    assert not (tmp_path / ".reges-live-films.json").exists()  # else it would be live from now on


def test_filters_and_the_index_of_a_live_catalog(live: LiveCatalog):
    late = MetadataFilters(filters=[MetadataFilter(key="year", value=1995, operator=FilterOperator.GTE)])
    retriever = live.as_retriever(10, late)
    for side in "ba":
        live.swap(of(side))
        assert sorted(hit.node_id for hit in retriever.retrieve("film")) == [f"{side}{n}" for n in (5, 6, 7)]
    assert live.as_index().as_retriever(similarity_top_k=1).retrieve("film 2")[0].node_id == "a2"
    assert repr(live).startswith("LiveCatalog('films.v3', memory")


def test_made_once_for_each_version(live: LiveCatalog):
    class Owner:
        pass

    owner, made = Owner(), []

    def build(catalog: ItemCatalog) -> str:
        made.append(catalog.name)
        return catalog.name

    assert [live.derived(owner, build) for _ in range(3)] == ["films"] * 3
    with live.pinned():
        live.swap(of("b"))
        assert live.derived(owner, build) == "films"
    assert live.derived(owner, build) == "films.v2"
    assert live.derived(Owner(), build) == "films.v2"
    assert made == ["films", "films.v2", "films.v2"]
