"""`reges ui`, started as a user starts it."""

import signal
import socket
import subprocess

import httpx
import pytest

from tests.cli.conftest import REGES, call, environment


def test_it_serves_a_page_until_interrupted(tiny, films, tmp_path):
    # The store's other catalogs are offered; one by another encoder cannot be, and is named.
    from reges_index import ItemCatalog, read_items
    from tests.catalog.hashing import HashingEmbedding

    here = tmp_path / "store"
    ItemCatalog.from_items(read_items(films), persist_dir=here, name="items")
    ItemCatalog.from_items(read_items(films)[:3], persist_dir=here, name="a-few")
    ItemCatalog.from_items(read_items(films), persist_dir=here, name="hashed", embed_model=HashingEmbedding())
    words = [REGES, "ui", "--store", here, "--model", tiny, "--port", "0"]
    with subprocess.Popen(
        list(map(str, words)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), line + process.stderr.read()
            page = httpx.get(line.split()[0], trust_env=False)
            assert page.status_code == 200
            assert "default-src 'self'" in page.headers["content-security-policy"]
            assert "a-few" in page.text
            assert "hashed" not in page.text
            assert "googleapis" not in page.text
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "catalog 'hashed' is left out" in err
    assert "Traceback" not in err
    assert out == ""


def test_a_port_that_is_taken(store, tiny):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = call("ui", "--store", store, "--model", tiny, "--port", port)
    done.fails(2, f"127.0.0.1:{port}", "--port")


@pytest.mark.parametrize(("words", "code"), [(["--store", "nowhere"], 3), (["--host", "no.such.invalid"], 2)])
def test_what_cannot_be(store, tiny, words, code):
    given = words if "--store" in words else ["--store", store, *words]
    call("ui", *given, "--port", "0", "--model", tiny).fails(code)


def test_without_gradio(store, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.startswith("reges_index.ui.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    call("ui", "--store", store).fails(2, "pip install 'reges-index[ui]'")
