"""`python -m app`: the API server."""

import argparse
import logging
import signal
import socket
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.api.bounded_http import BoundedHttp
from app.api.connections import Connections, Patience, descriptor_limit
from app.main import create_app
from app.private_files import keep_private
from app.settings import Settings


def main() -> None:
    """Serve until SIGTERM or SIGINT; open requests get 20 seconds."""
    parser = argparse.ArgumentParser(
        prog="python -m app", description="The Tunesmith API server. Settings: TUNESMITH_*."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--listening", type=int, help="An inherited socket that listens, instead of host and port.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    keep_private(settings)
    connections = Connections(
        descriptor_limit(settings.connection_limit),
        Patience(settings.head_timeout_seconds, settings.body_timeout_seconds, settings.send_timeout_seconds),
    )
    app = create_app(settings, connections)
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        http=partial(BoundedHttp, connections),  # type: ignore[arg-type]
        # Without it, one slow reader would keep the process alive forever.
        timeout_graceful_shutdown=20,
        server_header=False,
        log_config=None,
        access_log=False,
    )
    server = _Server(config, app)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn restores these handlers at its end, and then sends itself the signal again. With Python's own
        # handlers, a clean stop would end with that signal, or with KeyboardInterrupt.
        signal.signal(number, server.handle_exit)
    server.run(None if arguments.listening is None else [socket.socket(fileno=arguments.listening)])


class _Server(uvicorn.Server):
    """Ends event streams when it is asked to stop, because uvicorn waits for them before it runs its shutdown."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop: no new stream starts, readiness is 503, and running requests continue."""
        feed = getattr(self._app.state, "feed", None)
        if feed is not None:
            feed.end_streams()
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    main()
