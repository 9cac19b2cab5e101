"""A small server that speaks OpenAI's chat protocol, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False  # close the connection in the middle of the body
    hang_up: bool = False  # close it without a word
    usage: bool = True
    finish: str = "stop"


Script = Callable[[str, int], Reply]
"""From the prompt and the number of requests so far (this one not counted) to the reply."""


class ChatServer:
    """Counts what it is asked; ``url`` is what a client needs."""

    def __init__(self, script: Script) -> None:
        self.prompts: list[str] = []
        self.keys: set[str] = set()
        self.limits: list[int | None] = []  # of answers, in tokens
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with owner._lock:
                    number = len(owner.prompts)
                    prompt = body["messages"][-1]["content"]
                    owner.prompts.append(prompt)
                    owner.limits.append(body.get("max_tokens"))
                    owner.keys.add(self.headers.get("authorization", ""))
                    owner._now += 1
                    owner.most_at_once = max(owner.most_at_once, owner._now)
                try:
                    owner._answer(self, script(prompt, number))
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client gave up waiting, as some tests want it to
                finally:
                    with owner._lock:
                        owner._now -= 1

            def log_message(self, *args: Any) -> None:
                """Keep the test output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.delay_s)
        if reply.hang_up:
            handler.close_connection = True
            return
        if reply.status != 200:
            content: dict[str, Any] = {"error": {"message": reply.text or "no", "type": "test"}}
        else:
            content = {
                "id": "x", "object": "chat.completion", "created": 0, "model": "teacher",
                "choices": [
                    {
                        "index": 0, "finish_reason": reply.finish,
                        "message": {"role": "assistant", "content": reply.text},
                    }
                ],
            }  # fmt: skip
            if reply.usage:
                content["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        body = json.dumps(content).encode()
        handler.send_response(reply.status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if reply.cut else body)
        handler.close_connection = reply.cut

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def chat_server(script: Script) -> Iterator[ChatServer]:
    server = ChatServer(script)
    try:
        yield server
    finally:
        server.close()
