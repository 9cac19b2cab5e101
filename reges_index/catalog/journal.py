"""What a folder store remembers of its last write, so that a kill at any point can be told and mended.

Chroma keeps rows in SQLite, which survives a kill, but writes the files of its vector index in place, so a
kill in the middle of that leaves an index that loses rows, fails or even hangs. And a process that has the
store open does not see what another one writes; if it then writes itself, rows are lost. (Both were tried
out with chromadb 1.5.9.) The journal is a small file beside the database: a revision that changes with every
write, the collection that is being written, and how the index files looked after the last finished batch.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reges_index.errors import CatalogError

__all__ = ["Files", "Journal", "index_files", "read_journal", "write_journal"]

Files = dict[str, list[int]]

_FILE = ".reges-journal.json"


@dataclass(frozen=True)
class Journal:
    """State of a folder store.

    Parameters
    ----------
    revision
        New with every write; empty if nobody has written through this package.
    pending
        Collections whose last write has not ended, each with the state of the index files (see `index_files`)
        when its last batch was safely in.
    """

    revision: str = ""
    pending: dict[str, Files] = field(default_factory=dict)

    def broken(self, folder: Path) -> set[str]:
        """Return the collections whose index files were being written when their writer was killed."""
        files = index_files(folder)
        return {name for name, before in self.pending.items() if before != files}


def read_journal(folder: Path) -> Journal:
    """Return the folder's journal, an empty one if there is none.

    Raises
    ------
    CatalogError
        If the file is not what was written.
    """
    path = folder / _FILE
    try:
        return Journal(**json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return Journal()
    except (ValueError, TypeError) as error:
        raise CatalogError(
            f"{path} is damaged: {error}", hint="delete the folder and index the items again"
        ) from error


def write_journal(folder: Path, pending: dict[str, Files]) -> Journal:
    """Write a journal with a new revision; whole or not at all."""
    journal = Journal(uuid.uuid4().hex, pending)
    draft = folder / f"{_FILE}.{os.getpid()}"
    try:
        draft.write_text(json.dumps(asdict(journal)), "utf-8")
        draft.replace(folder / _FILE)
    finally:
        draft.unlink(missing_ok=True)
    return journal


def index_files(folder: Path) -> Files:
    """Return size (bytes) and time of change (ns) of Chroma's saved index files.

    Each collection has a folder. Until its `index_metadata.pickle` is there, which is saved last, Chroma
    builds the index from the database and every process writes the other files anew: these mean nothing.
    """
    states = {}
    for saved in sorted(folder.glob("*/index_metadata.pickle")):
        for path in sorted(saved.parent.iterdir()):
            status = path.stat()
            states[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    return states
