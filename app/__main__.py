"""`python -m app`: the API server."""

import argparse
import logging

import uvicorn

from app.main import create_app


def main() -> None:
    """Serve until SIGTERM or SIGINT; open requests get 20 seconds."""
    parser = argparse.ArgumentParser(
        prog="python -m app", description="The Tunesmith API server. Settings: TUNESMITH_*."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(
        create_app(),
        host=arguments.host,
        port=arguments.port,
        # Without it an open stream would keep the process alive for ever.
        timeout_graceful_shutdown=20,
        server_header=False,
        log_config=None,
        access_log=False,
    )


if __name__ == "__main__":
    main()
