"""What compiling a model cost on this worker and what it gave, kept for later jobs."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class CompileCost:
    """One measurement."""

    seconds: float
    """How long compiling took."""
    time_ratio: float
    """The time of a compiled step over that of another."""


class CompileCosts:
    """The latest measurement for this kind of model on this hardware. Without a folder, nothing is kept."""

    def __init__(self, folder: Path | None, model: Any) -> None:
        self._file = None if folder is None else folder / f"cost-{_kind(model)}.json"

    def known(self) -> CompileCost | None:
        """What an earlier job measured; None if no job did."""
        if self._file is None or not self._file.is_file():
            return None
        try:
            return CompileCost(**json.loads(self._file.read_text()))
        except (ValueError, TypeError):
            # Another version wrote it, or two jobs at once: this job measures again.
            return None

    def keep(self, cost: CompileCost) -> None:
        """Keep a measurement."""
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(asdict(cost)))


def _kind(model: Any) -> str:
    """Models of one kind compile alike: the same classes, sizes and types of number, on the same hardware."""
    parts = [
        type(model).__name__,
        torch.__version__,
        torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        *sorted({f"{tuple(weight.shape)} {weight.dtype} {weight.requires_grad}" for weight in model.parameters()}),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
