"""The web chat: a page that shows dialogue, refined query, candidates and filters. Needs the extra ``ui``.

Names are imported when first used, so that the package can be imported without Gradio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reges_index.ui.choices import Choices as Choices
    from reges_index.ui.choices import Facets as Facets
    from reges_index.ui.page import build_ui as build_ui
    from reges_index.ui.page import launch_options as launch_options
    from reges_index.ui.server import serve as serve
    from reges_index.ui.server import web_app as web_app
    from reges_index.ui.shelf import EngineFactory as EngineFactory
else:
    from reges_index._lazy import lazy_names
    from reges_index.errors import ConfigError

    _load, __dir__, __all__ = lazy_names(__name__)

    def __getattr__(name: str) -> object:
        try:
            return _load(name)
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise ConfigError(
                "the web chat needs Gradio, which is not installed", hint="pip install 'reges-index[ui]'"
            ) from error
