"""The models of a models folder, which jobs name `local:NAME`."""

from pathlib import Path

PREFIX = "local:"


def local_models(folder: Path) -> list[str]:
    """The names of the models in this folder, sorted.

    Empty if the folder is missing or cannot be read. Each model is a folder, or a link to one. Whether it can be loaded
    is checked by the attempt.
    """
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
