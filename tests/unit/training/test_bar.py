from typing import Any

import pytest

from worker.training.bar import ProgressBar

NAMES = ["[/INST]", "run [/x]", "[red]", ":warning:", "a\\[b]"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    records: list[dict[str, Any]] = [
        {"type": "phase", "phase": name},
        {"type": "note", "message": f"2 classes were learned from train: {name}, b"},
        {"type": "metric", "step": 2, "values": {f"eval_{name}": 0.5}},
        {"type": "checkpoint", "path": f"checkpoints/{name}", "is_best": True},
        {"type": "result", "status": "succeeded", "step": 2, "metrics": {name: 1.0}},
    ]
    with ProgressBar() as bar:
        for record in records:
            bar.show(record)
    shown = capsys.readouterr().err
    assert f"note: 2 classes were learned from train: {name}, b" in shown
    assert f"step 2: eval_{name} 0.5000" in shown
    assert f"checkpoint checkpoints/{name} (best)" in shown
    assert f"succeeded at step 2  {name} 1.0000" in shown
    assert bar.result == records[-1]
