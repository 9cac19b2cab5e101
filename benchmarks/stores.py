"""What a catalog costs in each store: time and bytes to fill, memory and latency to serve, and recall.

    python benchmarks/stores.py --items 20000

The vectors are random unit vectors of 384 numbers, which is the hardest case for an index and leaves the
encoder out of the figures. Filling and serving are processes of their own, so that memory is that of the
store. Everything goes through `ItemCatalog`, as in an app:

- ``fill s``      wall seconds to put the items in, for each 10,000 of them
- ``disk MB``     size of the store's folder afterwards, for each 10,000 items
- ``open s``      wall seconds from nothing to the first answer, imports not counted
- ``memory MB``   what the process grew by while it served, for each 10,000 items
- ``p50``, ``p95``  milliseconds for one query of 50 items with their rows, by one thread
- ``filter p50``  the same with a filter that half of the items pass
- ``recall``      share of the true 10 nearest among the 10 that were found

Wall time on a machine that does other work is what that leaves of it: compare rows of one run only.
``--json FILE`` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

STORES = {"chroma": "", "qdrant": "qdrant:", "lancedb": "lancedb:"}
DIMENSION = 384
QUERIES = 100
_COLUMNS = ("fill s", "disk MB", "open s", "memory MB", "p50", "p95", "filter p50", "recall")


def vectors(count: int, seed: int) -> npt.NDArray[np.float32]:
    """Random unit vectors, shape (count, DIMENSION)."""
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _catalog_parts(count: int) -> tuple[Any, Any]:
    """Return an encoder that hands out the prepared vectors by item number, and its template."""
    from llama_index.core.base.embeddings.base import BaseEmbedding

    from reges_index.catalog import TextTemplate

    prepared = vectors(count, seed=0)

    class Prepared(BaseEmbedding):
        model_name: str = "benchmark/random"

        def _get_text_embedding(self, text: str) -> list[float]:
            number = text.split(" ", 1)[0]
            return prepared[int(number) if number.isdigit() else 0].tolist()

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    text = "An item like many others, with a text of about the length that a short abstract has. " * 4
    return Prepared(embed_batch_size=256), TextTemplate("numbered", lambda item: f"{item.id} {text}")


def fill(place: str, folder: Path, count: int) -> dict[str, float]:
    """Put the items in."""
    from reges_index.catalog import Item, ItemCatalog

    encoder, template = _catalog_parts(count)
    items = [
        Item(
            id=str(n),
            title=f"Item {n}",
            year=1950 + n % 70,
            genres=[f"g{n % 7}"],
            metadata={"odd": n % 2},
        )
        for n in range(count)
    ]
    catalog = ItemCatalog.open(place, embed_model=encoder, template=template, create=True)
    start = time.perf_counter()
    catalog.sync(items)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"fill s": seconds * 10_000 / count, "disk MB": size / 1e6 * 10_000 / count}


def serve(place: str, count: int) -> dict[str, float]:
    """Open the store and ask."""
    from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

    from reges_index.catalog import ItemCatalog

    encoder, template = _catalog_parts(count)
    asked = vectors(QUERIES, seed=1)
    best = np.argsort(-(asked @ vectors(count, seed=0).T), axis=1)[:, :10]
    for library in ("chromadb", "qdrant_client", "lancedb", "pyarrow"):
        import_module(library)  # not to be counted as the store's memory, nor as its time
    before = _resident()
    start = time.perf_counter()
    catalog = ItemCatalog.open(place, embed_model=encoder, template=template)
    catalog.query(asked[0].tolist(), 50)
    opened = time.perf_counter() - start
    half = MetadataFilters(filters=[MetadataFilter(key="odd", value=1)])
    plain, filtered, found = [], [], 0.0
    for number, vector in enumerate(asked.tolist()):
        start = time.perf_counter()
        hits = catalog.query(vector, 50)
        plain.append(time.perf_counter() - start)
        start = time.perf_counter()
        catalog.query(vector, 50, filters=half)
        filtered.append(time.perf_counter() - start)
        found += len({int(hit.node_id) for hit in hits[:10]} & set(best[number].tolist())) / 10
    cuts = statistics.quantiles(plain, n=20)
    return {
        "open s": opened,
        "memory MB": max(0, _resident() - before) / 1e6 * 10_000 / count,
        "p50": statistics.median(plain) * 1e3,
        "p95": cuts[-1] * 1e3,
        "filter p50": statistics.median(filtered) * 1e3,
        "recall": found / QUERIES,
    }


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _in_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    """Measure all stores and print a table."""
    parser = argparse.ArgumentParser(description="What a catalog costs in each store.")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--phase", nargs=3, metavar=("NAME", "PLACE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        name, place, folder = options.phase
        done = fill(place, Path(folder), options.items) if name == "fill" else serve(place, options.items)
        print(json.dumps(done))
        return
    results = {}
    load = os.getloadavg()[0]
    print(f"{options.items:,} items, {DIMENSION} numbers each, {os.cpu_count()} cores, load {load:.1f}")
    print(f"{'':8}" + "".join(f"{column:>12}" for column in _COLUMNS))
    with tempfile.TemporaryDirectory() as root:
        for store in options.stores:
            folder = Path(root) / store
            place = f"{STORES[store]}{folder}"
            count = ["--items", str(options.items), "--phase"]
            figures = _in_process(*count, "fill", place, str(folder))
            figures |= _in_process(*count, "serve", place, str(folder))
            results[store] = figures
            print(f"{store:8}" + "".join(f"{figures[column]:12.3g}" for column in _COLUMNS), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"items": options.items, "stores": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
