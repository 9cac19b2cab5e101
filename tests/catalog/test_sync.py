from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reges_index.catalog import Item, ItemCatalog, SyncReport
from reges_index.catalog.stores.chroma_store import read_journal
from reges_index.errors import CatalogError, InputError
from tests.catalog.hashing import HashingEmbedding

ROOT = Path(__file__).parents[2]


def make(count: int, salt: str = "") -> list[Item]:
    return [
        Item(id=str(n), title=f"Film {n} {salt}", year=1900 + n % 100, genres=[f"g{n % 7}"])
        for n in range(count)
    ]


def contents(catalog: ItemCatalog) -> tuple[list[Item], list[tuple[str, float]]]:
    """All items, and how near each is to a query: equal only if rows and vectors are."""
    items = list(catalog.items())
    [ranked] = catalog.retrieve_batch(["Film 7 of 1907, g3"], len(items))
    return items, sorted((item_id, round(score, 4)) for item_id, score in ranked)


def counts(report: SyncReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.removed, report.unchanged


def test_old_metadata_does_not_survive():
    catalog = ItemCatalog.from_items(
        [Item(id="1", title="x", year=1990, genres=["a"], metadata={"k": 1})], embed_model=HashingEmbedding()
    )
    catalog.sync([Item(id="1", title="x", metadata={"l": 2})])
    assert catalog.get(["1"]) == [Item(id="1", title="x", metadata={"l": 2})]
    with catalog.lent() as table:
        [row] = table.rows(["1"])
    assert {"year", "genres", "k"}.isdisjoint(row.metadata)


def test_bad_sets():
    catalog = ItemCatalog.from_items(make(2), embed_model=HashingEmbedding())
    with pytest.raises(InputError, match="catalog is empty"):
        catalog.sync([])
    with pytest.raises(InputError, match="catalog is empty"):
        ItemCatalog.from_items([], embed_model=HashingEmbedding())
    with pytest.raises(InputError, match="'0' occurs twice"):
        catalog.sync([*make(2), make(1)[0]])
    with pytest.raises(InputError, match="batch_size is 0"):
        catalog.sync(make(2), batch_size=0)
    assert len(catalog) == 2


def test_more_items_than_chroma_takes_at_once():
    items = make(5600)
    catalog = ItemCatalog.open(create=True, embed_model=HashingEmbedding())
    assert counts(catalog.sync(items, batch_size=100_000)) == (5600, 0, 0, 0)
    assert len(catalog.get([item.id for item in items])) == 5600
    assert len(catalog.query("film", top_k=100_000)) == 5600


item_sets = st.lists(
    st.dictionaries(
        st.integers(0, 8), st.tuples(st.sampled_from("pqr"), st.none() | st.integers(1, 3)), min_size=1
    ),
    min_size=1,
    max_size=4,
)


@given(item_sets)
@settings(max_examples=25, deadline=None)
def test_any_sequence_of_syncs_equals_one_from_scratch(sequence):
    sets = [
        [Item(id=str(key), title=f"{title} {key}", year=year) for key, (title, year) in one.items()]
        for one in sequence
    ]
    catalog = ItemCatalog.open(create=True, embed_model=HashingEmbedding())
    held: dict[str, Item] = {}
    for items in sets:
        new = {item.id: item for item in items}
        report = catalog.sync(items, batch_size=2)
        assert counts(report) == (
            len(new.keys() - held.keys()),
            sum(held[key] != new[key] for key in new.keys() & held.keys()),
            len(held.keys() - new.keys()),
            sum(held[key] == new[key] for key in new.keys() & held.keys()),
        )
        held = new
    assert contents(catalog) == contents(ItemCatalog.from_items(sets[-1], embed_model=HashingEmbedding()))


def test_progress_is_shown_only_when_asked(capfd: pytest.CaptureFixture[str]):
    catalog = ItemCatalog.from_items(make(5), embed_model=HashingEmbedding())
    assert capfd.readouterr() == ("", "")
    catalog.sync(make(5, "b"), show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Embedding items" in err
    assert "100%" in err


WRITER = """
import sys, time
from reges_index.catalog import ItemCatalog
from tests.catalog.hashing import HashingEmbedding
from tests.catalog.test_sync import make

class Telling(HashingEmbedding):
    def _get_text_embeddings(self, texts):
        print("batch", flush=True)
        return super()._get_text_embeddings(texts)

catalog = ItemCatalog.open(sys.argv[1], embed_model=Telling(embed_batch_size=1000), create=True)
print(catalog.sync(make(int(sys.argv[2]), sys.argv[3]), batch_size=50), flush=True)
"""


def start_writer(folder: Path, count: int, salt: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(count), salt]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_writer(folder: Path, count: int, salt: str = "", *, batch: int, after: float = 0.0) -> None:
    """Start a sync and kill it `after` seconds into a batch, the first being 1."""
    with start_writer(folder, count, salt) as writer:
        assert writer.stdout is not None
        for _ in range(batch):
            assert writer.stdout.readline() == "batch\n"
        time.sleep(after)
        writer.send_signal(signal.SIGKILL)


def test_killed_syncs_go_on(tmp_path: Path):
    rng = random.Random(0)
    for _ in range(3):
        kill_writer(tmp_path, 1300, batch=rng.randint(1, 4), after=rng.uniform(0, 0.05))
        with pytest.raises(CatalogError, match="is half-written"):
            ItemCatalog.open(tmp_path, embed_model=HashingEmbedding())
    embedding = HashingEmbedding()
    catalog = ItemCatalog.open(tmp_path, embed_model=embedding, create=True)
    report = catalog.sync(make(1300))
    assert report.added == embedding.embedded < 1300
    fresh = ItemCatalog.from_items(make(1300), embed_model=HashingEmbedding())
    assert contents(catalog) == contents(fresh)
    assert contents(ItemCatalog.open(tmp_path, embed_model=HashingEmbedding())) == contents(fresh)


def test_killed_update_can_be_read_and_goes_on(tmp_path: Path):
    ItemCatalog.from_items(make(600), persist_dir=tmp_path, embed_model=HashingEmbedding())
    kill_writer(tmp_path, 300, "new", batch=3)
    assert read_journal(tmp_path).pending.keys() == {"items"}
    catalog = ItemCatalog.open(tmp_path, embed_model=HashingEmbedding())
    assert len(catalog) == 600  # removing comes last
    report = catalog.sync(make(300, "new"))
    assert report.removed == 300
    assert 100 <= report.unchanged < 300
    assert contents(catalog) == contents(
        ItemCatalog.from_items(make(300, "new"), embed_model=HashingEmbedding())
    )


def test_half_saved_index_is_made_anew(tmp_path: Path):
    """As if killed after some index files were saved and before others; Chroma would fail or hang on that."""
    kill_writer(tmp_path, 1300, batch=24)
    [header] = tmp_path.glob("*/header.bin")
    header.write_bytes(bytes(100))
    embedding = HashingEmbedding()
    catalog = ItemCatalog.open(tmp_path, embed_model=embedding, create=True)
    assert counts(catalog.sync(make(1300))) == (1300, 0, 0, 0)
    assert embedding.embedded == 1300
    assert contents(catalog) == contents(ItemCatalog.from_items(make(1300), embed_model=HashingEmbedding()))


def test_half_saved_update_is_told_when_opened(tmp_path: Path):
    ItemCatalog.from_items(make(1100), persist_dir=tmp_path, embed_model=HashingEmbedding())
    ItemCatalog.from_items(make(5), persist_dir=tmp_path, name="other", embed_model=HashingEmbedding())
    kill_writer(tmp_path, 1100, "new", batch=3)
    ItemCatalog.open(tmp_path, embed_model=HashingEmbedding())
    [saved_last] = tmp_path.glob("*/index_metadata.pickle")
    os.utime(saved_last)
    # Another catalog of the store is as good as before, and writing to it mends nothing.
    other = ItemCatalog.open(tmp_path, name="other", embed_model=HashingEmbedding())
    assert counts(other.sync(make(6))) == (1, 0, 0, 5)
    with pytest.raises(CatalogError, match="half-written: a sync was killed"):
        ItemCatalog.open(tmp_path, embed_model=HashingEmbedding())
    mended = ItemCatalog.from_items(make(1100, "new"), persist_dir=tmp_path, embed_model=HashingEmbedding())
    assert len(mended.query("film", top_k=1100)) == 1100
    assert len(ItemCatalog.open(tmp_path, embed_model=HashingEmbedding())) == 1100
    assert len(other) == 6


def test_two_processes_write_one_after_the_other(tmp_path: Path):
    catalog = ItemCatalog.from_items(make(1500), persist_dir=tmp_path, embed_model=HashingEmbedding())
    assert len(catalog.query("film", top_k=1500)) == 1500
    writers = [start_writer(tmp_path, count) for count in (2200, 1100)]
    outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    assert all(writer.returncode == 0 for writer in writers), outputs
    # Whoever was last, the catalog is whole, and this process sees it and may write to it.
    assert len(catalog) in (1100, 2200)
    assert len(catalog.query("film", top_k=5000)) == len(catalog)
    catalog.sync(make(2300))
    fresh = ItemCatalog.from_items(make(2300), embed_model=HashingEmbedding())
    assert contents(catalog) == contents(fresh)
    script = (
        "import sys; from tests.catalog.test_sync import *; "
        "c = ItemCatalog.open(sys.argv[1], embed_model=HashingEmbedding()); "
        "print(len({hit.node_id for hit in c.query('film', top_k=9999)}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2300"


def test_recall_against_brute_force():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    class Given(HashingEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            return vectors[int(text) if text.isdigit() else 0].tolist()  # asked for its dimension too

    from reges_index.catalog import TextTemplate

    numbers = TextTemplate("number", lambda item: item.id)
    catalog = ItemCatalog.from_items(make(3000), embed_model=Given(), template=numbers)
    queries = rng.standard_normal((200, 64))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact = queries @ vectors.T
    best = np.argsort(-exact, axis=1)[:, :10]
    found = catalog.retrieve_batch(queries.tolist(), 10)
    recall = np.mean(
        [len({int(i) for i, _ in hits} & set(row)) / 10 for hits, row in zip(found, best, strict=True)]
    )
    assert recall >= 0.99
    for row, hits in enumerate(found):
        assert [score for _, score in hits] == pytest.approx([exact[row, int(i)] for i, _ in hits], abs=1e-5)
