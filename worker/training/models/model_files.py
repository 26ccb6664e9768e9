"""Checks the files of a model folder before any library reads them. Whoever wrote them may be hostile.

A configuration can name code, kernels and other files to load. An index can name weights outside of the folder. JSON can be
nested until a parser breaks. Each of these is refused here, so the libraries see only plain files of this folder.
"""

import json
import re
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from worker.training.errors import ModelNotFound, ModelRefused, without_paths

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
READ_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".spm", ".jinja")
"""Of the files that libraries read from a model folder."""
SHARD = re.compile(r"[\w][\w.-]*\.safetensors")
LARGEST_CONFIG_BYTES = 4 * 1024**2
DEEPEST = 32
"""Levels of nesting in a configuration."""
LOADS_MORE = frozenset(
    {
        "auto_map",
        "configuration_files",
        "custom_pipelines",
        "attn_implementation",
        "experts_implementation",
        "transformers_weights",
        "gguf_file",
        "adapter_kwargs",
        "kernel_config",
        "use_kernels",
        "trust_remote_code",
        "code_revision",
        "subfolder",
        "cache_dir",
        "proxies",
        "token",
        "use_auth_token",
    }
)
"""Settings with which transformers loads code, kernels, or files other than the usual ones."""
LOADS_KERNELS = ("_attn_implementation", "_experts_implementation")


def check_files(folder: Path, name: str) -> None:
    """Refuse a model folder that is incomplete or unsafe to load. `name` is the model's name in messages.

    Raises ModelNotFound without config.json, otherwise ModelRefused.
    """
    if not (folder / CONFIG).is_file():
        raise ModelNotFound(f"model '{name}' has no config.json", "A model folder is one that save_pretrained wrote.")
    files = sorted(path.name for path in folder.iterdir())
    if ADAPTER in files:
        raise ModelRefused(
            f"model '{name}' has an {ADAPTER}, so its weights are those of another model",
            "Merge the adapter into its base model, and use the merged model.",
        )
    _check_places(folder, files, name)
    _check_config(_json_object(folder / CONFIG, name), name)
    for other in ("generation_config.json", "tokenizer_config.json"):
        if other in files:
            _check_depth(_json_object(folder / other, name), other, name)
    check_weights(files, name)
    _check_index(folder, files, name)
    _check_headers(folder, files, name)


def check_weights(files: list[str], name: str) -> None:
    """Refuse a list of files without safetensors weights. Raises ModelRefused."""
    if any(file.endswith(".safetensors") for file in files):
        return
    pickles = [file for file in files if file.endswith(PICKLES)]
    if pickles:
        raise ModelRefused(
            f"model '{name}' has its weights only as {', '.join(pickles)}: a pickle runs code when it is loaded",
            "Convert it once: from_pretrained(…).save_pretrained(FOLDER) writes safetensors.",
        )
    raise ModelRefused(f"model '{name}' has no weights: no file ends in .safetensors")


def _check_places(folder: Path, files: list[str], name: str) -> None:
    whole = folder.resolve()
    # The files of a snapshot of the hub's cache are links to the blobs of the same repository.
    root = whole.parent.parent if whole.parent.name == "snapshots" else whole
    for file in files:
        path = folder / file
        if not file.endswith(READ_SUFFIXES) or path.is_dir():
            continue
        if not path.resolve().is_relative_to(root):
            raise ModelRefused(
                f"model '{name}': {file} is a link to a file outside of the model's folder",
                "Copy the file into the folder. The folder itself may be a link.",
            )
        if not path.is_file():
            raise ModelRefused(f"model '{name}': {file} is not a regular file")


def _json_object(path: Path, name: str) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_CONFIG_BYTES:
        raise ModelRefused(f"model '{name}': its {path.name} has more than {LARGEST_CONFIG_BYTES // 1024**2} MiB")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ModelRefused(f"model '{name}': its {path.name} is nested too deeply") from error
    except ValueError as error:
        raise ModelRefused(f"model '{name}': its {path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelRefused(f"model '{name}': its {path.name} must be a JSON object, not a {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _check_config(config: dict[str, Any], name: str) -> None:
    _check_depth(config, CONFIG, name)
    for key, value in _pairs(config):
        # Some releases of transformers left `_attn_implementation_autoset: true` behind, which names no kernel.
        if (key in LOADS_MORE or key.startswith(LOADS_KERNELS)) and not isinstance(value, bool) and value is not None:
            raise ModelRefused(
                f"model '{name}': its config.json sets '{key}', which can run code of its own or load other files",
                f"Remove '{key}' from config.json if the model does not need it.",
            )


def _check_depth(value: Any, file: str, name: str) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return
    raise ModelRefused(f"model '{name}': its {file} is nested more than {DEEPEST} levels deep")


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []


def _pairs(value: Any) -> list[tuple[str, Any]]:
    own = list(cast("dict[str, Any]", value).items()) if isinstance(value, dict) else []
    return own + [pair for inner in _inner(value) for pair in _pairs(inner)]


def _check_index(folder: Path, files: list[str], name: str) -> None:
    if INDEX not in files or "model.safetensors" in files:
        return
    shards = _json_object(folder / INDEX, name).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelRefused(f"model '{name}': its {INDEX} has no weight_map")
    for shard in dict.fromkeys(cast("dict[str, Any]", shards).values()):
        if not isinstance(shard, str) or SHARD.fullmatch(shard) is None:
            raise ModelRefused(
                f"model '{name}': its {INDEX} names the weights {without_paths(str(shard))[:100]!r}, "
                "which is not the plain name of a .safetensors file"
            )
        if shard not in files:
            raise ModelRefused(f"model '{name}': its {INDEX} names {shard}, which is missing")


def _check_headers(folder: Path, files: list[str], name: str) -> None:
    # Opening reads and checks only the header: its length, its JSON, and that the tensors neither overlap nor exceed the file.
    for file in files:
        if not file.endswith(".safetensors"):
            continue
        try:
            with cast("Any", safe_open)(folder / file, framework="numpy"):
                pass
        except (SafetensorError, OSError, ValueError, MemoryError, OverflowError) as error:
            raise ModelRefused(f"model '{name}': the weights of {file} are damaged: {error}") from error
