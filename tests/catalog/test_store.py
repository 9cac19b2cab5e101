from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chromadb
import pytest
from chromadb.api.shared_system_client import SharedSystemClient
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from reges_index.catalog import Item, ItemCatalog
from reges_index.errors import CatalogError, InputError, StorageError, StoreNotFoundError
from tests.catalog.hashing import HashingEmbedding

ROOT = Path(__file__).parents[2]
FILMS = [Item(id=str(n), title=f"Film {n}", genres=["Drama"], abstract="text " * 50) for n in range(20)]


def make_store(folder: Path) -> None:
    """Make a store in a process of its own, so that nothing of it is open here."""
    script = (
        "import sys; from tests.catalog.test_store import *; "
        "ItemCatalog.from_items(FILMS, persist_dir=sys.argv[1], embed_model=HashingEmbedding())"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, check=True)


def damage(folder: Path, kind: str) -> None:
    database = folder / "chroma.sqlite3"
    if kind == "cut":
        os.truncate(database, database.stat().st_size // 2)
    elif kind == "garbage":
        database.write_bytes(b"no database" * 1000)
    elif kind == "emptied":
        os.truncate(database, 0)
    else:
        database.unlink()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("cut", CatalogError, "store cannot be read.*malformed"),
        ("garbage", CatalogError, "store cannot be read.*not a database"),
        ("emptied", StoreNotFoundError, "there is no catalog 'items'"),
        ("gone", StoreNotFoundError, "a folder without chroma.sqlite3"),
    ],
)
def test_damaged_stores(tmp_path: Path, kind: str, error: type[CatalogError], message: str):
    make_store(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(error, match=message) as caught:
        ItemCatalog.open(tmp_path, embed_model=HashingEmbedding())
    assert caught.value.hint


def test_lost_index_is_told(tmp_path: Path):
    script = (
        "import sys; from tests.catalog.test_sync import *; "
        "ItemCatalog.from_items(make(1100), persist_dir=sys.argv[1], embed_model=HashingEmbedding())"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True)
    [index] = [path for path in tmp_path.iterdir() if path.is_dir()]
    shutil.rmtree(index)
    catalog = ItemCatalog.open(tmp_path, embed_model=HashingEmbedding())
    with pytest.raises(CatalogError, match="has 1100 items, but its vector index found"):
        catalog.query("film", 1100)


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        ItemCatalog.open(tmp_path / "file", create=True, embed_model=HashingEmbedding())
    with pytest.raises(StoreNotFoundError, match="there is no store"):
        ItemCatalog.open(tmp_path / "file", embed_model=HashingEmbedding())


def test_deleted_folder_is_not_served_from_memory(tmp_path: Path):
    folder = tmp_path / "store"
    catalog = ItemCatalog.from_items(FILMS, persist_dir=folder, embed_model=HashingEmbedding())
    shutil.rmtree(folder)
    with pytest.raises(StoreNotFoundError, match="there is no store"):
        ItemCatalog.open(folder, embed_model=HashingEmbedding())
    again = ItemCatalog.from_items(FILMS[:3], persist_dir=folder, embed_model=HashingEmbedding())
    assert again.ids() == ["0", "1", "2"]
    del catalog


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no permission to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


FILL = """
import sys
from tests.catalog.test_store import *
items = [Item(id=str(n), title=f"Film {n}", abstract="text " * 200) for n in range(2000)]
try:
    ItemCatalog.from_items(items, persist_dir=sys.argv[1], embed_model=HashingEmbedding())
except StorageError as error:
    print("StorageError", error)
"""


def test_full_disk(tiny_disk: Path):
    command = [sys.executable, "-c", FILL, str(tiny_disk / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "StorageError" in done.stdout, done.stdout + done.stderr
    assert "disk is full" in done.stdout
    assert "the sync goes on where it stopped" in done.stdout
    # With more room it does.
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert len(ItemCatalog.open(tiny_disk / "store", embed_model=HashingEmbedding())) == 2000


def test_no_server():
    with pytest.raises(StoreNotFoundError, match="no Chroma server answers"):
        ItemCatalog.open(url="http://127.0.0.1:9", embed_model=HashingEmbedding())
    for url in ("localhost:8000", "http://", "ftp://x:1", "http://x:99999", "http://x:1/path"):
        with pytest.raises(InputError, match="no address of a Chroma server"):
            ItemCatalog.open(url=url)
    for url in ("http://me:pass123@127.0.0.1:9", "http://127.0.0.1:9?key=pass123", "http://:pass123@x/path"):
        with pytest.raises(InputError, match="holds a user name, a password") as error:
            ItemCatalog.open(url=url)
        assert "pass123" not in str(error.value)


@pytest.mark.parametrize("telemetry", [True, False])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_catalog_in_memory_beside_the_users_own_client(monkeypatch, first: str, telemetry: bool):
    """Chroma keeps one in-memory system for a process and refuses clients with other settings."""
    for registry in ("_identifier_to_system", "_identifier_to_refcount"):
        monkeypatch.setattr(SharedSystemClient, registry, {})  # as in a new process

    def theirs():
        return chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=telemetry))

    client = theirs() if first == "theirs" else None
    catalog = ItemCatalog.from_items(FILMS, embed_model=HashingEmbedding())
    client = client or theirs()
    client.create_collection("items").add(ids=["mine"], embeddings=[[1.0, 0.0]])
    assert [collection.name for collection in client.list_collections()] == ["items"]
    other = ItemCatalog.from_items(FILMS[:2], embed_model=HashingEmbedding())
    assert (len(catalog), len(other), client.get_collection("items").count()) == (20, 2, 1)
    with pytest.raises(ValueError, match="different settings"):  # a reset would take the catalogs with it
        chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=telemetry, allow_reset=True))


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_catalog_in_a_folder_beside_the_users_own_client(tmp_path: Path, first: str):
    """An app often has a client of the same folder, for another collection or to look into this one."""
    folder = tmp_path / "store"

    def theirs():
        client = chromadb.PersistentClient(str(folder))
        client.get_or_create_collection("notes", embedding_function=None)
        return client

    client = theirs() if first == "theirs" else None
    catalog = ItemCatalog.from_items(FILMS[:5], persist_dir=folder, embed_model=HashingEmbedding())
    client = client or theirs()
    client.get_collection("notes").upsert(ids=["mine"], embeddings=[[1.0, 0.0]])
    catalog.sync(FILMS)
    seen = client.get_collection("items", embedding_function=None)
    vector = HashingEmbedding().get_query_embedding("Film 17")
    assert seen.count() == len(seen.query(query_embeddings=[vector], n_results=20)["ids"][0]) == 20
    notes = client.get_collection("notes").query(query_embeddings=[[1.0, 0.0]], n_results=1)
    assert notes["ids"] == [["mine"]]
    again = ItemCatalog.open(folder, embed_model=HashingEmbedding())
    assert len(again.query("Film 17", 50)) == len(catalog.query("Film 17", 50)) == 20
    assert ItemCatalog.names(folder) == ["items", "notes"]


@pytest.mark.parametrize("persistent", [True, False])
def test_a_dropped_catalog_leaves_nothing_for_filters_to_find(tmp_path: Path, persistent: bool):
    """Chroma gives the row numbers of a deleted collection to the next, and kept the old lists with them."""

    def films(*genres: str) -> list[Item]:
        return [Item(id=str(n), title=f"Film {n}", genres=list(genres)) for n in range(5)]

    def passing(catalog: ItemCatalog, genre: str) -> list[str]:
        return catalog.ids(MetadataFilters(filters=[MetadataFilter(key="genres", value=genre)]))

    model = HashingEmbedding()
    if persistent:
        old = ItemCatalog.from_items(films("Drama"), persist_dir=tmp_path, name="old", embed_model=model)
        old.drop()
        new = ItemCatalog.from_items(films(), persist_dir=tmp_path, name="new", embed_model=model)
    else:
        old = ItemCatalog.from_items(films("Drama"), embed_model=model)
        del old  # in-memory stores of a process share one database, and theirs ends with them
        gc.collect()
        new = ItemCatalog.from_items(films(), embed_model=model)
    assert passing(new, "Drama") == []
    assert len(new.ids()) == 5
