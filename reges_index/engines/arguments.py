"""What engines are made of and asked with: where items come from, options, any form of a dialogue."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import QueryBundle

from reges_index.catalog import ItemCatalog, LiveCatalog
from reges_index.dialogue import Dialogue, DialogueQueryBundle
from reges_index.errors import ConfigError, InputError

__all__ = ["as_bundle", "check_options", "told_apart", "unique_ids"]

_PROMPTS = "the experts' prompts are read by get_prompts() and set by update_prompts() of the query engine"
_ANSWER = "the answer is worded by response_synthesizer=ReGeSSynthesizer(...)"
_INSTEAD = {
    **dict.fromkeys(
        ("system_prompt", "context_prompt", "context_refine_prompt", "condense_prompt", "prefix_messages"),
        _PROMPTS,
    ),
    **dict.fromkeys(
        ("response_mode", "text_qa_template", "refine_template", "summary_template", "output_cls"), _ANSWER
    ),
    "skip_condense": "the query expert writes the query: query_transform=ReGeSQueryTransform(...)",
    "node_postprocessors": "rerank=ReGeSRerank(...) is the postprocessor here, and filters= restricts "
    "what is retrieved; for more of them use ReGeSRetriever and ReGeSRerank in a RetrieverQueryEngine",
    "streaming": "use stream_chat of ReGeSChatEngine",
    "memory": "a query engine has none: use ReGeSChatEngine",
    "chat_history": "a query engine has none: use ReGeSChatEngine, or give the whole dialogue to query",
}
"""Options of LlamaIndex's own engines that a user may come with, and what there is here in their place."""


def told_apart(
    catalog: ItemCatalog | LiveCatalog | BaseRetriever | None, retriever: BaseRetriever | None
) -> tuple[ItemCatalog | LiveCatalog | None, BaseRetriever | None]:
    """Return catalog and retriever, of which the latter may have come as the first argument.

    Raises
    ------
    ConfigError
        If two retrievers are given, or something that is neither.
    """
    if isinstance(catalog, BaseRetriever):
        if retriever is not None:
            raise ConfigError(
                "two retrievers are given", hint="give one, as the first argument or as retriever="
            )
        catalog, retriever = None, catalog
    for given, known, name in (
        (catalog, (ItemCatalog, LiveCatalog), "a catalog"),
        (retriever, BaseRetriever, "a retriever"),
    ):
        if given is not None and not isinstance(given, known):
            raise ConfigError(
                f"a {type(given).__name__} is not {name}",
                hint="give an ItemCatalog, a LiveCatalog, or a retriever such as index.as_retriever()",
            )
    return catalog, retriever


def check_options(given: Iterable[str], part: Callable[..., object]) -> None:
    """Check that a part has all options that are to be passed on to it.

    Raises
    ------
    ConfigError
        Naming those that it has not, and what there is in their place.
    """
    known = [
        name
        for name, parameter in inspect.signature(part).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    unknown = [name for name in given if name not in known]
    if unknown:
        named = list(dict.fromkeys(_INSTEAD[name] for name in unknown if name in _INSTEAD))
        raise ConfigError(
            f"there is no option {', '.join(unknown)}",
            hint="; ".join(named) or f"beside those of from_defaults there are {', '.join(known)}",
        )


def as_bundle(dialogue: Dialogue | QueryBundle) -> QueryBundle:
    """Return any form of a dialogue as a query bundle that carries it."""
    if isinstance(dialogue, DialogueQueryBundle):
        return dialogue
    if isinstance(dialogue, QueryBundle):
        return DialogueQueryBundle.from_dialogue(dialogue.query_str)
    return DialogueQueryBundle.from_dialogue(dialogue)


def unique_ids(ids: Iterable[str]) -> list[str]:
    """Return ids without repeats; a text, which is a sequence of letters, is refused."""
    if isinstance(ids, str):
        raise InputError(f"exclude_ids is the text {ids!r}", hint=f"give a list: [{ids!r}]")
    return list(dict.fromkeys(ids))
