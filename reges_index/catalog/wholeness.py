"""Is a catalog fit to go live? Looked at before a swap, so that a broken one never gets there."""

from __future__ import annotations

import numpy as np

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.item import Item
from reges_index.catalog.reader import CatalogReader, where_of
from reges_index.catalog.rows import row_node
from reges_index.errors import CatalogError, InputError

__all__ = ["check_whole"]

_HINT = "what was live stays live; index the items of the new catalog again"
# A vector finds itself with cosine 1, up to the rounding of 32-bit floats and their order of addition.
_SELF = 0.999


def check_whole(catalog: CatalogReader, encoder: EncoderIdentity) -> int:
    """Read a whole catalog and check that it can serve.

    Parameters
    ----------
    catalog
        The one to check.
    encoder
        What its vectors must have been made with.

    Returns
    -------
    int
        Number of its items.

    Raises
    ------
    InputError
        If it is empty.
    EncoderMismatchError
        If it was made with another encoder.
    CatalogError
        If it is half-written, an item cannot be read or has no vector, or the index does not find it.
    """
    table = catalog.table
    where = where_of(table)
    encoder.check(catalog.encoder, "the live catalog")
    ids = table.ids()
    if not ids:
        raise InputError(f"{where} is empty", hint="a catalog needs at least one item; the old one stays")
    record = table.record()
    if record.broken or not record.complete:
        raise CatalogError(f"{where} is half-written", hint=_HINT)
    read = 0
    probe = None
    for start in range(0, len(ids), table.batch_size):
        for row in table.rows(ids[start : start + table.batch_size], with_vectors=True):
            read += 1
            Item.from_node(row_node(row.id, row.document, row.metadata))
            vector = row.vector
            if vector is None or vector.shape != (encoder.dimension,) or not np.isfinite(vector).all():
                raise CatalogError(f"{where}: item {row.id!r} has no usable vector", hint=_HINT)
            if not vector.any():
                raise CatalogError(f"{where}: item {row.id!r} has a vector of zeros", hint=_HINT)
            probe = vector
    if probe is None or read != len(ids):
        raise CatalogError(f"{where}: {len(ids)} items are listed and {read} can be read", hint=_HINT)
    [hits] = table.search([probe.tolist()], 1, with_rows=False)
    if not hits.scores or hits.scores[0] < _SELF:
        raise CatalogError(f"{where}: its index does not find an item by the item's own vector", hint=_HINT)
    return read
