"""`PipelineSettings`: everything that decides how a pipeline answers, as plain values.

Each option is declared here and nowhere else, with its description: components read their section, engines
take the same names as keywords, and the command line is made from the fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypedDict
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from reges_index.dialogue.wording import MOVIES, Domain
from reges_index.errors import ConfigError, meant
from reges_index.files import first_problem
from reges_index.presets import get_preset

if TYPE_CHECKING:
    from llama_index.core.prompts import BasePromptTemplate
    from llama_index.core.vector_stores import MetadataFilters

GIVEN = "given"
"""In place of a name: an object without one, which whoever builds the pipeline passes again."""
SHIPPED, NONE = "shipped", "none"

ModelOptions = Mapping[str, bool | int | float | str]


class Section(BaseModel):
    """Values that are checked and then never change; a wrong one is a `ConfigError` that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers and editors take the signature from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                # Not "from error": its text holds the input.
                raise _worded(type(self), error) from None

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "settings", base: Self | None = None) -> Self:
        """Check a mapping, of what is not the default or not as in ``base``.

        Raises
        ------
        ConfigError
            Naming the key that is unknown or the value that cannot be.
        """
        own = {} if base is None else {name: getattr(base, name) for name in cls.model_fields}
        try:
            return cls(**{**own, **{str(key): value for key, value in values.items()}})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None

    def override(self, **changes: Any) -> Self:
        """Return a copy with other values; errors as for `parse`."""
        return self.parse(changes, where="override", base=self) if changes else self

    @classmethod
    def of(cls, settings: Self | None, options: Mapping[str, Any], *, where: str) -> Self:
        """Return a component's settings with the keywords that it was given beside them.

        Prompts may be templates, of which the text is kept here. Errors are those of `parse`.
        """
        plain = {name: getattr(value, "template", value) for name, value in options.items()}
        return cls.parse(plain, where=where, base=settings)

    @property
    def changed(self) -> list[str]:
        """Names of the values that are not the default."""
        usual = type(self)()
        return [name for name in type(self).model_fields if getattr(self, name) != getattr(usual, name)]


def _worded(kind: type[Section], error: ValidationError) -> ConfigError:
    key, said, known = first_problem(error, kind)
    part = "decoding" if kind is QueryDecoding else kind.__name__.lower().removesuffix("settings")
    part = "" if kind is PipelineSettings else f"{part.removesuffix('decoding') or part}."
    return ConfigError(f"{part}{key}: {said}" if key else said, hint=known)


class QueryDecoding(Section):
    """How queries are written: lengths, number, sampling."""

    max_new_tokens: int = Field(default=64, ge=1, description="Most tokens of one query.")
    num_queries: int = Field(
        default=1,
        ge=1,
        description="Queries for each dialogue: the first by greedy decoding, further ones sampled. The "
        "vector that is searched with is the mean of theirs.",
    )
    temperature: float = Field(default=0.7, ge=0, description="Of the sampled queries.")
    no_repeat_ngram_size: int = Field(
        default=3, ge=0, description="Against loops, which small models fall into. Local models only."
    )
    context_messages: int = Field(
        default=0,
        ge=0,
        description="How many of the newest messages are embedded beside the query, as one more text.",
    )
    seed: int = Field(default=0, description="Of the sampling.")

    @model_validator(mode="after")
    def _several_need_chance(self) -> Self:
        if self.num_queries > 1 and self.temperature <= 0:
            raise ValueError(
                f"num_queries={self.num_queries} with temperature={self.temperature}: greedy has one result; "
                "give a temperature above 0"
            )
        return self

    def passes(self) -> list[dict[str, Any]]:
        """Return the options of each call of the model: the greedy query, then all sampled ones."""
        common: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
        }
        passes = [{**common, "temperature": 0.0}]
        if self.num_queries > 1:
            sampled = {"num_return_sequences": self.num_queries - 1, "seed": self.seed}
            passes.append({**common, **sampled, "temperature": self.temperature})
        return passes


class ReasoningDecoding(Section):
    """How chain of thought is written (section 3.7.2)."""

    max_new_tokens: int = Field(
        default=160,
        ge=1,
        description="Most tokens of it; 160 are two or three sentences. An API model's are approximately "
        "counted.",
    )
    temperature: float = Field(default=0.0, ge=0, description="0 is greedy. Local models only.")
    no_repeat_ngram_size: int = Field(
        default=6, ge=0, description="Against loops, which small models fall into. Local models only."
    )
    one_line: bool | None = Field(
        default=None,
        description="End at the first line break. None does so where an adapter writes, which was trained on "
        "one line.",
    )


class QuerySettings(Section):
    """Options of `ReGeSQueryTransform`, the query expert."""

    query_prompt: str | None = Field(
        default=None,
        min_length=1,
        description="Text of the prompt, with the slot {conversation_history}; the paper's by default.",
    )
    domain: Domain | None = Field(
        default=None, description="What an item is called in the query's prompt; by default as everywhere."
    )
    max_history_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Budget of the dialogue's text; older messages are cut and counted. By default what the "
        "adapter was trained with, else 1,024, and never more than the model's context leaves.",
    )
    decoding: QueryDecoding | None = Field(
        default=None, description="How queries are written; by default what the adapter recommends."
    )
    on_error: Literal["raise", "last_message"] = Field(
        default="raise",
        description="When the server behind the model gives no answer, after all retries: raise an "
        "LLMServerError, or search with the seeker's last message and say so in the report.",
    )
    verbose: bool = Field(default=False, description="Log the query at INFO.")


class RetrievalSettings(Section):
    """Where candidates come from, and which of them may be recommended."""

    retriever: str = Field(
        default="auto",
        min_length=1,
        description="fusion (of many sources, trained), vectors (the paper's), a folder of a fusion model, "
        "given (a retriever object), or auto: the fusion where the catalog's encoder fits it, else vectors.",
    )
    similarity_top_k: int = Field(
        default=50, ge=1, description="How many items to retrieve: k of the paper, 50 there."
    )
    rerank_top_k: int | None = Field(
        default=None, ge=1, description="How many candidates the item expert sees; all by default."
    )
    filters: dict[str, JsonValue] | None = Field(
        default=None, description="LlamaIndex's MetadataFilters, which every recommendation obeys."
    )
    exclude_mentioned: bool = Field(
        default=True,
        description="Never recommend what the dialogue names; --allow-mentioned switches it off.",
    )

    @field_validator("filters", mode="before")
    @classmethod
    def _plain(cls, filters: Any) -> Any:
        return filters.model_dump(mode="json") if isinstance(filters, BaseModel) else filters


class RerankSettings(Section):
    """Options of `ReGeSRerank`, the item expert."""

    mode: Literal["auto", "rank", "score", "constrained", "generate", "reason"] = Field(
        default="auto",
        description="How the item expert chooses: rank the list, score every candidate, write a title "
        "limited to them (constrained), write freely and match (generate), or reason first and then score. "
        "auto is score with a local model; behind an API it is letters by logprobs where the server gives "
        "them, else rank.",
    )
    prior: Literal["auto"] | bool = Field(
        default="auto",
        description="Combine the item expert's word with the retriever's probabilities; auto does so where "
        "its scores are probabilities.",
    )
    prior_weight: float | None = Field(
        default=None,
        ge=0,
        description="What the item expert's word weighs beside the probabilities; by default what "
        "the adapter's manifest says, else 2.5 for a rank and 1 for probabilities.",
    )
    window: int = Field(
        default=100,
        ge=2,
        description="Most candidates of one prompt that asks for a ranking; longer lists are ranked in "
        "sliding windows.",
    )
    passes: int = Field(
        default=1,
        ge=1,
        description="How often the list is ranked, each time but the first in another random order; the "
        "rankings are merged.",
    )
    min_mass: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Least probability that the candidates' letters must have together among a server's "
        "logprobs; below it they are no choice, and the next way is tried.",
    )
    pick_probability: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Where the item expert only picks one item: the probability that this is right, given "
        "that the right one is among the candidates.",
    )
    select_prompt: str | None = Field(
        default=None,
        min_length=1,
        description="Text of the prompt, with the slots {candidates} and {conversation_history}; the paper's "
        "by default.",
    )
    rank_prompt: str | None = Field(
        default=None,
        min_length=1,
        description="Likewise, with {count}, for a ranking; by default the paper's with another sentence.",
    )
    max_input_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Budget of the whole prompt, 4,096 in the paper; by default what the adapter recommends. "
        "The model's context is never exceeded.",
    )
    max_history_tokens: int | None = Field(
        default=None, ge=1, description="Of that, most for the dialogue; likewise."
    )
    max_candidate_tokens: int | None = Field(
        default=None, ge=1, description="Most for one candidate's details; likewise."
    )
    length_penalty: float | None = Field(
        default=None,
        description="Log-probabilities are divided by the label's tokens to this power; by default what the "
        "adapter recommends, else 0. Local models only.",
    )
    reasoning: ReasoningDecoding | None = Field(
        default=None, description="How chain of thought is written; with mode reason only."
    )
    on_error: Literal["raise", "retrieval_order"] = Field(
        default="raise",
        description="When the server behind the model gives no answer, after all retries: raise an "
        "LLMServerError, or keep the retriever's order and say so in the report.",
    )
    seed: int = Field(default=0, description="Of the sampling in mode generate and of reasoning.")
    verbose: bool = Field(default=False, description="Log the ranking at INFO.")

    @model_validator(mode="after")
    def _reasoning_needs_its_mode(self) -> Self:
        if self.reasoning is not None and self.mode != "reason":
            raise ValueError(f"reasoning has no effect with mode={self.mode!r}; give mode='reason'")
        return self


class AnswerSettings(Section):
    """Options of `ReGeSSynthesizer`, and how many nodes a response has."""

    style: Literal["title", "sentence"] = Field(
        default="title",
        description="The title alone, as in the paper, or a sentence by the LLM on why the item fits.",
    )
    sentence_prompt: str | None = Field(
        default=None, min_length=1, description="Text of the prompt, with {conversation_history} and {item}."
    )
    empty_response: str | None = Field(
        default=None, description="The answer when there is nothing to recommend; our words by default."
    )
    on_error: Literal["raise", "title"] = Field(
        default="raise",
        description="When the server behind the LLM writes no sentence, after all retries: raise an "
        "LLMServerError, or answer with the title and say so in the report.",
    )
    top_n: int | None = Field(
        default=None, ge=1, description="How many nodes a response has; all that were ranked by default."
    )


class PipelineSettings(Section):
    """What a `ReGeSQueryEngine` consists of, without its catalog's data and without any secret.

    Frozen; unknown keys are refused. Keys and passwords are no part of it: clients take them from the
    environment. ``None`` leaves a value to the adapter's advice, or else to the component's default. The
    fields' descriptions are what ``reges ... --help`` prints.
    """

    name: str = Field(default="custom", min_length=1, description="What the pipeline is called.")
    encoder: str = Field(
        default="embedded",
        min_length=1,
        description="Embedding model: embedded (ours, the default), minilm (its base), dpr, bge-large, "
        "text-embedding-3-large, dpr:QUESTION,CONTEXT, openai:MODEL, openai-like:MODEL@URL, or a "
        "sentence-transformers model's folder or hub name.",
    )
    llm: str | None = Field(
        default=None,
        min_length=1,
        description="The item expert's LLM: embedded (SmolLM2-135M), a folder or hub name, openai:MODEL or "
        "openai-like:MODEL@URL. None: there is no item expert, and the retriever's order is the ranking.",
    )
    llm_options: ModelOptions = Field(
        default_factory=dict, description="For its client or loader, such as timeout or dtype."
    )
    item_adapter: str = Field(
        default=SHIPPED,
        min_length=1,
        description="Folder of the item expert's LoRA adapter, shipped (where the LLM is the embedded one), "
        "or none. Behind an API: of the one that the server runs, which says how it was trained.",
    )
    write_query: Literal["when_read", "always", "never"] = Field(
        default="when_read",
        description="When the query expert writes a query: when the retriever reads it (vectors do, the "
        "fusion does not), always (to see it), or never.",
    )
    query_llm: str | None = Field(
        default=None, min_length=1, description="The query expert's LLM, where it is another one than llm."
    )
    query_llm_options: ModelOptions = Field(
        default_factory=dict, description="For its client or loader, as llm_options."
    )
    query_adapter: str = Field(
        default=SHIPPED, min_length=1, description="Folder of the query expert's adapter, shipped, or none."
    )
    domain: Domain = Field(
        default=MOVIES, description="What an item is called in prompts: NOUN or NOUN,PLURAL."
    )
    query: QuerySettings = Field(default_factory=QuerySettings, description="The query expert.")
    retrieval: RetrievalSettings = Field(default_factory=RetrievalSettings, description="The retriever.")
    rerank: RerankSettings = Field(default_factory=RerankSettings, description="The item expert.")
    answer: AnswerSettings = Field(default_factory=AnswerSettings, description="The answer.")

    SECTIONS: ClassVar = ("query", "retrieval", "rerank", "answer")

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

    @field_validator("domain", mode="before")
    @classmethod
    def _from_text(cls, domain: Any) -> Any:
        return Domain.parse(domain) if isinstance(domain, str) else domain

    @classmethod
    def preset(cls, preset: str, /, **changes: Any) -> PipelineSettings:
        """Return a preset, with other values where given.

        Parameters
        ----------
        preset
            One of `reges_index.presets.PRESETS`: "embedded", "small", "middle", "large", "best-cot".
        changes
            Options by name; see `with_options`.

        Raises
        ------
        ConfigError
            If there is no such preset (the hint lists those that there are) or no such option, or a value
            cannot be.
        """
        found = get_preset(preset)
        return cls.parse({"name": preset, **found.values}).with_options(**changes)

    # -- options by name -----------------------------------------------------------------------------

    @classmethod
    def options(cls) -> dict[str, tuple[str, ...]]:
        """Return where each option of `with_options` stands: its name, then the path of its field."""
        found: dict[str, tuple[str, ...]] = {
            name: (name,) for name in cls.model_fields if name not in cls.SECTIONS
        }
        for section in cls.SECTIONS:
            kind: Any = cls.model_fields[section].annotation
            for field in kind.model_fields:
                found[_OTHERWISE.get((section, field), field)] = (section, field)
        return found

    def with_options(self, **options: Any) -> PipelineSettings:
        """Return a copy with other values, named without their section.

        Parameters
        ----------
        options
            Fields of any section by their own name (``mode="reason"``, ``similarity_top_k=20``); those that
            two sections share are the item expert's, and ``query_history_tokens``, ``query_on_error``,
            ``query_domain``, ``query_verbose`` and ``answer_on_error`` the others'.
            ``on_error="retrieval_order"`` and ``verbose`` go to all parts. Whole sections (``query={...}``)
            may be given too.

        Raises
        ------
        ConfigError
            Naming the option that there is not, or the value that cannot be.
        """
        places = self.options()
        changes: dict[str, Any] = {}
        sections: dict[str, dict[str, Any]] = {}
        options = {**_for_all_parts(options), **options}
        for name, value in options.items():
            if name in self.SECTIONS:
                own = getattr(self, name)
                values = value.model_dump() if isinstance(value, BaseModel) else value
                sections.setdefault(name, {}).update(own.override(**values).model_dump())
                continue
            if name not in places:
                raise ConfigError(f"there is no option {name}", hint=meant([name], places))
            *section, field = places[name]
            if section:
                sections.setdefault(section[0], {})[field] = value
            else:
                changes[field] = value
        for name, values in sections.items():
            changes[name] = {**getattr(self, name).model_dump(), **values}
        return self.override(**changes)

    def override_texts(self, texts: Iterable[str]) -> PipelineSettings:
        """Return a copy with values from ``KEY=VALUE`` texts, such as ``rerank.mode=reason``.

        A key is the path of a field, or an option's name as in `with_options`. Values are read as YAML:
        numbers, ``true``, ``null``, ``{a: 1}``; anything else is text.

        Raises
        ------
        ConfigError
            If a text has another form, or as `parse`.
        """
        values = self.model_dump()
        places = self.options()
        for text in texts:
            key, equals, value = (part.strip() for part in text.partition("="))
            if not equals or not key:
                raise ConfigError(f"--set {key!r} is not KEY=VALUE", hint="for example similarity_top_k=20")
            first, *rest = key.split(".")
            if first not in places and first not in self.SECTIONS:
                known = meant([first], [*places, *self.SECTIONS])
                raise ConfigError(f"--set: there is no option {first!r}", hint=known)
            *path, last = (*places.get(first, (first,)), *rest)
            place = values
            for step in path:
                if not isinstance(place.get(step, ""), Mapping | None):
                    raise ConfigError(f"--set: there is no setting {key!r}", hint="see `reges presets NAME`")
                place[step] = dict(place[step] or {})
                place = place[step]
            try:
                place[last] = yaml.safe_load(value) if value else value
            except yaml.YAMLError as error:
                raise ConfigError(f"--set {key}: the value is no YAML: {error}") from error
        return self.parse(values, where="--set")


# Fields that another section has too: what they are called as options of an engine.
_OTHERWISE = {
    ("query", "domain"): "query_domain",
    ("query", "max_history_tokens"): "query_history_tokens",
    ("query", "on_error"): "query_on_error",
    ("query", "verbose"): "query_verbose",
    ("answer", "on_error"): "answer_on_error",
}


def _for_all_parts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an option of the item expert says of the other parts."""
    more: dict[str, Any] = {}
    if options.get("on_error") == "retrieval_order":
        more |= {"query_on_error": "last_message", "answer_on_error": "title"}
    if "verbose" in options:
        more["query_verbose"] = options["verbose"]
    return more


class QueryOptions(TypedDict, total=False):
    """`QuerySettings` as keywords; a test holds the two against each other."""

    query_prompt: BasePromptTemplate | str | None
    domain: Domain | None
    max_history_tokens: int | None
    decoding: QueryDecoding | Mapping[str, Any] | None
    on_error: Literal["raise", "last_message"]
    verbose: bool


class RerankOptions(TypedDict, total=False):
    """`RerankSettings` as keywords."""

    mode: Literal["auto", "rank", "score", "constrained", "generate", "reason"]
    prior: Literal["auto"] | bool
    prior_weight: float | None
    window: int
    passes: int
    min_mass: float
    pick_probability: float
    select_prompt: BasePromptTemplate | str | None
    rank_prompt: BasePromptTemplate | str | None
    max_input_tokens: int | None
    max_history_tokens: int | None
    max_candidate_tokens: int | None
    length_penalty: float | None
    reasoning: ReasoningDecoding | Mapping[str, Any] | None
    on_error: Literal["raise", "retrieval_order"]
    seed: int
    verbose: bool


class EngineOptions(RerankOptions, total=False):
    """All of `PipelineSettings.options` as keywords, but for the models, which may be objects."""

    llm_options: ModelOptions
    item_adapter: str
    write_query: Literal["when_read", "always", "never"]
    query_llm_options: ModelOptions
    query_adapter: str
    domain: Domain | str
    query_prompt: BasePromptTemplate | str | None
    query_domain: Domain | None
    query_history_tokens: int | None
    decoding: QueryDecoding | Mapping[str, Any] | None
    query_on_error: Literal["raise", "last_message"]
    query_verbose: bool
    similarity_top_k: int
    rerank_top_k: int | None
    filters: MetadataFilters | Mapping[str, Any] | None
    exclude_mentioned: bool
    style: Literal["title", "sentence"]
    sentence_prompt: BasePromptTemplate | str | None
    empty_response: str | None
    answer_on_error: Literal["raise", "title"]
    top_n: int | None
