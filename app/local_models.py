"""The models of a models folder, which jobs name `local:NAME`."""

from pathlib import Path

PREFIX = "local:"


def local_models(folder: Path) -> list[str]:
    """The names of the models in this folder, sorted; none where it is missing or cannot be read.

    Each is a folder, or a link to one. Whether it holds a model that can be loaded is for the attempt to say.
    """
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
