"""From chat messages to token ids, so that no text can pass for a part of the template.

The model's own chat template is applied exactly once. Text inside messages that equals a special token, or
one of the template's own markers such as ``[INST]`` or ``<|user|>``, is broken up by a space before the
template sees it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from llama_index.core.base.llms.types import ChatMessage, TextBlock

from reges_index.errors import InputError, ModelError

logger = logging.getLogger(__name__)

_MARKER = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]|<<[^<>\s]{1,20}>>|#{2,}[ ]?\w[\w ]{0,30}:?")
"""What templates use as plain-text markers: ``<|user|>``, ``[INST]``, ``<<SYS>>``, ``### Instruction:``."""


class ChatFrame:
    """What a tokenizer does to messages and answers.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer. Without a chat template, messages become lines "User: ...",
        "Assistant: ...", and a warning is logged once.
    eos_token_id
        The model's end token(s), used when the template does not show one.
    """

    def __init__(self, tokenizer: Any, eos_token_id: int | Sequence[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self._model_eos = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
        self._warned: set[str] = set()

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer brings a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def _added(self) -> dict[int, Any]:
        """Tokens that were added to the vocabulary by name, special or not."""
        return getattr(self.tokenizer, "added_tokens_decoder", {})

    @cached_property
    def end_token_id(self) -> int:
        """The token that ends an answer: what the template puts after an assistant's message.

        For SmolLM2 that is ``<|im_end|>``, for Gemma ``<end_of_turn>`` and not ``<eos>``. Without a template
        it is the tokenizer's end token.
        """
        stops = {*self._model_eos, *self.tokenizer.all_special_ids}
        stops.update(id_ for id_, token in self._added.items() if token.special)
        if self.has_template:
            probe = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
            text = self.tokenizer.apply_chat_template(probe, tokenize=False)
            tail = self._tokenize(text[text.rindex("answer") + len("answer") :])
            found = next((token for token in tail if token in stops), None)
            if found is not None:
                return found
        if self.tokenizer.eos_token_id is not None:
            return int(self.tokenizer.eos_token_id)
        if self._model_eos:
            return self._model_eos[0]
        raise ModelError(
            "the tokenizer has no end token, so an answer cannot be told from the start of a longer one",
            hint="set tokenizer.eos_token, or use a model that has one",
        )

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Every token at which generation ends, the template's first."""
        ids = [self.end_token_id, *self._model_eos]
        if self.tokenizer.eos_token_id is not None:
            ids.append(int(self.tokenizer.eos_token_id))
        return list(dict.fromkeys(ids))

    @cached_property
    def _forbidden(self) -> re.Pattern[str]:
        """Strings that must not occur in text, longest first."""
        markers = {str(token) for token in self.tokenizer.all_special_tokens}
        template = self._template_text()
        for token in self._added.values():
            # Gemma lists runs of spaces and HTML tags as added tokens: they are text unless the template uses
            # them.
            if token.special or (token.content.strip() and token.content in template):
                markers.add(token.content)
        markers.update(_MARKER.findall(template))
        # White space around a marker is left out: text with a space put into it would match again.
        ordered = sorted({m.strip() for m in markers if len(m.strip()) > 1}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, ordered)) or r"(?!)", re.IGNORECASE)

    def _template_text(self) -> str:
        """Write the frame around short conversations that say nothing."""
        if not self.has_template:
            return ""
        probes = [["user", "assistant", "user"], ["system", "user", "assistant", "user"]]
        frames = []
        for roles in probes:
            messages = [{"role": role, "content": "x"} for role in roles]
            try:
                frames.append(
                    self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                )
            except TemplateError:
                logger.debug("the chat template takes no %s message first", roles[0])
        return "\n".join(frames)

    def break_up(self, text: str) -> str:
        """Put a space after the first character of anything in ``text`` that could pass for the template."""
        # A space cannot complete another marker, but breaking one can leave a shorter one inside it.
        while self._forbidden.search(text):
            text = self._forbidden.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        return text

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """Apply the chat template once, with the opening of the assistant's answer at the end.

        A template that refuses a system message, or two messages of one role in a row, is given the same
        text with the system message put before the first user message and neighbours of one role joined.

        Raises
        ------
        InputError
            For no messages, or a message with anything but text in it.
        ModelError
            If the template refuses the conversation.
        """
        if not messages:
            raise InputError("no messages to make a prompt of", hint="give at least one ChatMessage")
        plain = [
            {"role": message.role.value, "content": self.break_up(_text(message, number))}
            for number, message in enumerate(messages)
        ]
        if not self.has_template:
            return self._render_plainly(plain)
        try:
            return str(self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))
        except TemplateError as refusal:
            logger.debug("chat template refused the messages as they are: %s", refusal)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    _alternate(plain), tokenize=False, add_generation_prompt=True
                )
            )
        except TemplateError as refusal:
            roles = ", ".join(message["role"] for message in plain[:8])
            raise ModelError(
                f"the model's chat template refused the messages ({roles}): {refusal}",
                hint="begin with a user message and let user and assistant take turns",
            ) from refusal

    def _render_plainly(self, messages: Sequence[dict[str, str]]) -> str:
        if "template" not in self._warned:
            self._warned.add("template")
            logger.warning(
                "this tokenizer has no chat template: messages are written as 'User: ...' and "
                "'Assistant: ...' lines; an instruction-tuned model will do better"
            )
        # Continuation lines are indented, so that no text can begin a line with a role of its own.
        lines = [f"{m['role'].capitalize()}: " + "\n  ".join(m["content"].splitlines()) for m in messages]
        return "\n".join([*lines, "Assistant:"])

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of the rendered messages; the template brings its own beginning token, if any."""
        text = self.render(messages)
        if self.has_template:
            return self._tokenize(text)
        return self.encode_raw(text)

    def encode_raw(self, text: str) -> list[int]:
        """Token ids of raw text, verbatim, with a beginning token where the tokenizer adds one."""
        ids = self.tokenizer(text, add_special_tokens=True)["input_ids"]
        # Some tokenizers (T5 and BERT kin) also add an end token, after which a model would not continue.
        while (
            len(ids) > 1
            and ids[-1] == self.tokenizer.eos_token_id
            and not text.endswith(str(self.tokenizer.eos_token))
        ):
            ids = ids[:-1]
        return list(ids)

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer as it follows the prompt, with the end token: for scoring and training."""
        return [*self._tokenize(self.break_up(text)), self.end_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _text(message: ChatMessage, number: int) -> str:
    """Text of a message; several text blocks are joined by line breaks."""
    other = [type(block).__name__ for block in message.blocks if not isinstance(block, TextBlock)]
    if other:
        raise InputError(
            f"message {number} ({message.role.value}) holds {', '.join(other)}; this model reads text only",
            hint="leave out images, audio and documents, or put their text into the message",
        )
    return "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))


def _alternate(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Join what a strict template will not take apart: system into user, neighbours of one role."""
    joined: list[dict[str, str]] = []
    for message in messages:
        role = "user" if message["role"] not in ("user", "assistant") else message["role"]
        if joined and joined[-1]["role"] == role:
            joined[-1] = {"role": role, "content": f"{joined[-1]['content']}\n\n{message['content']}"}
        else:
            joined.append({"role": role, "content": message["content"]})
    return joined
