from typing import Any

import pytest

from app.specs import JobSpec

ASKED = [{"role": "user", "content": "hello"}]
ANSWER = [{"role": "assistant", "content": "good day"}]
COLUMNS = {part: part for part in ("prompt", "chosen", "rejected")}


def faults(**row: Any) -> list[tuple[str, str]]:
    data = {"train": {"rows": [{}]}}
    spec = JobSpec.model_validate({"task": {"type": "preference"}, "model": "m", "data": data})
    whole = {"prompt": "hello", "chosen": "good day", "rejected": "so long", **row}
    return list(spec.task.faults(whole, COLUMNS, None))


def test_texts_and_conversations_pass_also_as_json_text() -> None:
    assert faults() == []
    assert faults(prompt=ASKED, chosen=ANSWER, rejected="so long") == []
    text = '[{"role": "user", "content": "hello"}]'
    assert faults(prompt=text, chosen=ANSWER, rejected="so long") == []
    assert faults(prompt="[1] is a footnote", chosen="yes", rejected="no") == []


@pytest.mark.parametrize(
    ("row", "role", "says"),
    [
        ({"chosen": ANSWER}, "chosen", "the prompt a text"),
        ({"prompt": ASKED, "chosen": [*ASKED, *ANSWER]}, "chosen", "leave out the messages of the prompt"),
        ({"prompt": ASKED, "chosen": ASKED}, "chosen", "must be the answer"),
        ({"prompt": [{"role": "boss", "content": "x"}]}, "prompt", "roles are"),
        ({"rejected": "good day"}, "rejected", "the same as the chosen"),
        ({"rejected": " "}, "rejected", "empty"),
        ({"prompt": None}, "prompt", "no text"),
    ],
)
def test_what_cannot_be_learned_is_reported(row: dict[str, Any], role: str, says: str) -> None:
    found = faults(**row)
    assert [where for where, _ in found] == [role]
    assert says in found[0][1]
