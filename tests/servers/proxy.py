"""A proxy on loopback that breaks connections on purpose."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes
    ----------
    delay_s
        Seconds before anything is done.
    instead
        Bytes sent in place of the server's answer, which is then not asked.
    kept
        Share of the answer's bytes that get through before the connection is cut.
    """

    delay_s: float = 0.0
    instead: bytes | None = None
    kept: float = 1.0


PASS = Fault()


def answer(status: int, body: Any = "", *, kind: str = "application/json", **headers: str) -> Fault:
    """An answer of our own; a body that is no text goes as JSON, ``_`` in header names stands for ``-``."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} Told", f"content-type: {kind}", f"content-length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Fault(instead="\r\n".join([*lines, "connection: close", "", ""]).encode() + data)


class Proxy:
    """``faults`` befall the next requests, one each; ``always`` all others. ``requests`` counts them."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self.faults: list[Fault] = []
        self.always = PASS
        self.requests = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{parts.path}"

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read(reader)
            self.requests += 1
            fault = self.faults.pop(0) if self.faults else self.always
            await asyncio.sleep(fault.delay_s)
            data = fault.instead if fault.instead is not None else await self._forward(request)
            writer.write(data[: int(len(data) * fault.kept)])
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client gave up waiting, as some tests want it to
        finally:
            writer.close()

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            head, _, body = request.partition(b"\r\n\r\n")
            head = re.sub(rb"(?im)^connection:.*\r\n", b"", head + b"\r\n")
            # One request a connection, so that no fault befalls a connection that waits in a pool.
            writer.write(head + b"connection: close\r\n\r\n" + body)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"(?im)^content-length: *(\d+)", head)
    return head + await reader.readexactly(int(found[1]) if found else 0)


@contextmanager
def fault_proxy(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
