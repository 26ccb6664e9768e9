"""What tokens depend on. Two splits of which all of this is equal have the same tokens, whichever job they belong to.

Of the spec that is `task`, `tokenization` and `columns`: a task's `encode` must look at nothing else of it.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import app.specs

if TYPE_CHECKING:
    # The cache is imported by processes that need no ML library.
    from worker.training.tokens.tokenization import Encoder

Identity = dict[str, Any]
PACKAGES = ("tokenizers", "transformers", "tunesmith")
LEFT_BY_LOADING = ("is_local", "local_files_only")
LEFT_BY_A_CALL = (
    "max_length",
    "stride",
    "truncation_strategy",
    "truncation_side",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "padding_side",
)
"""What a tokenizer writes of its last call, and every call sets again; the sides and the type id are part of the identity by themselves."""


def identities(splits: list[str], encoder: "Encoder", scratch: Path) -> dict[str, Identity]:
    """The identity of the tokens of each split. `scratch` is an existing folder, which is left as it was.

    Raises OSError where the disk has no room for the tokenizer's files.
    """
    spec, resolved = encoder.spec, encoder.resolved
    common: Identity = {
        "tokenizer": _tokenizer(encoder.tokenizer, scratch),
        "task": spec.task.model_dump(mode="json"),
        "tokenization": spec.tokenization.model_dump(mode="json"),
        # A list, because the hash of the rows is of the columns in this order.
        "columns": [list(pair) for pair in spec.columns.items()],
        "labels": resolved.labels,
        "max_length": resolved.max_length,
        "versions": VERSIONS,
        "code": CODE,
    }
    return {split: {"split": split, "rows": resolved.datasets[split], **common} for split in splits}


def _tokenizer(tokenizer: Any, scratch: Path) -> str:
    """SHA-256 over the files that make the tokenizer again, wherever it came from and whether or not it was used."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="tokenizer-") as name:
        tokenizer.save_pretrained(name)
        files = sorted(path for path in Path(name).rglob("*") if path.is_file())
        known: dict[str, Callable[[bytes], bytes]] = {
            "tokenizer.json": _without("truncation", "padding"),
            "tokenizer_config.json": _without(*LEFT_BY_LOADING, *LEFT_BY_A_CALL),
        }
        hashes: list[list[Any]] = [
            [path.name, _sha256(known.get(path.name, bytes)(path.read_bytes()))] for path in files
        ]
    sides = [getattr(tokenizer, name, None) for name in ("truncation_side", "padding_side", "pad_token_type_id")]
    return _sha256(json.dumps([type(tokenizer).__qualname__, sides, hashes]).encode())


def _without(*keys: str) -> Callable[[bytes], bytes]:
    def left(content: bytes) -> bytes:
        values = cast("dict[str, Any]", json.loads(content))
        return json.dumps({key: value for key, value in values.items() if key not in keys}).encode()

    return left


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # Run from a checkout, our own package is not installed.
            continue
    return found


def _code() -> str:
    """SHA-256 over our own sources, so that a change of the encoding never meets tokens of the earlier code."""
    folders = {"worker/training": Path(__file__).parents[1], "app/specs": Path(app.specs.__file__).parent}
    sources = [
        [name, path.relative_to(folder).as_posix(), _sha256(path.read_bytes())]
        for name, folder in folders.items()
        for path in sorted(folder.rglob("*.py"))
    ]
    return _sha256(json.dumps(sources).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Read once, with the code that they describe: an installation may be replaced under a worker that runs on.
VERSIONS = _versions()
CODE = _code()
