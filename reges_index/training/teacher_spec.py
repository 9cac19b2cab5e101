"""A teacher by name, for the command line and recipes: local models and OpenAI-compatible servers."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llama_index.core.llms.llm import LLM

from reges_index.errors import ConfigError
from reges_index.models.local_lm import LocalLM

if TYPE_CHECKING:
    from reges_index.training.teacher import TeacherSettings

__all__ = ["TEACHER_HELP", "open_teacher"]

TEACHER_HELP = (
    '"embedded"; a model\'s folder or hub name; "openai-like:MODEL@URL" for a server that speaks OpenAI\'s '
    'protocol, URL with its /v1 (key from OPENAI_LIKE_API_KEY, if it wants one); "openai:MODEL" (key from '
    "OPENAI_API_KEY)"
)


def open_teacher(spec: str, settings: TeacherSettings, *, max_answer_tokens: int = 512) -> LLM | LocalLM:
    """Open the LLM that ``spec`` names.

    Keys come from the environment only, so that they stand in no recipe, history or process list.

    Parameters
    ----------
    spec
        See `TEACHER_HELP`.
    settings
        Gives the request time-out. Retries are `Teacher`'s, so the client's own are switched off.
    max_answer_tokens
        Limit that is sent to a server.

    Raises
    ------
    ConfigError
        If the name is malformed, a key is missing, or the client library is not installed.
    ModelNotFoundError
        If a local model is nowhere to be found.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in ("openai", "openai-like"):
        if not spec.strip():
            raise ConfigError("the teacher's name is empty", hint=TEACHER_HELP)
        return LocalLM.from_pretrained(spec)
    try:
        from llama_index.llms.openai import OpenAI
        from llama_index.llms.openai_like import OpenAILike
    except ImportError as error:
        raise ConfigError(
            f"the teacher {spec!r} needs LlamaIndex's OpenAI client",
            hint="pip install 'reges-index[llms]'",
        ) from error
    if kind == "openai":
        key = os.environ.get("OPENAI_API_KEY", "")
        if not rest or not key:
            missing = "the environment variable OPENAI_API_KEY" if rest else "a model's name"
            raise ConfigError(f"the teacher {spec!r} needs {missing}", hint=TEACHER_HELP)
        official: LLM = OpenAI(
            model=rest, api_key=key, max_retries=0, timeout=settings.timeout_s, temperature=0.0,
            max_tokens=max_answer_tokens, reuse_client=False,
        )  # fmt: skip
        return official
    named = re.fullmatch(r"(.+?)@(https?://.+)", rest)
    parts = urlsplit(named[2]) if named else None
    if named is None or parts is None or not parts.hostname:
        raise ConfigError(
            f"the teacher {spec!r} is not of the form openai-like:MODEL@URL",
            hint="for example openai-like:llama3.1@http://localhost:11434/v1",
        )
    if parts.username or parts.password:
        raise ConfigError(
            "the teacher's URL holds a user name or password",  # not repeated here: it would be printed
            hint="set OPENAI_LIKE_API_KEY instead",
        )
    teacher: LLM = OpenAILike(
        model=named[1], api_base=named[2], api_key=os.environ.get("OPENAI_LIKE_API_KEY", "not-needed"),
        is_chat_model=True, max_retries=0, timeout=settings.timeout_s, temperature=0.0,
        max_tokens=max_answer_tokens,
        # The context window of the server's model is not known here; ours is the limit that counts.
        context_window=settings.max_input_tokens + max_answer_tokens, reuse_client=False,
    )  # fmt: skip
    return teacher
