"""Writing files that belong together so that what was there before is lost only when all is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["write_files"]


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files beside their places, all of them, and then put them there in the order that is given.

    A full disk or a kill while they are written leaves the older ones as they were. Folders are made.

    Raises
    ------
    OSError
        If one cannot be written.
    """
    waiting = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in files}
    try:
        for path, beside in waiting.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as stream:
                stream.write(files[path])
                stream.flush()
                os.fsync(stream.fileno())
        for path, beside in waiting.items():
            beside.replace(path)
    finally:
        for beside in waiting.values():
            with suppress(OSError):
                beside.unlink(missing_ok=True)
