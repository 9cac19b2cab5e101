"""The web chat: a page that shows dialogue, refined query, candidates and filters. Needs the extra ``ui``.

Names are imported when first used, so that the package can be imported without Gradio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reges_index.errors import ConfigError

if TYPE_CHECKING:
    from reges_index.ui.choices import Choices, Facets
    from reges_index.ui.page import build_ui, launch_options
    from reges_index.ui.server import serve, web_app
    from reges_index.ui.shelf import EngineFactory

_HOMES = {
    "Choices": "choices",
    "EngineFactory": "shelf",
    "Facets": "choices",
    "build_ui": "page",
    "launch_options": "page",
    "serve": "server",
    "web_app": "server",
}

__all__ = ["Choices", "EngineFactory", "Facets", "build_ui", "launch_options", "serve", "web_app"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ConfigError(
            "the web chat needs Gradio, which is not installed", hint="pip install 'reges-index[ui]'"
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
