"""A Chroma server for the tests of this folder, and a catalog in each kind of store."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reges_index.catalog import Item, ItemCatalog
from reges_index.errors import StoreNotFoundError
from tests.catalog.hashing import HashingEmbedding

KINDS = ("memory", "folder", "server", "qdrant", "lancedb")

MakeCatalog = Callable[..., ItemCatalog]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chroma = Path(sys.executable).with_name("chroma")
    folder = tmp_path_factory.mktemp("server")
    command = [str(chroma), "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    try:
        while True:
            try:
                ItemCatalog.names(url=url)
                break
            except StoreNotFoundError:
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


_numbers = itertools.count()


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments of `ItemCatalog.open` for an empty store of the kind, under a name of its own."""
    name = {"name": f"catalog-{next(_numbers)}"}
    if kind == "memory":
        return name
    if kind == "server":
        return {"url": request.getfixturevalue("server"), **name}
    prefix = "" if kind == "folder" else f"{kind}:"
    return {"persist_dir": f"{prefix}{tmp_path / kind}", **name}


@pytest.fixture
def make_catalog(place: dict[str, Any]) -> MakeCatalog:
    def make(items: Sequence[Item], **options: Any) -> ItemCatalog:
        return ItemCatalog.from_items(items, **{**place, "embed_model": HashingEmbedding(), **options})

    return make
