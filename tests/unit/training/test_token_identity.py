import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import make_model
from tokenizers import normalizers

from app.specs import TASKS as SPECS
from app.specs import JobSpec, Resolved
from worker.training.models.pretrained import load_tokenizer
from worker.training.planning.plan import Plan
from worker.training.tasks import TASKS
from worker.training.tokens.identity import Identity, identities

ROOT = Path(__file__).parents[3]
TELL = "from worker.training.tokens.identity import CODE, VERSIONS; import json; print(json.dumps([CODE, VERSIONS]))"
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
SEEN = ("task", "tokenization", "columns")
"""What the identity holds of a spec."""


class Narrow:
    """A spec of which nothing but these parts can be read."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec

    def __getattr__(self, name: str) -> Any:
        assert name in SEEN, f"encode reads spec.{name}, which the identity of tokens does not hold"
        return getattr(self._spec, name)


@pytest.fixture
def ready(plan: Callable[[JobSpec], Plan], spec: Callable[..., JobSpec]) -> Plan:
    return plan(spec())


@pytest.fixture
def identify(ready: Plan, tmp_path: Path) -> Callable[..., Identity]:
    """The identity of train, with what is named here in place of what the plan has."""

    def go(**changed: Any) -> Identity:
        before = sorted(tmp_path.iterdir())
        found = identities(["train"], replace(ready.encoder, **changed), tmp_path)["train"]
        assert sorted(tmp_path.iterdir()) == before
        return found

    return go


def test_splits_differ_even_where_their_rows_are_the_same(ready: Plan, tmp_path: Path) -> None:
    resolved = ready.resolved.model_copy(update={"datasets": {"train": "same", "eval": "same"}})
    found = identities(["train", "eval"], replace(ready.encoder, resolved=resolved), tmp_path)
    assert found["train"] != found["eval"]


@pytest.mark.parametrize("change", [{"datasets": {"train": "other"}}, {"labels": ["good", "bad"]}, {"max_length": 7}])
def test_what_was_resolved_is_part_of_it(
    identify: Callable[..., Identity], ready: Plan, change: dict[str, Any]
) -> None:
    assert identify(resolved=ready.resolved.model_copy(update=change)) != identify()


@pytest.mark.parametrize(
    "change",
    [
        {"task": {"labels": ["bad", "good"]}},
        {"tokenization": {"truncation": False}},
        {"tokenization": {"max_length": 20}},
        {"data": {"columns": {"text": "label", "label": "text"}}},
        {"data": {"columns": {"text_pair": "text"}}},
    ],
    ids=str,
)
def test_what_encode_reads_of_the_spec_is_part_of_it(
    identify: Callable[..., Identity], spec: Callable[..., JobSpec], change: dict[str, Any]
) -> None:
    assert identify(spec=spec(**change)) != identify()


def test_what_does_not_shape_tokens_is_no_part_of_it(
    identify: Callable[..., Identity], spec: Callable[..., JobSpec]
) -> None:
    other = spec(training={"learning_rate": 0.5, "seed": 9}, evaluation={"at_start": True}, name="other")
    assert identify(spec=other) == identify()


def set_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages }}"


def set_side(tokenizer: Any) -> None:
    tokenizer.truncation_side = "left"


def set_padding_side(tokenizer: Any) -> None:
    tokenizer.padding_side = "left"


def set_limit(tokenizer: Any) -> None:
    tokenizer.model_max_length = 9


def set_inputs(tokenizer: Any) -> None:
    tokenizer.model_input_names = ["input_ids", "attention_mask"]


def set_token(tokenizer: Any) -> None:
    tokenizer.pad_token = "[SEP]"


def add_token(tokenizer: Any) -> None:
    tokenizer.add_tokens(["splendid"])


def set_normalizer(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()


@pytest.mark.parametrize(
    "change",
    [set_chat_template, set_side, set_padding_side, set_limit, set_inputs, set_token, add_token, set_normalizer],
)
def test_every_trait_of_the_tokenizer_is_part_of_it(
    identify: Callable[..., Identity], models_dir: Path, change: Callable[[Any], None]
) -> None:
    changed = load_tokenizer(models_dir / "tiny")
    assert identify(tokenizer=changed) == identify()
    change(changed)
    assert identify(tokenizer=changed) != identify()


def test_it_does_not_matter_where_a_tokenizer_came_from_or_whether_it_was_used(
    identify: Callable[..., Identity], tmp_path: Path
) -> None:
    make_model(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    fresh, used = load_tokenizer(tmp_path / "a"), load_tokenizer(tmp_path / "b")
    used(["the film was good"], truncation=True, max_length=4, padding="max_length")
    used.save_pretrained(tmp_path / "checkpoint")
    assert json.loads((tmp_path / "checkpoint" / "tokenizer.json").read_text())["truncation"], "it kept nothing"
    resumed = load_tokenizer(tmp_path / "checkpoint")
    assert identify(tokenizer=fresh) == identify(tokenizer=used) == identify(tokenizer=resumed)


@pytest.mark.parametrize(
    "source", ["worker/training/tasks/text_classification.py", "app/specs/tasks/question_answering.py"]
)
def test_versions_and_our_own_code_are_part_of_it(
    identify: Callable[..., Identity], tmp_path: Path, source: str
) -> None:
    for package in ("app", "worker"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def identity_parts() -> Any:
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        done = subprocess.run(
            [sys.executable, "-c", TELL], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    known = identify()
    assert identity_parts() == [known["code"], known["versions"]]
    assert {"tokenizers", "transformers"} <= set(known["versions"])
    with (tmp_path / source).open("a") as file:
        file.write("# changed\n")
    installed = tmp_path / "tokenizers-99.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tokenizers\nVersion: 99.0\n")
    code, versions = identity_parts()
    assert code != known["code"]
    assert versions == {**known["versions"], "tokenizers": "99.0"}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_encode_reads_nothing_that_is_no_part_of_it(task: str, models_dir: Path) -> None:
    example = dict(SPECS[task].example)
    rows = example["data"]["train"]["rows"]
    spec = JobSpec.model_validate({**example, "model": "local:tiny"})
    narrow: Any = Narrow(spec)
    role, tokenizer = spec.task.target_role, load_tokenizer(models_dir / "tiny")
    tokenizer.chat_template = TEMPLATE
    labels = spec.task.learn({name for row in rows if role for name in spec.task.classes(row[role])})
    numbered = [{**row, "_row": number} for number, row in enumerate(rows, start=1)]
    assert TASKS[task].encode(numbered, tokenizer, narrow, labels, 16, "train")


def test_the_identity_is_readable_json(identify: Callable[..., Identity], ready: Plan) -> None:
    found = json.loads(json.dumps(identify()))
    assert isinstance(ready.resolved, Resolved)
    assert found["rows"] == ready.resolved.datasets["train"]
    assert found["columns"] == [["text", "text"], ["label", "label"]]
