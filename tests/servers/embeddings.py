"""A server on this machine that speaks OpenAI's protocol for embeddings, with vectors that hash trigrams."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tests.catalog.hashing import HashingEmbedding


class EmbeddingsServer:
    """``requests`` holds what came; who sends another key than ``key`` is told so, with the key he sent."""

    def __init__(self, key: str) -> None:
        self.requests: list[dict[str, Any]] = []
        owner, encoder = self, HashingEmbedding()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                owner.requests.append(body)
                sent = self.headers.get("authorization", "").removeprefix("Bearer ")
                if sent != key:
                    self._send(401, {"error": {"message": f"Incorrect API key provided: {sent}."}})
                    return
                vectors = encoder.get_text_embedding_batch(body["input"])
                if body.get("encoding_format") == "base64":
                    vectors = [base64.b64encode(np.array(v, "<f4").tobytes()).decode() for v in vectors]
                rows = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
                self._send(200, {"object": "list", "model": body["model"], "data": rows[::-1]})

            def _send(self, status: int, answer: dict[str, Any]) -> None:
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Keep the test output clean."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def embeddings_server(key: str) -> Iterator[EmbeddingsServer]:
    server = EmbeddingsServer(key)
    try:
        yield server
    finally:
        server.close()
