"""A web chat that is really served, over real Chroma folders, and the browser that looks at it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from reges_index import Item, ItemCatalog, QueryDecoding, ReGeSQueryEngine, ReGeSQueryTransform, demo_catalog
from reges_index.models import LocalLM
from tests.catalog.hashing import HashingEmbedding

HOSTILE = (
    Item(
        id='"><script>window.hacked = 1</script>',
        title='<img src=x onerror="window.hacked = 2">Odd one',
        year=1931,
        genres=("Odd", "<i>Slanted</i>"),
        directors=["</p></div><script>window.hacked = 3</script>"],
        abstract="<style>body { display: none }</style> ${window.hacked = 4} {{title}} **bold** $$x$$",
    ),
    Item(id="odd-2", title="${window.hacked = 5}", year=1932, genres=("Odd",), abstract="`${alert(6)}`"),
    Item(id="odd-3", title="{{#each value}}<b>\u202eback</b>{{/each}}", genres=("Odd",)),
)
FILMS = (*demo_catalog("films")[:12], *HOSTILE)
BOOKS = tuple(demo_catalog("books")[:8])
TOP_K = 30  # shows every item

CHROMIUM_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def engine_factory(lm):
    """Make engines that share a tiny model; that of the catalog "broken" needs a model that is not there."""

    def make(catalog):
        model = LocalLM.from_pretrained("/nowhere/at/all") if catalog.name == "broken" else lm
        transform = ReGeSQueryTransform(model, decoding=QueryDecoding(max_new_tokens=8))
        return ReGeSQueryEngine.from_defaults(catalog, llm=model, query_transform=transform)

    return make


@pytest.fixture(scope="package")
def catalogs(tmp_path_factory):
    """Films, books and a few more in one Chroma folder."""
    store = tmp_path_factory.mktemp("store")
    contents = {"films": FILMS, "books": BOOKS, "broken": BOOKS[:2]}
    return [
        ItemCatalog.from_items(items, persist_dir=store, name=name, embed_model=HashingEmbedding())
        for name, items in contents.items()
    ]


class Outside:
    """Addresses beyond this machine that the process connects to or looks up while it watches."""

    def __init__(self):
        self.watching = False
        self.seen = []
        sys.addaudithook(self._hear)  # there is no way to remove one, so it can be told not to listen

    def _hear(self, event, arguments):
        if self.watching and event in ("socket.connect", "socket.getaddrinfo"):
            address = arguments[1] if event == "socket.connect" else arguments[0]
            host = address[0] if isinstance(address, tuple) else address
            host = host.decode() if isinstance(host, bytes) else str(host)
            if not host.startswith(("127.", "::1", "localhost", "/")):
                self.seen.append(host)


@pytest.fixture(scope="package")
def outside():
    return Outside()


@pytest.fixture(scope="module")
def address(catalogs, tiny, outside):
    """URL of the page, served by a thread of this process."""
    from reges_index.ui import build_ui
    from reges_index.ui.server import bind, server

    listening = bind("127.0.0.1", 0)
    outside.watching = True
    running = server(build_ui(engine_factory(tiny), catalogs, top_k=TOP_K))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not running.started:
        assert thread.is_alive(), "the server has ended"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    running.should_exit = True
    thread.join(20)
    outside.watching = False
    assert not thread.is_alive()


def find_chromium():
    """Path of a Chromium; skips where there is none, unless REGES_REQUIRE_BROWSER says that there must be."""
    given = os.environ.get("REGES_CHROMIUM")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = given or next(filter(None, map(shutil.which, names)), None)
    if found and Path(found).exists():
        return found
    reason = "no Chromium was found; install one or set REGES_CHROMIUM to its path"
    if os.environ.get("REGES_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    path = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield found
        found.close()
