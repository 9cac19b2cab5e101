"""`PipelineSettings`: everything that decides how a pipeline answers, as plain values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from reges_index.errors import ConfigError

__all__ = [
    "AUTO",
    "FORMERLY",
    "GIVEN",
    "NONE",
    "SHIPPED",
    "DecodingSettings",
    "PipelineSettings",
    "ReasoningSettings",
]

GIVEN = "given"
"""In place of a name: an object without one, which whoever builds the pipeline passes to `build_engine`."""
SHIPPED, NONE, AUTO = "shipped", "none", "auto"
FORMERLY: Mapping[str, bool] = {"hide_ruled_out": False}
"""Settings that came later, and what all was made with before: a record without them was made with these."""

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class DecodingSettings(BaseModel):
    """How queries are written; the fields and defaults of `reges_index.QueryDecoding`."""

    model_config = _FROZEN

    max_new_tokens: int = Field(default=64, ge=1)
    num_queries: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.7, ge=0)
    no_repeat_ngram_size: int = Field(default=3, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0)
    context_messages: int = Field(default=0, ge=0)
    seed: int = 0


class ReasoningSettings(BaseModel):
    """How chain of thought is written; as `reges_index.item_expert.reasoning.ReasoningDecoding`."""

    model_config = _FROZEN

    max_new_tokens: int = Field(default=160, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    no_repeat_ngram_size: int = Field(default=6, ge=0)
    one_line: bool | None = None


class PipelineSettings(BaseModel):
    """What a `ReGeSQueryEngine` consists of, without its catalog's data and without any secret.

    Frozen; unknown keys are refused. Keys and passwords are no part of it: clients take them from the
    environment. None leaves a value to the adapter's advice, or else to the component's default.

    Attributes
    ----------
    name
        What the pipeline is called; a preset's own name.
    encoder
        As for `reges_index.catalog.resolve_encoder`: "embedded", "dpr", "bge-large",
        "text-embedding-3-large", ``dpr:QUESTION,CONTEXT``, ``openai:MODEL``, ``openai-like:MODEL@URL``, a
        sentence-transformers model's name or folder; or "given".
    llm, query_llm
        The item expert's model, and the query expert's where it is another one: "embedded", a folder or hub
        name, ``openai:MODEL``, ``openai-like:MODEL@URL``, or "given".
    llm_options, query_llm_options
        For the model's client or loader; see `reges_index.pipeline.llm.open_llm` for those there are.
    query_adapter, item_adapter
        Folder of a LoRA adapter, "shipped" for the one that comes with this package where the model is the
        embedded one (and none elsewhere), or "none".
    similarity_top_k
        Items to retrieve: k of the paper, 50 there (section 3.3).
    rerank_top_k
        How many of them the item expert sees; None shows it all.
    top_n
        How many nodes a response has, and the item expert returns as a postprocessor of its own; None is all
        that it sees.
    fusion
        Beyond the paper, `reges_index.fusion`: "shipped", "none", a model's folder, "given", or "auto", the
        shipped one where it fits: embedded LLM and encoder, shipped adapters, mode "score", and nothing set
        that it would leave without effect (query_llm, length_penalty, max_candidate_tokens, select_prompt,
        reasoning). One asked for by name stays, with a warning.
    filters
        LlamaIndex's ``MetadataFilters`` as plain values.
    exclude_mentioned
        Never recommend what the dialogue has named.
    hide_ruled_out
        Take what the user turned down, and genres that were ruled out, off the ranking; only with a fusion.
    mode
        How the item expert chooses, see `ReGeSRerank`; "reason" is chain of thought (section 3.7.2).
    max_input_tokens, max_history_tokens, max_candidate_tokens, length_penalty, on_error, seed, \
keep_retrieval_score, reasoning
        See `ReGeSRerank`.
    query_on_error, query_history_tokens, decoding
        ``on_error``, ``max_history_tokens`` and ``decoding`` of `ReGeSQueryTransform`.
    query_prompt, select_prompt, sentence_prompt
        Texts of the prompts; None is the paper's.
    style, streaming, empty_response, sentence_on_error
        See `ReGeSSynthesizer`; the last is its ``on_error``.
    item_noun, item_plural
        What an item is called in prompts.
    query_item_noun, query_item_plural
        The same in the query expert's, where it is another; None is the item expert's.
    verbose
        Log queries and rankings at INFO.
    query_verbose
        The same for queries only; None is what ``verbose`` says.
    """

    model_config = _FROZEN

    name: str = Field(default="custom", min_length=1)
    encoder: str = Field(default="embedded", min_length=1)
    llm: str = Field(default="embedded", min_length=1)
    llm_options: Mapping[str, bool | int | float | str] = Field(default_factory=dict)
    query_llm: str | None = Field(default=None, min_length=1)
    query_llm_options: Mapping[str, bool | int | float | str] = Field(default_factory=dict)
    query_adapter: str = Field(default=SHIPPED, min_length=1)
    item_adapter: str = Field(default=SHIPPED, min_length=1)
    similarity_top_k: int = Field(default=50, ge=1)
    rerank_top_k: int | None = Field(default=None, ge=1)
    top_n: int | None = Field(default=None, ge=1)
    fusion: str = Field(default=AUTO, min_length=1)
    filters: dict[str, JsonValue] | None = None
    exclude_mentioned: bool = False
    hide_ruled_out: bool = False
    mode: Literal["auto", "rank", "score", "constrained", "generate", "reason"] = "auto"
    reasoning: ReasoningSettings | None = None
    max_input_tokens: int | None = Field(default=None, ge=1)
    max_history_tokens: int | None = Field(default=None, ge=1)
    max_candidate_tokens: int | None = Field(default=None, ge=1)
    length_penalty: float | None = None
    on_error: Literal["raise", "retrieval_order"] = "raise"
    keep_retrieval_score: bool = True
    seed: int = 0
    query_on_error: Literal["raise", "last_message"] = "raise"
    query_history_tokens: int | None = Field(default=None, ge=1)
    decoding: DecodingSettings | None = None
    query_prompt: str | None = Field(default=None, min_length=1)
    select_prompt: str | None = Field(default=None, min_length=1)
    sentence_prompt: str | None = Field(default=None, min_length=1)
    style: Literal["title", "sentence"] = "title"
    streaming: bool = False
    empty_response: str | None = None
    sentence_on_error: Literal["raise", "title"] = "raise"
    item_noun: str = Field(default="movie", min_length=1)
    item_plural: str = Field(default="movies", min_length=1)
    query_item_noun: str | None = Field(default=None, min_length=1)
    query_item_plural: str | None = Field(default=None, min_length=1)
    verbose: bool = False
    query_verbose: bool | None = None

    @field_validator("encoder", "llm", "query_llm")
    @classmethod
    def _no_secret(cls, name: str | None) -> str | None:
        # Nowhere repeated: the error is printed, so `parse` keeps the input out of it.
        for url in re.findall(r"[a-z]+://\S+", name or ""):
            parts = urlsplit(url)
            if parts.username or parts.password or parts.query:
                raise ValueError(
                    "the URL holds a user name, a password or a query; keys come from the environment"
                )
        return name

    @classmethod
    def preset(cls, preset: str, /, **changes: Any) -> PipelineSettings:
        """Return a preset, with other values where given.

        Parameters
        ----------
        preset
            One of `reges_index.pipeline.PRESETS`: "embedded", "small", "middle", "large", "best-cot".
        changes
            Fields to override; see `override`.

        Raises
        ------
        ConfigError
            If there is no such preset (the hint lists those that there are) or no such field, or a value
            cannot be.
        """
        from reges_index.pipeline.presets import get_preset

        return get_preset(preset).settings.override(**changes)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "pipeline settings") -> PipelineSettings:
        """Check a mapping.

        Raises
        ------
        ConfigError
            Naming the key that is unknown or the value that cannot be.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(map(str, first["loc"])) or "settings"
            hint = f"known keys: {', '.join(cls.model_fields)}" if first["type"] == "extra_forbidden" else ""
            # Not "from error": its text holds the input.
            raise ConfigError(f"{where}: {key}: {first['msg']}", hint=hint) from None

    def override(self, **changes: Any) -> PipelineSettings:
        """Return a copy with other values.

        Raises
        ------
        ConfigError
            As `parse`.
        """
        return self.parse({**self.model_dump(), **changes}, where="override") if changes else self

    def override_texts(self, texts: Iterable[str]) -> PipelineSettings:
        """Return a copy with values from ``KEY=VALUE`` texts, such as ``decoding.max_new_tokens=32``.

        Values are read as YAML: numbers, ``true``, ``null``, ``{a: 1}``; anything else is text.

        Raises
        ------
        ConfigError
            If a text has another form, or as `parse`.
        """
        values = self.model_dump()
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals or not key.strip():
                raise ConfigError(f"--set {key!r} is not KEY=VALUE", hint="for example similarity_top_k=20")
            *path, last = key.strip().split(".")
            place = values
            for step in path:
                if not isinstance(place.get(step, ""), Mapping | None):
                    raise ConfigError(
                        f"--set: there is no setting {key.strip()!r}", hint="see `reges presets NAME`"
                    )
                place[step] = dict(place[step] or {})
                place = place[step]
            try:
                place[last] = yaml.safe_load(value) if value.strip() else value
            except yaml.YAMLError as error:
                raise ConfigError(f"--set {key.strip()}: the value is no YAML: {error}") from error
        return self.parse(values, where="--set")
