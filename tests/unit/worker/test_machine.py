"""The GPUs of a worker, as nvidia-smi lists them and CUDA_VISIBLE_DEVICES restricts them."""

import os
from pathlib import Path

import nvidia
import pytest

from worker import machine

A10, H100, GH200 = (uuid for uuid, _, _ in nvidia.LISTED)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{nvidia.install(tmp_path / 'bin', *nvidia.LISTED)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("listed")
def test_without_a_restriction_all_gpus_are_reported_in_order() -> None:
    assert machine.gpus() == [
        {"uuid": A10, "name": "NVIDIA A10", "memory_mib": 23028},
        {"uuid": H100, "name": "NVIDIA H100 80GB HBM3", "memory_mib": 81559},
        {"uuid": GH200, "name": "NVIDIA GH200", "memory_mib": None},
    ]
    assert machine.describe()["gpus"] == machine.gpus()


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("allowed", "found"),
    [
        ("1", [H100]),
        ("1,0", [H100, A10]),
        (f"{GH200}, {A10}", [GH200, A10]),
        ("GPU-b", [GH200]),
        ("GPU-aaaa", []),  # two begin like that
        ("0,GPU-unknown,1", [A10]),
        ("2,-1,0", [GH200]),
        ("0,3,1", [A10]),
        ("1,1", [H100]),
        ("1,NoDevFiles", [H100]),
        ("", []),
        ("-1", []),
        ("MIG-7c1a", ["MIG-7c1a"]),
    ],
)
def test_a_restriction_selects_gpus_as_cuda_does(
    monkeypatch: pytest.MonkeyPatch, allowed: str, found: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert [gpu["uuid"] for gpu in machine.gpus()] == found


def test_a_driver_that_fails_and_a_machine_without_one_have_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert machine.gpus() == []
    failing = nvidia.install(tmp_path / "bin", *nvidia.LISTED, code=9)
    monkeypatch.setenv("PATH", f"{failing}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert machine.gpus() == []
