"""Opening a table: it must be there, be whole, and have been made with the encoder that will search it."""

from __future__ import annotations

import logging

from reges_index.catalog.encoder import EncoderIdentity
from reges_index.catalog.stores.base import Record, Table
from reges_index.errors import CatalogError, EncoderMismatchError

__all__ = ["open_table"]

logger = logging.getLogger(__name__)

_warned: set[tuple[str, str]] = set()


def open_table(table: Table, identity: EncoderIdentity, *, create: bool) -> bool:
    """Check a table, making it first where that is asked for.

    Returns
    -------
    bool
        Whether it was made elsewhere, so that it can only be read.

    Raises
    ------
    StoreNotFoundError
        If it is not there and `create` is false.
    EncoderMismatchError
        If it was made with another encoder, dimension, template or space.
    CatalogError
        If its first sync was interrupted and `create` is false.
    """
    where = f"catalog {table.name!r} in {table.place}"
    if create:
        table.create(identity)
    record = table.record()
    if record.identity is None:
        _check_foreign(record, identity, where)
        return True
    record.identity.check(identity, where)
    if not create and not record.complete:
        raise CatalogError(
            f"{where} is half-written: its first sync stopped after {table.count()} items",
            hint="index the items again; what is there is kept and not embedded twice",
        )
    if not create and record.broken:
        raise CatalogError(
            f"{where} is half-written: a sync was killed while its vector index was saved",
            hint="index the items again; the catalog is then made anew",
        )
    return False


def _check_foreign(record: Record, identity: EncoderIdentity, where: str) -> None:
    """Check what can be checked of a table that does not record its encoder; warn once."""
    if record.dimension is not None and record.dimension != identity.dimension:
        raise EncoderMismatchError(
            f"{where} holds vectors of dimension {record.dimension}; "
            f"{identity.name!r} makes {identity.dimension}",
            hint="pass the embed_model that the collection was made with",
        )
    if (where, identity.name) not in _warned:
        _warned.add((where, identity.name))
        logger.warning(
            "%s was made elsewhere and does not say with which encoder; %s is assumed", where, identity.name
        )
