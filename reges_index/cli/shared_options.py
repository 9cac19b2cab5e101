"""Options that several commands take together, written once as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["with_options"]

Command = Callable[..., None]


def with_options(kind: type[DataclassInstance]) -> Callable[[Command], Command]:
    """Give a command one option for each field of a dataclass, and the object made of them as ``options``.

    Typer reads a command's options from its signature, so the signature is what is changed.
    """

    def decorate(command: Command) -> Command:
        own_hints = get_type_hints(command, include_extras=True)
        hints = get_type_hints(kind, include_extras=True)
        own = [
            parameter.replace(annotation=own_hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "options"
        ]
        shared = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(kind)
        ]

        @wraps(command)
        def run(**given: Any) -> None:
            options = kind(**{parameter.name: given.pop(parameter.name) for parameter in shared})
            command(options=options, **given)

        parameters = [*own, *shared]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
