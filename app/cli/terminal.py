"""What all commands share: the terminal, and the client of the service that the settings name."""

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

AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
ID_COLUMN = Column("id", no_wrap=True, min_width=30)


def say(line: str) -> None:
    """Print a line as it is: a name such as "run [/x]" in a plain string would be read as markup."""
    console.print(Text(line), soft_wrap=True)


@contextmanager
def open_client() -> Generator[Client]:
    """The service of the settings. Raises CannotRun without a key."""
    settings = Settings()
    key = settings.api_key
    if not key:
        if not settings.key_file().exists():
            from app.explain import CannotRun

            raise CannotRun(
                f"no API key: set TUNESMITH_API_KEY, or start the service with `tunesmith up`, which writes {settings.key_file()}"
            )
        key = settings.key_file().read_text().strip()
    yield Client(settings.url, key)
