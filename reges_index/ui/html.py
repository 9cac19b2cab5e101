"""Pieces of the page as HTML. Every text of a catalog, model or user goes through `_text`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from reges_index.catalog import Item
from reges_index.dialogue import one_line
from reges_index.engines.notes import notes
from reges_index.engines.query_engine import Recommendation
from reges_index.errors import ReGeSError
from reges_index.item_expert.ranking import RankedCandidate
from reges_index.ui.choices import Facets

_ABSTRACT_LIMIT = 320  # characters
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_MARKUP = re.compile(r"<|&(?=[#\w])")


def _text(text: str) -> str:
    """Escape a text; its direction stays its own, so that no title turns the line around it over."""
    # Gradio fills values into JavaScript templates and formulas into "$": no text may reach either.
    escaped = escape(one_line(text)).replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;")
    return f"<bdi>{escaped}</bdi>"


def message_html(text: str) -> str:
    """Escape a chat message, whose line breaks stay.

    Gradio's chat reads a message as HTML even where it renders no markup. It also reads it out as it is, so
    that nothing is escaped which need not be.
    """
    return _MARKUP.sub(lambda found: escape(found[0]), text)


def header_html(title: str, name: str, facets: Facets) -> str:
    """Return the head of the page: title, and what is recommended from."""
    years = f", {facets.first_year} to {facets.last_year}" if facets.first_year is not None else ""
    items = "item" if facets.size == 1 else "items"
    return (
        f'<div class="reges-head"><h1>{_text(title)}</h1>'
        f"<p>{_text(name)}: {facets.size:,} {items}{years}</p></div>"
    )


def query_html(found: Recommendation | None) -> str:
    """Return what the last turn was searched with, how long each stage took, and what was cut."""
    if found is None:
        return _panel("Searched with", '<p class="reges-empty">Nothing yet.</p>')
    ran = {
        "query": found.query is not None,
        "rerank": found.report.get("rerank", {}).get("outcome") != "retrieval",
    }
    seconds = " · ".join(
        f"{name} {value:.2f} s" for name, value in found.timings.items() if ran.get(name, True)
    )
    said = "".join(f"<li>{_text(note)}</li>" for note in notes(found.report))
    query = found.query if found.query is not None else "The whole dialogue"
    body = f'<p class="reges-query">{_text(query)}</p><p class="reges-dim">{seconds}</p>'
    return _panel("Searched with", body + (f'<ul class="reges-notes">{said}</ul>' if said else ""))


def candidates_html(found: Recommendation | None, top_k: int) -> str:
    """Return the candidates as a table, probabilities as bars: as long as the first one's is full."""
    if found is None:
        return _panel("Candidates", '<p class="reges-empty">Nothing yet.</p>')
    if not found.candidates:
        return _panel("Candidates", '<p class="reges-empty">None is left. Are the filters too narrow?</p>')
    shown = found.candidates[:top_k]
    probable = shown[0].probability is not None
    heads = ("#", "item", "probability" if probable else "retrieval score")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "".join(map(_row, shown, [shown[0].probability] * len(shown)))
    table = f'<table class="reges-candidates"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return _panel("Candidates", table + f'<p class="reges-dim">{_summary(found, shown, probable)}</p>')


def _row(candidate: RankedCandidate, longest: float | None) -> str:
    item, probability = candidate.item, candidate.probability
    year = f' <span class="reges-dim">{item.year}</span>' if item.year is not None else ""
    genres = f'<div class="reges-dim">{_names(item.genres[:3])}</div>' if item.genres else ""
    if probability is None:
        score = candidate.retrieval_score
        value = "" if score is None else f"{score:.3f}"
    else:
        share = 0.0 if not longest else min(1.0, probability / longest)
        value = (
            f'<span class="reges-share">{probability:.1%}</span>'
            f'<span class="reges-track"><span class="reges-bar" style="width:{share:.1%}"></span></span>'
        )
    return (
        f'<tr data-id="{escape(item.id, quote=True).replace("$", "&#36;")}">'
        f'<td class="reges-dim">{candidate.rank}</td><td>{_text(item.title)}{year}{genres}</td>'
        f"<td>{value}</td></tr>"
    )


def _summary(found: Recommendation, shown: Sequence[RankedCandidate], probable: bool) -> str:
    parts = [f"the first {len(shown)} of {len(found.candidates)} candidates"]
    if found.excluded:
        parts.append(f"{found.excluded} left out as mentioned, turned down or recommended before")
    if not probable:
        parts.append("the model gives no probabilities")
    return " · ".join(parts)


def card_html(item: Item, answer: str = "") -> str:
    """Return what is known of a recommended item beside its title, and beside what the answer says."""
    facts = [str(item.year)] if item.year is not None else []
    if item.genres:
        facts.append(_names(item.genres))
    if item.creators:
        facts.append(_names(item.creators))
    abstract = one_line(item.abstract)
    if len(abstract) > _ABSTRACT_LIMIT:
        abstract = abstract[:_ABSTRACT_LIMIT].rsplit(" ", 1)[0] + " …"
    lines = [f'<p class="reges-dim">{" · ".join(facts)}</p>'] if facts else []
    if abstract:
        # What the answer has quoted need not be read twice.
        quoted = next((part for part in _SENTENCE.split(abstract) if part and part in one_line(answer)), "")
        abstract = one_line(abstract.replace(quoted, "", 1))
    if abstract:
        lines.append(f"<p>{_text(abstract)}</p>")
    return f'<div class="reges-card">{"".join(lines)}</div>' if lines else ""


def notice_html(error: ReGeSError | None) -> str:
    """Return an error and what to do about it; empty where there is none."""
    if error is None:
        return ""
    hint = f'<p class="reges-dim">{_text(error.hint)}</p>' if error.hint else ""
    return f'<div class="reges-notice" role="alert"><p>{_text(error.message)}</p>{hint}</div>'


def status_html(is_answering: bool) -> str:
    """Return the line under the message box, which is always there: what is going on."""
    said = "Answering. The next message can be sent when this is done." if is_answering else "&nbsp;"
    mark = ' class="reges-running"' if is_answering else ""
    return f'<p id="reges-state" role="status"{mark}>{said}</p>'


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(_text, names))


def _panel(title: str, body: str) -> str:
    return f'<section class="reges-panel"><h2>{title}</h2>{body}</section>'
