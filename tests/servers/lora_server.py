"""A small OpenAI-compatible server over a real `LocalLM`, for what ``transformers serve`` leaves out.

That one ignores ``logprobs`` and ``response_format``, serves no LoRA modules and asks for no key; vLLM does
all of it. Here the model's adapters are models of their own names as with vLLM, logprobs are those of the
model's next token, a JSON schema limits what is decoded, and a wrong key is answered as careless servers do
it: with the key.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from llama_index.core.base.llms.types import ChatMessage

from reges_index import LocalLM
from tests.servers.transformers_serve import free_port


class LoraServer:
    """``url`` is what a client needs; ``asked`` the bodies of all requests."""

    def __init__(self, lm: LocalLM, *, key: str, base: str) -> None:
        self.lm, self.key, self.base = lm, key, base
        self.asked: list[dict[str, Any]] = []
        app = FastAPI()
        app.post("/v1/chat/completions")(self.chat)
        app.post("/v1/completions")(self.complete)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        self._server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until = time.monotonic() + 60
        while not self._server.started:
            if time.monotonic() > until:
                raise RuntimeError("the server did not start")
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    # Plain functions: FastAPI runs them in threads, and the LocalLM has its lock.

    def chat(self, request: Request, body: dict[str, Any]) -> Any:
        refusal = self._refusal(request, body)
        if refusal is not None:
            return refusal
        messages = [ChatMessage(role=m["role"], content=m["content"]) for m in body["messages"]]
        text, top = self._answer(messages, body, int(body.get("top_logprobs") or 0))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        if top is not None:
            entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top]
            choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
        return _reply("chat.completion", body, choice)

    def complete(self, request: Request, body: dict[str, Any]) -> Any:
        refusal = self._refusal(request, body)
        if refusal is not None:
            return refusal
        text, top = self._answer(body["prompt"], body, int(body.get("logprobs") or 0))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "text": text}
        if top is not None:
            choice["logprobs"] = {
                "tokens": [top[0][0]],
                "token_logprobs": [top[0][1]],
                "top_logprobs": [dict(top)],
            }
        return _reply("text_completion", body, choice)

    def _refusal(self, request: Request, body: dict[str, Any]) -> JSONResponse | None:
        self.asked.append(body)
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key != self.key:
            told = {"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}}
            return JSONResponse(told, 401)
        if body["model"] != self.base and not self.lm.has_adapter(body["model"]):
            raise HTTPException(404, f"The model `{body['model']}` does not exist.")
        return None

    def _answer(
        self, prompt: Any, body: dict[str, Any], top: int
    ) -> tuple[str, list[tuple[str, float]] | None]:
        adapter = body["model"] if self.lm.has_adapter(body["model"]) else None
        if top:
            listed = next_tokens(self.lm, prompt, adapter, top)
            return listed[0][0], listed
        schema = (body.get("response_format") or {}).get("json_schema")
        if schema is not None:
            [(name, field)] = schema["schema"]["properties"].items()
            answers = [json.dumps({name: value}) for value in field["enum"]]
            return answers[self.lm.choose(prompt, answers, adapter=adapter)], None
        limit = int(body.get("max_tokens") or 16)
        [[written]] = self.lm.generate([prompt], adapter=adapter, max_new_tokens=limit)
        return written.text, None


def next_tokens(lm: LocalLM, prompt: Any, adapter: str | None, count: int) -> list[tuple[str, float]]:
    """The model's likeliest next tokens with their log-probabilities, best first."""
    ids = torch.tensor([lm.encode(prompt)], device=lm.model.device)
    with lm._using(adapter), torch.inference_mode():
        logits = lm.model(input_ids=ids).logits[0, -1].float()
    values, tokens = torch.log_softmax(logits, -1).topk(count)
    # Several tokens of a byte-level vocabulary may read the same; a JSON object keeps the last of them.
    texts = [lm.tokenizer.decode([token]) for token in tokens.tolist()]
    return list(zip(texts, values.tolist(), strict=True))


def _reply(kind: str, body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "x", "object": kind, "created": 0, "model": body["model"], "choices": [choice]}


@contextmanager
def lora_server(lm: LocalLM, *, key: str, base: str = "base") -> Iterator[LoraServer]:
    server = LoraServer(lm, key=key, base=base)
    try:
        yield server
    finally:
        server.close()
