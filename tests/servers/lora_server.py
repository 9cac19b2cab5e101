"""A small OpenAI-compatible server over a real `LocalLM`, for what ``transformers serve`` leaves out.

That one ignores ``logprobs`` and ``response_format``, serves no LoRA modules and asks for no key; vLLM does
all of it. Here the model's adapters are models of their own names as with vLLM, logprobs are those of the
model's next token, a JSON schema limits what is decoded, and a wrong key is answered as careless servers do
it: with the key.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from llama_index.core.base.llms.types import ChatMessage

from reges_index import LocalLM
from tests.servers.scripted import JsonServer, completed


class LoraServer(JsonServer):
    def __init__(self, lm: LocalLM, *, key: str, base: str = "base") -> None:
        self.lm, self.key, self.base = lm, key, base
        super().__init__()

    def replied(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, Any]:
        if key != self.key:
            told = {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}
            return 401, {"error": told}
        model = body["model"]
        if model != self.base and not self.lm.has_adapter(model):
            return 404, {"detail": f"The model `{model}` does not exist."}
        adapter = model if self.lm.has_adapter(model) else None
        if path.endswith("/chat/completions"):
            messages = [ChatMessage(role=m["role"], content=m["content"]) for m in body["messages"]]
            text, top = self._written(messages, adapter, body, int(body.get("top_logprobs") or 0))
            entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top]
            more = {"logprobs": {"content": [{**entries[0], "top_logprobs": entries}]}} if top else {}
            message = {"role": "assistant", "content": text}
            return 200, completed("chat.completion", message=message, **more)
        text, top = self._written(body["prompt"], adapter, body, int(body.get("logprobs") or 0))
        more = {"logprobs": {"top_logprobs": [dict(top)]}} if top else {}
        return 200, completed("text_completion", text=text, **more)

    def _written(
        self, prompt: Any, adapter: str | None, body: dict[str, Any], top: int
    ) -> tuple[str, list[tuple[str, float]]]:
        if top:
            listed = next_tokens(self.lm, prompt, adapter, top)
            return listed[0][0], listed
        schema = (body.get("response_format") or {}).get("json_schema")
        if schema is not None:
            [(name, field)] = schema["schema"]["properties"].items()
            answers = [json.dumps({name: value}) for value in field["enum"]]
            return answers[self.lm.choose(prompt, answers, adapter=adapter)], []
        limit = int(body.get("max_tokens") or 16)
        [[written]] = self.lm.generate([prompt], adapter=adapter, max_new_tokens=limit)
        return written.text, []


def next_tokens(lm: LocalLM, prompt: Any, adapter: str | None, count: int) -> list[tuple[str, float]]:
    """The model's likeliest next tokens with their log-probabilities, best first."""
    ids = torch.tensor([lm.encode(prompt)], device=lm.model.device)
    with lm._using(adapter), torch.inference_mode():
        logits = lm.model(input_ids=ids).logits[0, -1].float()
    values, tokens = torch.log_softmax(logits, -1).topk(count)
    # Several tokens of a byte-level vocabulary may read the same; a JSON object keeps the last of them.
    texts = [lm.tokenizer.decode([token]) for token in tokens.tolist()]
    return list(zip(texts, values.tolist(), strict=True))
