"""A teacher by name, for the command line and recipes: local models and OpenAI-compatible servers."""

from __future__ import annotations

from llama_index.core.llms.llm import LLM

from reges_index.errors import ConfigError
from reges_index.models.api_names import api_kind, open_api_llm
from reges_index.models.local_lm import LocalLM
from reges_index.training.teacher import ANSWER_TOKENS, TeacherSettings

__all__ = ["TEACHER_HELP", "open_teacher"]

TEACHER_HELP = (
    '"embedded"; a model\'s folder or hub name; "openai-like:MODEL@URL" for a server that speaks OpenAI\'s '
    'protocol, URL with its /v1 (key from OPENAI_LIKE_API_KEY, if it wants one); "openai:MODEL" (key from '
    "OPENAI_API_KEY)"
)


def open_teacher(spec: str, settings: TeacherSettings) -> LLM | LocalLM:
    """Open the LLM that ``spec`` names.

    Keys come from the environment only, so that they stand in no recipe, history or process list.

    Parameters
    ----------
    spec
        See `TEACHER_HELP`.
    settings
        Gives the request time-out and the limit of an answer (`ANSWER_TOKENS` where there is none), which is
        sent to a server. Retries are `Teacher`'s, so the client's own are switched off.

    Raises
    ------
    ConfigError
        If the name is malformed, a key is missing, or the client library is not installed.
    ModelNotFoundError
        If a local model is nowhere to be found.
    """
    kind = api_kind(spec)
    if kind is None:
        if not spec.strip():
            raise ConfigError("the teacher's name is empty", hint=TEACHER_HELP)
        return LocalLM.from_pretrained(spec)
    longest = settings.max_new_tokens or ANSWER_TOKENS
    options = {
        "max_retries": 0,
        "timeout": settings.timeout_s,
        "temperature": 0.0,
        "max_tokens": longest,
        "reuse_client": False,
    }
    if kind == "openai-like":
        # The context window of the server's model is not known here; ours is the limit that counts.
        options["context_window"] = settings.max_input_tokens + longest
    return open_api_llm(spec, options, called="teacher", forms=TEACHER_HELP)
