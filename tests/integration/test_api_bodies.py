"""JSON bodies: whatever comes, the answer names the field and the limit, and nothing breaks."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refusal
from tiny import spec

HUGE = "1" + "0" * 400
ROW = {"text": "a", "label": "x"}

FIELDS: list[tuple[str, str, str, str]] = [
    # a field, the JSON put there, the param that is named, what the message must say
    ("training.learning_rate", HUGE, "training.learning_rate", "less than or equal to 1"),
    ("training.learning_rate", "-" + HUGE, "training.learning_rate", "greater than 0"),
    ("training.learning_rate", "1e400", "training.learning_rate", "less than or equal to 1"),
    ("training.learning_rate", "1" + "0" * 10_000, "training.learning_rate", "less than or equal to 1"),
    ("training.learning_rate", "NaN", "training.learning_rate", "NaN"),
    ("training.learning_rate", "Infinity", "training.learning_rate", "less than or equal to 1"),
    ("training.learning_rate", '"0.1"', "training.learning_rate", "must be a valid number"),
    ("training.epochs", "1000000000", "training.epochs", "less than or equal to 10000"),
    ("training.max_steps", HUGE, "training.max_steps", "less than or equal to 100000000"),
    ("training.batch_size", HUGE, "training.batch_size", "less than or equal to 4096"),
    ("training.batch_size", "true", "training.batch_size", "must be a valid integer"),
    ("training.learning_rat", "1", "training.learning_rat", "did you mean 'learning_rate'"),
    ("training.class_weights", '{"a": ' + HUGE + "}", "training.class_weights.a", "outside"),
    ("modle", '"x"', "modle", "did you mean 'model'"),
    ("name", '"\\ud800"', "name", "surrogate"),
    ("name", '"a\\u0000b"', "name", "NUL"),
    ("metadata", '{"\\udfff": "x"}', "metadata", "surrogate"),
    ("metadata", '{"a": 1}', "metadata.a", "must be a valid string"),
    ("metadata", '{"a": "x", "a": "y"}', "a", "twice"),
    ("data.train", '{"rows": [{"text": "a", "label": NaN}]}', "data.train.rows[0].label", "NaN"),
    ("data.train", '{"rows": [{"text": "\\udc00", "label": 1}]}', "data.train.rows[0].text", "surrogate"),
    ("data.train", '{"rows": [{"text": "a", "label": 1e400}]}', "data.train.rows[0].label", "1.8e308"),
    ("data.train", '{"rows": []}', "data.train.rows", "at least 1 item"),
    ("data.train", '{"file": "x"}', "data.train", "'dataset'"),
    ("data.columns", '{"txt": "a"}', "data.columns.txt", "its roles are text, label"),
    ("resources.timeout", '"31d"', "resources.timeout", "30d"),
    ("task.type", '"chat"', "task.type", "text-classification"),
]


@pytest.mark.parametrize(("field", "value", "param", "says"), FIELDS)
def test_a_field_out_of_bounds_is_named_with_its_limit(
    http: httpx.Client, field: str, value: str, param: str, says: str
) -> None:
    body = spec()
    *parents, last = field.split(".")
    part = body
    for name in parents:
        part = part.setdefault(name, {})
    part[last] = "@value@"
    answer = http.post("/v1/jobs", content=json.dumps(body).replace('"@value@"', value))
    error = refusal(answer, 422)
    assert error["param"] == param
    assert says in error["message"]
    assert http.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"),
        (b"NaN", "not_a_number"),
        (b'"\\ud800"', "invalid_text"),
        (b"[]", None),
        (b"null", None),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "too_deep"),
        (b'{"' + b"k" * 1_000_000 + b'": 1}', "spec_too_large"),
        (b'{"' + b"k" * 60_000 + b'": 1}', "unknown_field"),
    ],
)
def test_a_body_that_is_no_spec_is_refused_briefly(http: httpx.Client, body: bytes, code: str | None) -> None:
    answer = http.post("/v1/jobs/validate", content=body)
    refusal(answer, 422, code)
    assert len(answer.content) < 2000


def test_many_problems_are_counted_and_the_first_twenty_are_shown(http: httpx.Client) -> None:
    error = refusal(http.post("/v1/jobs/validate", json=spec(data={"train": {"rows": [1] * 5000}})), 422)
    assert "4999 more" in error["message"]
    assert [item["param"] for item in error["details"]] == [f"data.train.rows[{n}]" for n in range(20)]


def test_a_body_is_read_without_a_content_type_and_with_a_byte_order_mark(http: httpx.Client) -> None:
    body = json.dumps(spec()).encode()
    assert "content-type" not in http.build_request("POST", "/", content=body).headers
    assert http.post("/v1/jobs/validate", content=body).status_code == 200
    assert http.post("/v1/jobs/validate", content=b"\xef\xbb\xbf" + body).status_code == 200


def test_a_compressed_body_is_refused_by_its_encoding(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/jobs", content=gzip.compress(json.dumps(spec()).encode()), headers={"content-encoding": "gzip"}
    )
    refusal(answer, 415, "unsupported_content_encoding")
    assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused_with_or_without_its_length(http: httpx.Client, announced: bool) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b" " * 65_536] * 160

    answer = http.post("/v1/jobs", content=b" " * 10_485_760 if announced else chunks())
    error = refusal(answer, 413, "too_large")
    assert "2097152" in error["message"]


def test_inline_rows_over_a_mebibyte_are_refused_counted_as_they_are_written(http: httpx.Client) -> None:
    text = "字" * 500
    rows = [{"text": text, "label": ("good", "bad")[n % 2]} for n in range(670)]
    assert http.post("/v1/jobs/validate", json=spec(data={"train": {"rows": rows}})).status_code == 200
    error = refusal(http.post("/v1/jobs/validate", json=spec(data={"train": {"rows": rows + rows[:20]}})), 422)
    assert error["param"] == "data.train.rows"


ANY_TEXT = st.text(max_size=8) | st.sampled_from(["\0", "a\0", "\ud800", "x" * 300])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**299, max_value=10**310)
    | st.floats(allow_nan=True, allow_infinity=True)
    | ANY_TEXT
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4), max_leaves=12
)
PLACES = [
    ("name",), ("metadata",), ("priority",), ("task",), ("task", "labels"), ("model",), ("model", "config"), ("data",),
    ("data", "train"), ("data", "train", "rows"), ("data", "eval"), ("data", "columns"), ("data", "subset"),
    ("data", "eval_fraction"), ("tokenization",), ("training",), ("training", "class_weights"), ("training", "method"),
    ("evaluation",), ("evaluation", "metrics"), ("checkpoints",), ("resources",), ("resources", "timeout"),
]  # fmt: skip


def _with(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": {"type": "text-classification"},
        "model": {"id": "local:tiny"},
        "data": {"train": {"rows": [ROW, {"text": "b", "label": "y"}]}},
    }
    part = body
    for name in place[:-1]:
        part = part.setdefault(name, {})
    part[place[-1]] = value
    return body


BODIES = ANYTHING | st.builds(_with, st.sampled_from(PLACES), ANYTHING)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=BODIES, route=st.sampled_from(["/v1/jobs", "/v1/jobs/validate"]))
def test_no_body_at_all_breaks_the_service(http: httpx.Client, body: Any, route: str) -> None:
    answer = http.post(route, content=json.dumps(body).encode())
    if answer.status_code in (200, 201):
        # What was taken can be read again, whatever it holds.
        job = answer.json().get("id")
        assert job is None or http.get(f"/v1/jobs/{job}").json()["id"] == job
    else:
        refusal(answer, 422)
