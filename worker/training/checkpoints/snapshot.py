"""A copy of a model and its optimizer between two steps, which can be written while training goes on."""

import json
import resource
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file

OPTIMIZER, OPTIMIZER_BEFORE = "optimizer.safetensors", "optimizer.pt"
"""The file of the optimizer's state, and that of the checkpoints of earlier releases."""


class Snapshot:
    """The weights that training changes, and the state of the optimizer.

    They are copied to host memory where there is room for the copy beside what training needs at its peak. Where there
    is none, `is_copied` is False, and the snapshot must be written before the next step.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        # With `keep_vars`, a tied weight is one object under two names, and remains one in the copy.
        weights: dict[str, Any] = model.state_dict(keep_vars=True)
        changing = [weight for weight in weights.values() if _changes(weight)]
        state = optimizer.state_dict()
        self._model = model
        self.is_copied = _has_room_for(_bytes_of(changing) + _bytes_of(_tensors_of(state).values()))
        copies = {id(weight): self._copied(weight) for weight in changing}
        self._weights = {name: copies.get(id(weight), _detached(weight)) for name, weight in weights.items()}
        self._tensors = {name: self._copied(tensor) for name, tensor in _tensors_of(state).items()}
        self._values = json.dumps(
            {
                "state": {key: _without_tensors(values) for key, values in state["state"].items()},
                "param_groups": state["param_groups"],
            }
        )

    def write(self, folder: Path) -> None:
        """Write the model as transformers or PEFT has it, and the optimizer. Raises OSError if the disk refuses."""
        self._model.save_pretrained(folder, state_dict=self._weights)
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors.items()}
        save_file(tensors, folder / OPTIMIZER, metadata={"values": self._values})

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        if not self.is_copied:
            return tensor
        return tensor.clone() if tensor.device.type == "cpu" else tensor.cpu()


def load_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Path, device: torch.device) -> None:
    """Load the optimizer's state of a checkpoint, also of one that an earlier release wrote."""
    if (checkpoint / OPTIMIZER_BEFORE).exists():
        state = torch.load(checkpoint / OPTIMIZER_BEFORE, map_location=device, weights_only=True)
    else:
        state = _read(checkpoint / OPTIMIZER, device)
    optimizer.load_state_dict(state)


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    with safe_open(path, framework="pt", device=str(device)) as file:
        values = json.loads(cast("dict[str, str]", file.metadata())["values"])
        state: dict[int, dict[str, Any]] = {int(key): found for key, found in values["state"].items()}
        for name in file.keys():  # noqa: SIM118 - not a mapping
            key, _, field = name.partition(".")
            state[int(key)][field] = file.get_tensor(name)
    return {"state": state, "param_groups": values["param_groups"]}


def _tensors_of(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {
        f"{key}.{field}": value
        for key, values in state["state"].items()
        for field, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _without_tensors(values: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in values.items() if not isinstance(value, torch.Tensor)}


def _changes(weight: object) -> bool:
    # Buffers are copied, whether or not they change. They are small.
    return isinstance(weight, torch.Tensor) and (weight.requires_grad or not isinstance(weight, torch.nn.Parameter))


def _detached(weight: Any) -> Any:
    return weight.detach() if isinstance(weight, torch.Tensor) else weight


def _bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _has_room_for(size: int) -> bool:
    """Whether so many bytes are free now, and also while training is at its peak."""
    status = _bytes_by_name("/proc/self/status")
    free = _bytes_by_name("/proc/meminfo")["MemAvailable"] - (status["VmHWM"] - status["VmRSS"])
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - max(status["VmData"], status["VmHWM"]))
    return size < free


def _bytes_by_name(path: str) -> dict[str, int]:
    # Both files of proc(5) have lines such as `VmRSS:     123456 kB`.
    lines = (line.partition(":") for line in Path(path).read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, _, value in lines}
