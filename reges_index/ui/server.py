"""The web chat as a server of its own, which talks to nobody but its browsers."""

from __future__ import annotations

import socket
from contextlib import suppress

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reges_index.errors import ConfigError
from reges_index.ui.page import launch_options

# Gradio needs its inline scripts and templates; whatever the page holds, it can only talk to this server.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; form-action 'self'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _KeepInside:
    """Adds the headers that keep a browser from asking any other host."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def web_app(page: gr.Blocks) -> FastAPI:
    """Return the page as an ASGI app whose browsers are kept from asking any other host."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(_KeepInside)
    gr.mount_gradio_app(app, page, path="/", **launch_options())
    return app


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 takes any that is free.

    Raises
    ------
    ConfigError
        If the host is unknown or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()  # from now on browsers wait instead of being refused
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error.strerror or error})",
            hint="choose another --port (0 takes a free one) or --host",
        ) from error
    return bound


def server(page: gr.Blocks) -> uvicorn.Server:
    """Return a server of the page that is not started yet."""
    # Open event streams of pages would else keep it from ending.
    return uvicorn.Server(uvicorn.Config(web_app(page), log_level="warning", timeout_graceful_shutdown=2))


def serve(page: gr.Blocks, listening: socket.socket) -> None:
    """Serve the page on a socket of `bind` until interrupted, which is how it ends."""
    with suppress(KeyboardInterrupt):
        server(page).run(sockets=[listening])
