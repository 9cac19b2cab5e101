"""What an item's fields are called in files and in nodes of others, and how loose values become theirs.

One place for both, so that a table reads the same whether it comes as a file or out of a vector store.
"""

from __future__ import annotations

import ast
import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from reges_index.errors import InputError

Plain: TypeAlias = str | int | float | bool | list[str]
"""What metadata may hold."""

ROLES: dict[str, str] = {
    "creators": "creator",
    "directors": "director",
    "authors": "author",
    "writers": "writer",
    "developers": "developer",
    "designers": "designer",
    "artists": "artist",
    "composers": "composer",
    "illustrators": "illustrator",
    "translators": "translator",
    "narrators": "narrator",
    "performers": "performer",
}
"""Names under which the makers of an item are given, each with the role that it means."""

LIST_FIELDS = frozenset({"genres", "cast", *ROLES})
ITEM_FIELDS = LIST_FIELDS | {"id", "title", "year", "creator_role", "abstract"}
"""Fields that a column or a metadata key can be named as."""

METADATA = "metadata."
"""What stands before the name of a metadata value in a mapping of fields."""

# Names that others give to the fields, best first; compared by `simple_name`.
FIELD_GUESSES: dict[str, tuple[str, ...]] = {
    "id": (
        *("id", "item_id", "movie_id", "film_id", "book_id", "product_id", "game_id", "app_id", "appid"),
        *("sku", "asin", "isbn", "tconst", "uuid"),
    ),
    "title": (
        *("title", "name", "product", "movie_title", "film_title", "book_title", "item_title"),
        *("product_title", "product_name", "item_name", "primary_title", "original_title"),
    ),
    "year": (
        *("year", "release_year", "publication_year", "original_publication_year", "start_year"),
        *("release_date", "publication_date", "published"),
    ),
    "genres": ("genres", "genre", "categories", "category"),
    "abstract": ("abstract", "description", "plot", "summary", "overview", "synopsis"),
    "cast": ("cast", "actors", "stars"),
    **{plural: (plural, role) for plural, role in ROLES.items()},
}

_RESERVED = frozenset(
    {
        *("id", "title", "year", "genres", "makers", "creator_role", "cast", "abstract", "metadata"),
        *ROLES,
        # What LlamaIndex and this package write beside an item's own metadata.
        *("text", "document_id", "doc_id", "ref_doc_id", "reges_item", "reges_hash"),
        # What retrieval and ranking add to a node.
        *("probability", "retrieval_score", "retrieval_rank", "score_kind"),
    }
)
# Chroma refuses keys that begin with one of these; "_" is LlamaIndex's.
_REFUSED_STARTS = ("_", "$", "#", "chroma:")

_INT64 = 2**63
_MISSING = frozenset({"nan", "NaN", "NaT", "<NA>", "null", "NULL", "#N/A", "\\N", "set()"})
_MISSING_NUMBERS = _MISSING | {"None", "none", "NA", "N/A", "n/a", "-", "?", "TBA", "TBD"}
# Thirteen digits and more are numbers of articles (EAN, ISBN), with which nobody reckons.
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,11})")
_DECIMAL = re.compile(r"[+-]?(0|[1-9]\d*)?\.\d*(e[+-]?\d+)?", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?(0|[1-9]\d*|[1-9]\d{0,2}(?:\.\d{3})+),\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_SIGNS = "$€£¥₹%"
_NO_COMMAS = re.compile(r"['\"]\s+['\"]")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_YEAR_IN_TEXT = re.compile(r"(?<!\d)(\d{4})(?!\d)")


def is_reserved_key(key: str) -> bool:
    """Whether an item's metadata may not have this key."""
    return not key.strip() or key in _RESERVED or key.startswith(_REFUSED_STARTS)


def role_of(name: str) -> str:
    """Return the role that a name of makers means: "directors" and "director" are both "director"."""
    return ROLES.get(name, name)


def plural_of(role: str) -> str:
    """Return the name under which the makers of a role are searched: "director" gives "directors"."""
    known = next((plural for plural, one in ROLES.items() if one == role), "")
    return known or (role if role.endswith("s") else f"{role}s")


def simple_name(key: str) -> str:
    """Return a name for comparing: "Release Year", "releaseYear" and "release-year" are one."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key.strip().lstrip("_"))
    return re.sub(r"[\s_-]+", "_", spaced).lower()


@dataclass(frozen=True)
class FieldNames:
    """Which metadata keys of nodes made elsewhere hold the fields of an item.

    Parameters
    ----------
    keys
        From a field of `Item` ("title", "year", "authors", "id", ...) to the key that holds it. Fields that
        are not named are looked for under their own name and its usual others (`FIELD_GUESSES`).
    parse_titles
        Take year and article out of titles such as "Matrix, The (1999)"; see `parse_title`.

    Raises
    ------
    InputError
        If a name is no field of an item.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    parse_titles: bool = True

    def __post_init__(self) -> None:
        if wrong := [name for name in self.keys if name not in ITEM_FIELDS]:
            raise InputError(
                f"{wrong[0]!r} is no field of an item", hint=f"fields are {', '.join(sorted(ITEM_FIELDS))}"
            )

    @classmethod
    def of(
        cls, names: FieldNames | Mapping[str, str] | None = None, title_key: str | None = None
    ) -> FieldNames:
        """Return the names of a mapping, with `title_key` in short for ``{"title": title_key}``."""
        given = names if isinstance(names, FieldNames) else cls(dict(names or {}))
        return cls({**given.keys, "title": title_key}, given.parse_titles) if title_key else given


def is_missing(value: Any) -> bool:
    """Whether a value says nothing: None, NaN, blank text, an empty list, or what pandas writes for these."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        return not value.strip() or value.strip() in _MISSING
    return isinstance(value, (list, tuple, set, dict)) and not value


def as_number(text: str, *, decimal_comma: bool = False) -> int | float | None:
    """Return the number that a text is; None if it is none, or one that is a name ("007", an ISBN)."""
    text = text.strip()
    if _INTEGER.fullmatch(text):
        return int(text)
    if decimal_comma and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    if not decimal_comma and _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
        return float(text) if "." in text else int(text)
    if _DECIMAL.fullmatch(text) and any(sign.isdigit() for sign in text):
        number = float(text)
        return number if math.isfinite(number) else None
    return None


def common_sign(texts: Iterable[str]) -> str:
    """Return the sign ($, €, %, ...) that all texts, besides empty ones, begin or end with; "" for none."""
    told = [text.strip() for text in texts if text.strip() not in {"", *_MISSING_NUMBERS}]

    def bears(text: str, sign: str) -> bool:
        return text.count(sign) == 1 and sign in (text.lstrip("+-")[:1], text[-1])

    return next((sign for sign in _SIGNS if told and all(bears(text, sign) for text in told)), "")


def typed_text(texts: Iterable[str], *, decimal_comma: bool = False) -> tuple[str, list[Plain | None]]:
    """Read the texts of one column as what all of them are.

    Returns
    -------
    kind
        "number", "boolean", "list" or, where one of them is none of these, "text".
    values
        One for each text; None where it says nothing.
    """
    given = [text.strip() for text in texts]
    filled = [text for text in given if text and text not in _MISSING]
    told = [text for text in filled if text not in _MISSING_NUMBERS]
    if told:
        numbers = {text: as_number(text, decimal_comma=decimal_comma) for text in told}
        if all(number is not None for number in numbers.values()):
            return "number", [numbers.get(text) for text in given]
    if filled and {text.lower() for text in filled} <= {"true", "false"}:
        return "boolean", [text.lower() == "true" if text in filled else None for text in given]
    if filled and all(text[0] in "[{(" and _read_list(text) is not None for text in filled):
        return "list", [_read_list(text) or None if text in filled else None for text in given]
    return "text", [text if text in filled else None for text in given]


def as_names(value: Any, *, is_people: bool = False) -> list[str]:
    """Read names from a list, a list written as text, a list of objects with names, or a separated text.

    ``|``, ``;`` and commas separate; names of people commas only where no part is a single word, since
    "Austen, Jane" is one name.
    """
    if isinstance(value, str):
        value = value.strip()
        if value in _MISSING:
            return []
        if (listed := _read_list(value)) is not None:
            return listed
        parts = re.split(r"[|;]", value)
        if len(parts) == 1 and "," in value:
            pieces = [piece.strip() for piece in value.split(",")]
            if not is_people or all(" " in piece for piece in pieces):
                parts = pieces
        return [part.strip() for part in parts if part.strip()]
    if is_missing(value):
        return []
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return _names_of([value])
    return _names_of(value) if isinstance(value, (list, tuple, set, frozenset)) else [str(value)]


def _read_list(text: str) -> list[str] | None:
    """Return the names of a list written as text: JSON, Python or numpy; None if it is none."""
    if not (text.startswith(("[", "{", "(")) and text.endswith(("]", "}", ")"))):
        return None
    if text.startswith("[") and _NO_COMMAS.search(text) and "," not in _QUOTED.sub("", text):
        return [(one or other).strip() for one, other in _QUOTED.findall(text)]  # as numpy prints arrays
    found: Any = None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    if isinstance(found, Mapping):
        found = [found] if "name" in found else None
    return _names_of(found) if isinstance(found, (list, tuple, set)) else None


def _names_of(entries: Iterable[Any]) -> list[str]:
    names = []
    for entry in entries:
        if isinstance(entry, Mapping):
            told = next((entry[key] for key in ("name", "title", "label", "value") if entry.get(key)), None)
            entry = json.dumps(entry, ensure_ascii=False, default=str) if told is None else told
        if not is_missing(entry):
            names.append(str(entry).strip())
    return names


def as_year(value: Any) -> int | None:
    """Return the year of a number, a date or a text with one year in it; None if there is none given.

    Raises
    ------
    ValueError
        If something is given and no year can be found in it.
    """
    if is_missing(value):
        return None
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.year
    text = str(value).strip()
    if re.fullmatch(r"[+-]?\d{1,4}(\.0+)?", text) and not isinstance(value, bool):
        return int(float(text))
    years = _YEAR_IN_TEXT.findall(text) if isinstance(value, str) else []
    # A range of years begins with the first of them.
    if re.search(r"\d\s*B\.?C", text):  # no year of four digits that stands alone
        years = []
    if len(years) == 1 or (len(years) == 2 and re.fullmatch(r"\d{4}\s*[-–/]\s*\d{4}", text)):
        return int(years[0])
    if isinstance(value, str) and text in _MISSING_NUMBERS:
        return None
    raise ValueError(f"{text!r} holds no year")


def plain_value(value: Any) -> Plain | None:
    """Return a value as metadata can hold it; None where it says nothing.

    Numbers of numpy become Python's, lists of objects the list of their names, other kinds JSON text.

    Raises
    ------
    ValueError
        If no store can keep it: a number that is not finite or over 64 bits, or text that is no Unicode.
    """
    if hasattr(value, "tolist") and not isinstance(value, (str, bytes)):  # numpy, without importing it
        value = value.tolist()
    if value is None or (isinstance(value, (str, list, tuple, set, dict)) and not value):
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise ValueError("does not fit into 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"is {value}, which is not finite")
        return float(value)
    if isinstance(value, (list, tuple, set, frozenset)) and all(
        isinstance(entry, str) or (isinstance(entry, Mapping) and "name" in entry) for entry in value
    ):
        plain: Plain = _names_of(value)
    elif isinstance(value, (datetime.date, datetime.datetime)):
        plain = value.isoformat()
    else:
        plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    try:
        json.dumps(plain, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    return plain
