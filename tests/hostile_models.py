"""Model folders that somebody hostile made, each named by what it attempts."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

Change = Callable[[Path, Path], None]
"""Changes a copy of a good model; the second folder is a secret one outside of the models folder."""


def _set(**settings: Any) -> Change:
    def change(folder: Path, _: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | settings))

    return change


def _index(name: Callable[[Path, Path], str]) -> Change:
    def change(folder: Path, secret: Path) -> None:
        names = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        shard = name(folder, secret)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))
        # A folder without any weights would be refused for that.
        shutil.copy(secret / WEIGHTS, folder / "other.safetensors")

    return change


def _pickle_shard(folder: Path, _: Path) -> str:
    (folder / "model-00001-of-00001.bin").write_bytes(b"\x80\x04.")
    return "model-00001-of-00001.bin"


def _linked_shard(folder: Path, secret: Path) -> str:
    (folder / "model-00001-of-00001.safetensors").symlink_to(secret / WEIGHTS)
    return "model-00001-of-00001.safetensors"


def _write(name: str, content: bytes) -> Change:
    def change(folder: Path, _: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def _link(folder: Path, secret: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(secret / WEIGHTS)


def _overlap(folder: Path, _: Path) -> None:
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"a": tensor, "b": tensor}).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


CHANGES: dict[str, Change] = {
    "shard-above": _index(lambda _, secret: f"../../{secret.name}/{WEIGHTS}"),
    "shard-absolute": _index(lambda _, secret: str(secret / WEIGHTS)),
    "shard-pickle": _index(_pickle_shard),
    "shard-link": _index(_linked_shard),
    "shard-number": _index(lambda *_: 7),  # type: ignore[arg-type,return-value]
    "link": _link,
    "auto-map": _set(auto_map={"AutoModel": "code.Model"}),
    "nested-auto-map": _set(text_config={"deep": [{"auto_map": {"AutoModel": "code.Model"}}]}),
    "configuration-files": _set(configuration_files=["config.5.0.0.json"]),
    "kernel": _set(attn_implementation="org/kernel"),
    "private-kernel": _set(_attn_implementation="org/kernel"),
    "experts-kernel": _set(experts_implementation="org/kernel"),
    "other-weights": _set(transformers_weights="../../secret/model.safetensors"),
    "gguf": _set(gguf_file="/etc/passwd"),
    "adapter": _write("adapter_config.json", b'{"base_model_name_or_path": "/etc", "peft_type": "LORA"}'),
    "deep": _write(CONFIG, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "fairly-deep": _write(CONFIG, b'{"model_type": "bert", "a":' + b"[" * 200 + b"]" * 200 + b"}"),
    "list": _write(CONFIG, b"[1, 2]"),
    "huge-config": _write(CONFIG, b'{"a": "' + b"x" * (5 * 1024**2) + b'"}'),
    "deep-tokenizer": _write("tokenizer_config.json", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "huge-header": _write(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"),
    "overlap": _overlap,
    "truncated": _write(WEIGHTS, b"\x08\x00\x00"),
}


def make_hostile(models: Path, good: Path, secret: Path) -> list[str]:
    """Write every hostile model into the models folder. Returns their names."""
    for name, change in CHANGES.items():
        shutil.copytree(good, models / name, symlinks=False)
        change(models / name, secret)
    return list(CHANGES)
