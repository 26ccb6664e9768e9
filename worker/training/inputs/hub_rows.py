"""Reads a dataset repository of the hub: one configuration of it, and of that a split or a slice, at one commit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import datasets
import httpx2
from datasets import config as streaming
from datasets.exceptions import DatasetsError
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as BUILDERS  # pyright: ignore[reportPrivateUsage]
from datasets.packaged_modules.cache.cache import Cache

from app.specs.data import HubData
from worker.training.errors import NO_ROOM, DataNeedsCode, DataNotFound, HubUnreachable

SCRIPT = "Dataset scripts are no longer supported"
"""How `datasets` says that a repository needs code of its own."""


STREAM_TRIES = 4
"""How often a stream that broke off is opened again, half a minute each: then the attempt ends, and is tried again."""


def whole(source: HubData, commit: str | None = None) -> tuple[datasets.Dataset, str]:
    """Download all rows of the source, and the commit they are of; `commit` is one that was settled before.

    Raises DataNotFound, DataNeedsCode or HubUnreachable.
    """
    with reasons(source):
        found = _builder(source, commit)
        found.download_and_prepare()
        return cast("datasets.Dataset", found.as_dataset(split=cast("Any", source.split))), _commit(found)


def stream(source: HubData, commit: str | None = None) -> tuple[datasets.IterableDataset, str]:
    """The rows of the source to be read as they are taken, and the commit they are of. Raises as `whole` does."""
    with reasons(source):
        found = _builder(source, commit)
        # Its own 20 tries are ten minutes without a word, in which no wish to stop is heard.
        streaming.STREAMING_READ_MAX_RETRIES = STREAM_TRIES
        rows = found.as_streaming_dataset(split=source.split)
        return cast("datasets.IterableDataset", rows), _commit(found)


def class_names(kind: Any) -> list[str]:
    """The names of a column's classes, where it is one of class ids, or of lists of them as columns of tags are."""
    inner = kind.feature if isinstance(kind, (datasets.List, datasets.LargeList)) else kind
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else []


@contextmanager
def reasons(source: HubData) -> Iterator[None]:
    """Raises what goes wrong in here with the source as DataNotFound, DataNeedsCode or HubUnreachable."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataNotFound(f"dataset '{source.hub}': {error}") from error
    except (OSError, httpx2.HTTPError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise HubUnreachable(f"dataset '{source.hub}' could not be fetched: {error}") from error
    except (ValueError, RuntimeError, DatasetsError) as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            raise
        if SCRIPT in str(error):
            raise DataNeedsCode(
                f"dataset '{source.hub}' is made by a program of its own, which is never run"
            ) from error
        # An unknown config or split, files that cannot be read, or a README that says other than they do.
        kind = f"{type(error).__name__}: " if isinstance(error, DatasetsError) else ""
        raise DataNotFound(f"dataset '{source.hub}': {kind}{error}{f': {cause}' if cause else ''}") from error


def _builder(source: HubData, commit: str | None) -> datasets.DatasetBuilder:
    # `datasets` also takes folders of this machine and the names of file formats; a job may name neither.
    if Path(source.hub).exists() or source.hub in BUILDERS or ".." in source.hub:
        raise DataNotFound(f"'{source.hub}' is not the id of a hub dataset")
    revision = commit or source.revision
    found = datasets.load_dataset_builder(source.hub, source.config, revision=revision)
    # Where the hub is away it takes the newest that was ever prepared here, whatever revision that is.
    if isinstance(found, Cache) and revision is not None and _commit(found) != revision:
        raise HubUnreachable(f"dataset '{source.hub}' at '{revision}' could not be fetched, and is not in the cache")
    return found


def _commit(found: datasets.DatasetBuilder) -> str:
    return str(found.hash)
