import json
from pathlib import Path

import pytest

from app.specs import JobSpec

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_job_spec(path: Path) -> None:
    text = path.read_text()
    for name in ("TRAIN_DATASET", "EVAL_DATASET"):
        text = text.replace(name, "ds_" + "0" * 26)
    JobSpec.model_validate(json.loads(text))
