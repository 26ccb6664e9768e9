"""What all commands share: the terminal, and a client of the service."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column
from rich.text import Text

from app.client import Client
from app.settings import Settings

console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print a response of the service as JSON.")]
ID_COLUMN = Column("id", no_wrap=True, min_width=30)


def say(line: str) -> None:
    """Print a line literally: in a plain string, a name such as "run [/x]" would be read as markup."""
    console.print(Text(line), soft_wrap=True)


@contextmanager
def open_client() -> Generator[Client]:
    """A client of the service that the settings name. Raises CannotRun without a key."""
    settings = Settings()
    key = settings.api_key
    if not key:
        if not settings.key_file().exists():
            from app.explain import CannotRun

            raise CannotRun(
                f"no API key: set TUNESMITH_API_KEY, or start the service with `tunesmith up`, which writes "
                f"{settings.key_file()}"
            )
        key = settings.key_file().read_text().strip()
    yield Client(settings.url, key)
