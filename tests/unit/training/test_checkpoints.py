import json
from pathlib import Path

import pytest

from worker.training.checkpoints.folders import commit, folder_name, newest_valid, rotate, verify
from worker.training.errors import CheckpointBroken


def make(root: Path, step: int, text: str = "weights") -> Path:
    staging = root / "staging" / str(step)
    (staging / "inner").mkdir(parents=True)
    (staging / "model.safetensors").write_text(text)
    (staging / "inner" / "extra.json").write_text("{}")
    final = root / "checkpoints" / folder_name(step)
    commit(staging, final, {"step": step, "epoch": step / 2, "metrics": {"eval_loss": 0.5}, "best_step": None})
    assert not staging.exists()
    return final


def test_a_committed_folder_verifies_and_tells_its_facts(tmp_path: Path) -> None:
    folder = make(tmp_path, 42)
    manifest = verify(folder)
    assert folder.name == "step-00000042"
    assert manifest.step == 42
    assert manifest.facts == {"epoch": 21.0, "metrics": {"eval_loss": 0.5}, "best_step": None}
    assert [file.path for file in manifest.files] == ["inner/extra.json", "model.safetensors"]
    assert json.loads((folder / "manifest.json").read_text())["version"] == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_changed_missing_or_longer_file_is_reported(tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    (folder / "model.safetensors").write_text("wEights")
    with pytest.raises(CheckpointBroken, match=r"bytes of model\.safetensors"):
        verify(folder)
    (folder / "model.safetensors").write_text("longer weights")
    with pytest.raises(CheckpointBroken, match="has 14 bytes, its manifest says 7"):
        verify(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointBroken, match="missing"):
        verify(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "step": 1, "files": [1]}'])
def test_an_unreadable_manifest_is_reported(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path, 1)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointBroken, match="manifest"):
        verify(folder)


def test_a_manifest_may_not_name_files_outside(tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    body = json.loads((folder / "manifest.json").read_text())
    body["files"][0]["path"] = "../../staging"
    (folder / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointBroken, match="outside"):
        verify(folder)


def test_the_newest_valid_one_is_found_by_step_past_broken_and_unfinished_ones(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        make(tmp_path, step)
    (tmp_path / "checkpoints" / "step-00000100" / "model.safetensors").unlink()
    (tmp_path / "checkpoints" / "step-00000200").mkdir()
    (tmp_path / "checkpoints" / ".step-00000300.building").mkdir()
    assert newest_valid(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-00000010"
    assert newest_valid(tmp_path / "nowhere") is None


def test_rotation_goes_by_step_and_spares_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        make(tmp_path, step)
    (tmp_path / "checkpoints" / ".step-00000006.building").mkdir()
    assert rotate(tmp_path / "checkpoints", keep=2, best_step=2) == [1, 3]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000004", "step-00000005"]


def test_a_step_that_is_saved_again_is_replaced(tmp_path: Path) -> None:
    make(tmp_path, 7, "old")
    assert (make(tmp_path, 7, "new") / "model.safetensors").read_text() == "new"
