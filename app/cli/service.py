"""Commands that run the service, its parts, and its migrations."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.terminal import say
from app.settings import Settings

cli = typer.Typer()

Port = Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")]


@cli.command()
def up(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    data: Annotated[
        Path | None, typer.Option(help="The folder for everything. Without it: TUNESMITH_DATA_DIR.")
    ] = None,
) -> None:
    """Start API and worker on this machine, with SQLite and a storage folder, without a broker."""
    from app.up import check_address, serve, set_up

    if data is not None:
        os.environ["TUNESMITH_DATA_DIR"] = str(data.absolute())
    settings = Settings()
    check_address(host, port)
    key_file = set_up(settings, say)
    say(f"Tunesmith on http://{host}:{port} (API: /docs). The key is in {key_file}")
    if data is not None or port != 8000:  # noqa: PLR2004 - the default of TUNESMITH_URL
        folder = settings.data_dir.absolute()
        say(f"In other shells: export TUNESMITH_DATA_DIR={folder} TUNESMITH_URL=http://{host}:{port}")
    serve(settings, host, port)


@cli.command()
def api(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="API processes behind the address, for more than one core.")
    ] = 1,
) -> None:
    """Start only the API."""
    Settings()  # Report invalid settings here, where the message is better.
    if processes > 1:
        from app.up import serve_apis

        serve_apis(host, port, processes)
        return
    os.execv(sys.executable, [sys.executable, "-P", "-m", "app", "--host", host, "--port", str(port)])  # noqa: S606 - it replaces this process, on purpose


@cli.command()
def worker(
    slots: Annotated[int | None, typer.Option(help="Jobs at once. Without it: TUNESMITH_SLOTS.")] = None,
) -> None:
    """Start a worker."""
    Settings()  # Report invalid settings here, where the message is better.
    chosen = [] if slots is None else ["--slots", str(slots)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "worker", *chosen])  # noqa: S606 - it replaces this process, on purpose


@cli.command()
def migrate() -> None:
    """Migrate the database to the newest schema."""
    from app.local_database import opened
    from app.migrate import upgrade
    from app.private_files import keep_private

    settings = Settings()
    keep_private(settings)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with opened(settings) as database:
        upgrade(database)
    say("The schema is at the newest migration.")
