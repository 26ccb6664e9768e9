"""Checks that each event holds the data that its type declares, and nothing else."""

from collections.abc import Iterable
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from app.jobs.events import DATA, EventType
from app.jobs.tables import Event

FIELDS: dict[EventType, dict[str, TypeAdapter[Any]]] = {
    kind: {name: TypeAdapter(hint) for name, hint in get_type_hints(declared).items()}
    for kind, declared in DATA.items()
}


def check(events: Iterable[Event]) -> None:
    """Raises ValueError for a type or a value that is not declared, AssertionError for a missing or unknown field."""
    for event in events:
        kind = EventType(event.type)
        assert event.data.keys() >= DATA[kind].__required_keys__, (kind, event.data)
        assert event.data.keys() <= FIELDS[kind].keys(), (kind, event.data)
        for name, value in event.data.items():
            FIELDS[kind][name].validate_python(value)
