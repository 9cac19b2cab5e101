"""A causal LM with its tokenizer: what it is, and texts as the tokens that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import ChatMessage

from reges_index.errors import InputError, ModelError
from reges_index.models.chat_frame import ChatFrame
from reges_index.models.fingerprint import base_fingerprint

__all__ = ["Prompt", "TokenizedModel"]

Prompt: TypeAlias = str | Sequence[ChatMessage]
"""Raw text, taken verbatim, or chat messages, to which the model's chat template is applied once."""


class TokenizedModel:
    """A model and its tokenizer; nothing here runs the model. Parameters as for `LocalLM`."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str | None) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self.name = name or str(getattr(model, "name_or_path", "") or type(model).__name__)
        self._frame = ChatFrame(tokenizer, model.generation_config.eos_token_id)

    @property
    def model(self) -> Any:
        """The Hugging Face model; its adapters are switched off whenever no method runs."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self._tokenizer

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer brings a chat template."""
        return self._frame.has_template

    @property
    def end_token_id(self) -> int:
        """The token that ends an answer (the chat template's, where there is one)."""
        return self._frame.end_token_id

    @cached_property
    def context_window(self) -> int:
        """Tokens that prompt and answer may have together."""
        config = self._model.config.get_text_config()
        limits = [getattr(config, "max_position_embeddings", None), getattr(config, "n_positions", None)]
        # Tokenizers without a limit say 10^30.
        limits.append(getattr(self._tokenizer, "model_max_length", None))
        known = [int(limit) for limit in limits if limit and limit < 10**8]
        if not known:
            raise ModelError(
                f"neither the config nor the tokenizer of {self.name} says how long its context is",
                hint="set model.config.max_position_embeddings",
            )
        return min(known)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what an adapter depends on: architecture, sizes and vocabulary."""
        return base_fingerprint(self._model.config, self._tokenizer)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of ``text``, without any that a template or the tokenizer puts around it."""
        return len(self._frame.encode_answer(text)) - 1

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of chat messages, the chat template applied once and opened for the answer.

        Text that equals a special token or a marker of the template is broken up by a space, so that no
        message can imitate the template. Without a chat template messages become "User: ..." lines and a
        warning is logged.
        """
        return self._frame.encode(messages)

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer as scored by `LocalLM.score`, end token included: what training aims at."""
        return self._frame.encode_answer(text)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; a ``str`` is raw text, taken verbatim.

        Raises
        ------
        InputError
            If it is empty, or leaves no room for an answer in the context window. Nothing is cut here.
        """
        ids = self._frame.encode_raw(prompt) if isinstance(prompt, str) else self.encode_chat(prompt)
        if not ids:
            raise InputError("the prompt is empty", hint="give text or messages")
        return ids

    def _encode_within(self, prompt: Prompt, room: int) -> list[int]:
        ids = self.encode(prompt)
        if len(ids) + room > self.context_window:
            raise InputError(
                f"a prompt of {len(ids)} tokens and {room} for the answer do not fit into the "
                f"{self.context_window} tokens of {self.name}",
                hint="shorten the prompt (the experts cut dialogues and abstracts), or ask for less",
            )
        return ids

    def _encode_choices(
        self, prompt: Prompt, choices: Sequence[str], answer_start: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        if isinstance(choices, str) or not choices:
            raise InputError("there is nothing to choose from", hint="give a list of one or more texts")
        empty = next((number for number, choice in enumerate(choices) if not choice.strip()), None)
        if empty is not None:
            raise InputError(f"choice {empty} is empty", hint="leave it out, or give it a text")
        answers = [self.encode_answer(choice) for choice in choices]
        start = self.encode_answer(answer_start)[:-1] if answer_start else []
        return [*self._encode_within(prompt, len(start) + max(map(len, answers))), *start], answers
