"""`build_ui`: the page, as Gradio blocks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import gradio as gr

from reges_index.engines.query_engine import ReGeSQueryEngine
from reges_index.ui.html import candidates_html, query_html, status_html
from reges_index.ui.session import Sessions
from reges_index.ui.shelf import Catalog, EngineFactory, Shelf
from reges_index.ui.turns import Turns

# On a phone the filters are folded away until they are asked for.
_FOLD = """() => {
  const shown = document.querySelector('#reges-filters').classList.toggle('reges-unfolded');
  document.querySelector('#reges-fold').setAttribute('aria-expanded', shown);
}"""
# Turns at the same time; the model takes them one by one, but a reset must not wait behind them.
_CONCURRENT = 16


def build_ui(
    engine: ReGeSQueryEngine | EngineFactory,
    catalogs: Catalog | Sequence[Catalog] | None = None,
    *,
    small_talk: bool = True,
    exclude_mentioned: bool = True,
    top_k: int = 8,
    title: str = "ReGeS",
    examples: Sequence[str] | None = None,
) -> gr.Blocks:
    """Build the web chat, to be launched or mounted in an app of your own.

    Every open page has a memory of its own. Nothing is sent anywhere: Gradio's analytics are off.

    Parameters
    ----------
    engine
        An engine over a catalog, or a function that makes the engine of one of several; it is called when
        a catalog is first used. Its own filters hold always: what a user sets only narrows them further.
    catalogs
        To recommend from. With several, the page lets its user choose and starts with the first. None is
        the engine's own.
    small_talk
        Answer greetings and thanks without a recommendation.
    exclude_mentioned
        How the switch of that name stands at first.
    top_k
        How many candidates to show.
    title
        Of the page.
    examples
        Messages that an empty chat offers; None makes them of the words of the catalog and its domain.

    Returns
    -------
    gradio.Blocks
        Launch or mount it with `launch_options`.

    Raises
    ------
    ConfigError
        If there is no catalog, two have one name, one engine is given for several, or Gradio is not
        installed.

    Examples
    --------
    >>> demo = build_ui(ReGeSQueryEngine.from_defaults(catalog))  # doctest: +SKIP
    >>> demo.launch(**launch_options())  # doctest: +SKIP
    """
    shelf = Shelf(engine, catalogs, small_talk=small_talk)
    turns = Turns(shelf, Sessions(shelf), title=title, top_k=top_k, examples=examples)
    names = shelf.names
    # Private: the page is the interface; Gradio then offers no endpoints to other programs.
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="reges-top"):
            header = gr.HTML(elem_id="reges-header")
            fold = gr.Button("Filters", elem_id="reges-fold", size="sm", scale=0, min_width=70)
            undo = gr.Button("Undo", elem_id="reges-undo", size="sm", scale=0, min_width=70)
            fresh = gr.Button("New conversation", elem_id="reges-reset", size="sm", scale=0, min_width=150)
        with gr.Row(elem_id="reges-filters"):
            catalog = gr.Dropdown(
                names, value=names[0], label="Catalog", visible=len(names) > 1, elem_id="reges-catalog"
            )
            genres = gr.Dropdown(
                [], multiselect=True, label="Genres, any of", elem_id="reges-genres", scale=3
            )
            year_from = gr.Textbox(label="From year", elem_id="reges-from", max_lines=1)
            year_to = gr.Textbox(label="To year", elem_id="reges-to", max_lines=1)
            exclude = gr.Checkbox(
                exclude_mentioned, label="Leave out what was named", elem_id="reges-exclude", min_width=220
            )
        with gr.Row(elem_id="reges-main"):
            with gr.Column(scale=3, min_width=280):
                chat = gr.Chatbot(
                    elem_id="reges-chat",
                    show_label=False,
                    render_markdown=False,
                    latex_delimiters=[],
                    buttons=[],
                    height="auto",
                    layout="bubble",
                    placeholder="What are you looking for?",
                    feedback_options=None,
                )
                notice = gr.HTML(elem_id="reges-notice", visible=False)
                box = gr.Textbox(
                    elem_id="reges-box",
                    label="Message",
                    show_label=False,
                    placeholder="Write a message",
                    submit_btn=True,
                    max_lines=6,
                )
                status = gr.HTML(status_html(False), elem_id="reges-status")
            with gr.Column(scale=2, min_width=280, elem_id="reges-side"):
                query = gr.HTML(query_html(None), elem_id="reges-query")
                candidates = gr.HTML(candidates_html(None, top_k), elem_id="reges-candidates")

        panels = [chat, box, query, candidates, notice, status]
        chosen = [catalog, genres, year_from, year_to, exclude]
        facets = [header, genres, year_from, year_to]
        sent = box.submit(turns.send, [box, *chosen], panels, **quiet)
        offer = chat.example_select(_example, None, box, **quiet)
        asked = offer.then(turns.send, [box, *chosen], panels, **quiet)
        for start_anew in (fresh.click, chat.clear):
            start_anew(turns.reset, None, panels, cancels=[sent, asked], **quiet)
        # Not `input`: a drop-down may send it again as it loses the focus, and end the next message's turn.
        catalog.change(turns.switch, catalog, [*panels, *facets], cancels=[sent, asked], **quiet)
        undo.click(turns.undo, None, panels, **quiet)
        fold.click(None, None, None, js=_FOLD, **quiet)
        page.load(turns.facets, catalog, [*facets, chat], **quiet)
    return page.queue(default_concurrency_limit=_CONCURRENT, api_open=False)


def launch_options() -> dict[str, Any]:
    """Return what `gradio.Blocks.launch` and `gradio.mount_gradio_app` need for this page.

    A theme with fonts that come with Gradio, the page's style sheet, no record of the runs in the browser,
    no links to the outside.
    """
    style = resources.files("reges_index.ui").joinpath("style.css").read_text(encoding="utf-8")
    # The semi-bold files that Gradio ships lack most letters; the bold ones are whole.
    fonts = (gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif")
    hues = {"primary_hue": "teal", "secondary_hue": "teal", "neutral_hue": "stone"}
    theme = gr.themes.Base(**hues, radius_size="lg", font=fonts).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_500",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_radius="*radius_lg",
        input_background_fill="*neutral_50",
    )
    return {"theme": theme, "css": style, "footer_links": [], "run_history": False}


def _example(data: gr.SelectData) -> str:
    return str(data.value["text"])
