"""``LocalLM`` as a LlamaIndex ``LLM``, so that every component that takes an ``llm`` takes it too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM

from reges_index.errors import InputError
from reges_index.models.generation import Generation, TextStream
from reges_index.models.local_lm import LocalLM, Prompt

_PER_CALL = ("max_new_tokens", "temperature", "top_p", "stop", "no_repeat_ngram_size")


class ReGeSLLM(LLM):
    """A :class:`LocalLM` with one adapter, or with none, in LlamaIndex's interface.

    What a caller passes to a single call (``max_tokens`` or ``max_new_tokens``, ``temperature``, ``top_p``,
    ``stop``, ``no_repeat_ngram_size``, ``seed``, ``adapter``) overrides the fields
    below; anything else is an :class:`InputError`. ``complete`` wraps the prompt as one user message if the
    model has a chat template and ``formatted`` is not set; else the prompt is raw text. The async methods
    run in a thread. Token counts are in ``response.additional_kwargs``.

    Parameters
    ----------
    local_lm
        The model.
    adapter
        Name of one of its adapters.
    **fields
        The fields below.
    """

    adapter: str | None = Field(default=None, description="adapter to use; none is the bare base")
    max_new_tokens: int = Field(default=256, gt=0, description="longest answer, in tokens")
    temperature: float = Field(default=0.0, ge=0, description="0 is greedy")
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: list[str] = Field(default_factory=list, description="texts at which an answer ends")
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    seed: int | None = Field(default=None, description="seed of sampling")

    _local_lm: LocalLM = PrivateAttr()

    def __init__(self, local_lm: LocalLM, *, adapter: str | None = None, **fields: Any) -> None:
        local_lm.check_known(adapter)
        super().__init__(**{**fields, "adapter": adapter})
        self._local_lm = local_lm

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex shows."""
        return "ReGeSLLM"

    @property
    def local_lm(self) -> LocalLM:
        """The model behind it."""
        return self._local_lm

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex's prompt helpers ask for."""
        return LLMMetadata(
            context_window=self._local_lm.context_window,
            num_output=self.max_new_tokens,
            model_name=self._local_lm.name,
            is_chat_model=True,
        )

    # -- LlamaIndex's eight verbs --------------------------------------------------------------------------

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer chat messages."""
        return chat_response(self._generate(list(messages), kwargs))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt; ``formatted`` says that it holds the chat template already."""
        return _completion(chat_response(self._generate(self._as_prompt(prompt, formatted), kwargs)))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer chat messages, in a thread."""
        return chat_response(await asyncio.to_thread(self._generate, list(messages), kwargs))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, in a thread."""
        made = await asyncio.to_thread(self._generate, self._as_prompt(prompt, formatted), kwargs)
        return _completion(chat_response(made))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer chat messages piece by piece."""
        return _pieces(self._stream(list(messages), kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        pieces = _pieces(self._stream(self._as_prompt(prompt, formatted), kwargs))
        return (_completion(piece) for piece in pieces)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer chat messages piece by piece, without blocking the loop."""
        return _apieces(await asyncio.to_thread(self._stream, list(messages), kwargs))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece, without blocking the loop."""
        stream = await asyncio.to_thread(self._stream, self._as_prompt(prompt, formatted), kwargs)
        return (_completion(piece) async for piece in _apieces(stream))

    def _as_prompt(self, prompt: str, formatted: bool) -> Prompt:
        if formatted or not self._local_lm.has_chat_template:
            return prompt
        return [ChatMessage(role=MessageRole.USER, content=prompt)]

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        given = dict(kwargs)
        if "max_tokens" in given:
            if "max_new_tokens" in given:
                raise InputError("max_tokens and max_new_tokens mean the same", hint="give one of them")
            given["max_new_tokens"] = given.pop("max_tokens")
        known = ("adapter", "seed", *_PER_CALL)
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(
                f"ReGeSLLM does not know the argument {', '.join(unknown)}",
                hint=f"known: max_tokens, {', '.join(known)}",
            )
        fields: dict[str, Any] = {name: getattr(self, name) for name in known}
        # None means "as it is set" to LlamaIndex's callers; for adapter and seed it is a value of its own.
        fields.update({k: v for k, v in given.items() if v is not None or k in ("adapter", "seed")})
        return fields

    def _generate(self, prompt: Prompt, kwargs: dict[str, Any]) -> Generation:
        return self._local_lm.generate([prompt], **self._options(kwargs))[0][0]

    def _stream(self, prompt: Prompt, kwargs: dict[str, Any]) -> TextStream:
        return self._local_lm.stream(prompt, **self._options(kwargs))


def chat_response(generation: Generation) -> ChatResponse:
    """Return an answer as LlamaIndex's chat response, with its token counts."""
    return _piece(generation.text, None, generation)


def _piece(text: str, delta: str | None, whole: Generation | None) -> ChatResponse:
    """Return an answer so far; token counts are under the names that LlamaIndex's token counter reads."""
    counts: dict[str, Any] = {}
    if whole is not None:
        counts = {
            "prompt_tokens": whole.prompt_tokens,
            "completion_tokens": whole.new_tokens,
            "total_tokens": whole.prompt_tokens + whole.new_tokens,
            "finish_reason": whole.finish_reason,
        }
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    return ChatResponse(message=message, delta=delta, additional_kwargs=counts, raw={"usage": counts})


def _completion(said: ChatResponse) -> CompletionResponse:
    return CompletionResponse(
        text=said.message.content or "",
        delta=said.delta,
        additional_kwargs=said.additional_kwargs,
        raw=said.raw,
    )


def _pieces(stream: TextStream) -> Generator[ChatResponse, None, None]:
    """Yield a response per piece, and a last one with the token counts."""
    with stream:
        text = ""
        for delta in stream:
            text += delta
            yield _piece(text, delta, None)
        if stream.result is not None:
            yield _piece(text, "", stream.result)


async def _apieces(stream: TextStream) -> AsyncGenerator[ChatResponse, None]:
    with stream:
        text = ""
        while (delta := await asyncio.to_thread(next, stream, None)) is not None:
            text += delta
            yield _piece(text, delta, None)
        if stream.result is not None:
            yield _piece(text, "", stream.result)
