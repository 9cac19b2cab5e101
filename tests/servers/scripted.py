"""A server on this machine that speaks OpenAI's protocol and answers what it is told, one reply a request."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from llama_index.llms.openai_like import OpenAILike


class JsonServer:
    """A server on a free port until its ``with`` block ends; ``requests`` holds the bodies of what came."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                owner.requests.append(body)
                key = self.headers.get("authorization", "").removeprefix("Bearer ")
                status, reply = owner.replied(self.path, key, body)
                stream = isinstance(reply, bytes)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-type", "text/event-stream" if stream else "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Keep the test output clean."""

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128  # the usual five are refused in a crowd

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def replied(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and JSON, or the bytes of a stream."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()


def call(**arguments: Any) -> dict[str, Any]:
    """A reply that calls the tool it was offered."""
    return {"tool": json.dumps(arguments)}


def letters(**chances: float) -> dict[str, Any]:
    """A reply of one token with the probabilities of the likeliest ones; ``_A`` stands for " A"."""
    tokens = {token.replace("_", " "): math.log(chance) for token, chance in chances.items()}
    return {
        "logprobs": [{"token": token, "logprob": value, "bytes": None} for token, value in tokens.items()]
    }


def refusal(message: str, status: int = 400) -> dict[str, Any]:
    """A reply that says why there is none."""
    return {"status": status, "message": message}


# What stands in a request, and what it then asks for; the first two are those of LlamaIndex's own rerankers.
_MARKS = {
    "The relevance score is a number": "LLMRerank",
    "You are RankGPT": "RankGPTRerank",
    "formulate a good natural-language search query": "query",
    "Think step by step": "reasoning",
    "numbers of the": "ranking",
}


def asked_for(body: dict[str, Any]) -> str:
    """Return what a request asks for: "letters", "tool", or one of `_MARKS`; else "text"."""
    for field, kind in (("logprobs", "letters"), ("tools", "tool")):
        if body.get(field):
            return kind
    return next((kind for mark, kind in _MARKS.items() if mark in _said(body)), "text")


def _said(body: dict[str, Any]) -> str:
    return "\n".join(str(message["content"]) for message in body["messages"])


def sensible(body: dict[str, Any]) -> str | dict[str, Any]:
    """Answer as a model does that understands what it is asked, and likes what is listed last."""
    pattern = re.compile(r"^\[?(?:Document )?(\d+)[.\]:]", re.MULTILINE)
    count = 0
    for number in map(int, pattern.findall(_said(body))):  # other numbers are years and titles
        count += number == count + 1
    best = range(count, 0, -1)[:10]
    replies: dict[str, Any] = {
        "letters": letters(A=0.2, C=0.6),
        "tool": call(ranking=[str(number) for number in best]),
        "query": "a tense film in space with a mystery",
        "reasoning": "The seeker likes space and a mystery.",
        "LLMRerank": "\n".join(f"Doc: {number}, Relevance: 7" for number in best),
        "RankGPTRerank": " > ".join(f"[{number}]" for number in best),
        "text": "Gladly.",
    }
    return replies.get(asked_for(body), ", ".join(map(str, best)))


class ScriptedServer(JsonServer):
    """``script`` holds the replies to come; ``answer`` replies behind the script.

    A reply is a text, `call`, `letters`, a status or a `refusal`, or ``{"body": ...}`` as it is. Streams are
    sent in the words of a text, or in the pieces of a list.
    """

    def __init__(self) -> None:
        super().__init__()
        self.script: list[str | int | list[Any] | dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Any] | None = None

    def replied(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, Any]:
        reply = self.answer(body) if self.answer and not self.script else self.script.pop(0)
        if isinstance(reply, int):
            reply = refusal("broken", reply)
        told = reply if isinstance(reply, dict) else {}
        status = told.get("status", 200)
        if status != 200:
            return status, {"error": {"message": told["message"]}}
        if body.get("stream"):
            return 200, _events(reply)
        if "body" in told:
            return 200, told["body"]
        if "tool" in told:
            tools = body.get("tools") or [{"function": {"name": "none_was_offered"}}]
            reply = {**told, "name": str(tools[0]["function"]["name"])}
        return 200, (_completion if path.endswith("/chat/completions") else _text_completion)(reply)


def _events(reply: Any) -> bytes:
    """A reply as a stream: a list is its pieces as they are, a text comes word by word."""
    pieces = reply
    if isinstance(reply, str):
        deltas = [{"role": "assistant", "content": f"{word} "} for word in reply.split(" ")]
        pieces = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    frame = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    lines = [f"data: {json.dumps({**frame, **piece})}\n\n" for piece in pieces]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def completed(kind: str, **choice: Any) -> dict[str, Any]:
    """A whole completion of one choice."""
    choices = [{"index": 0, "finish_reason": "stop", **choice}]
    return {"id": "x", "object": kind, "created": 0, "model": "m", "choices": choices}


def _completion(reply: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply if isinstance(reply, str) else None}
    more: dict[str, Any] = {}
    if isinstance(reply, dict) and "tool" in reply:
        function = {"name": reply["name"], "arguments": reply["tool"]}
        message["tool_calls"] = [{"id": "c1", "type": "function", "function": function}]
    if isinstance(reply, dict) and "logprobs" in reply:
        top = reply["logprobs"]
        message["content"] = top[0]["token"]
        more["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return completed("chat.completion", message=message, **more)


def _text_completion(reply: Any) -> dict[str, Any]:
    if isinstance(reply, str):
        return completed("text_completion", text=reply)
    top = {entry["token"]: entry["logprob"] for entry in reply["logprobs"]}
    return completed("text_completion", text=next(iter(top)), logprobs={"top_logprobs": [top]})


def client(server: Any, kind: type[OpenAILike] = OpenAILike, **options: Any) -> OpenAILike:
    """An LLM that asks a server of the tests, or a proxy before it, and never again by itself."""
    settings = {"is_chat_model": True, "max_retries": 0, "timeout": 20, "context_window": 8192}
    return kind(**{"model": "m", "api_base": server.url, "api_key": "none"} | settings | options)


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server
