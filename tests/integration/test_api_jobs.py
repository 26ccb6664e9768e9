"""Posting, finding and cancelling jobs: what is checked before a job is taken, and that it is taken once."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from attempts import POLICY
from deployment import Deployment
from hand_worker import claim
from refusals import refusal
from sqlalchemy import func, select
from tiny import sentences, spec

from app.db import Database
from app.failures import Failure, FailureCode
from app.jobs import lifecycle
from app.jobs.outcomes import Failed
from app.jobs.tables import IdempotencyKey, Job

Upload = Callable[[list[dict[str, Any]]], str]


@pytest.fixture
def upload(http: httpx.Client) -> Upload:
    def upload(rows: list[dict[str, Any]]) -> str:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        answer = http.post("/v1/datasets", files={"file": ("rows.jsonl", content)})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    return upload


def test_a_job_is_taken_as_it_was_posted_with_its_defaults(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", json=spec(name="mood", metadata={"team": "search"}, priority=3))
    assert answer.status_code == 201
    job = answer.json()
    assert (job["status"], job["attempt"], job["name"], job["priority"]) == ("queued", 0, "mood", 3)
    assert (job["metadata"], job["queue_position"]) == ({"team": "search"}, 0)
    assert job["spec"]["training"]["weight_decay"] == 0.0
    seen = http.get(job["links"]["self"]).json()
    assert seen.pop("queued_seconds") >= job.pop("queued_seconds") >= 0
    assert seen == job
    events = http.get(job["links"]["events"]).json()["data"]
    assert [(event["id"], event["type"], event["data"]["to"]) for event in events] == [(1, "status", "queued")]
    for part in ("metrics", "logs", "checkpoints"):
        assert http.get(job["links"][part]).status_code == 200
    for part in ("artifacts", "archive"):
        refusal(http.get(job["links"][part]), 404, "model_not_published")


def test_validate_estimates_and_creates_nothing(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs/validate", json=spec())
    assert answer.json()["estimate"] == {"train_rows": 48, "eval_rows": 12, "steps": 18}
    assert answer.json()["spec"]["name"] is None
    assert http.get("/v1/jobs").json()["data"] == []


BAD_ROWS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    # what is wrong, the job's data, the code, what the first detail holds
    (
        "a label that train never has",
        {"train": {"rows": sentences(8)}, "eval": {"rows": [*sentences(2), {"text": "x", "label": "fine"}]}},
        "bad_row",
        {"split": "eval", "row": 3, "column": "label"},
    ),
    (
        "one class only",
        {"train": {"rows": [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]}, "eval": None},
        "classes",
        {"split": "train"},
    ),
    (
        "an empty text",
        {"train": {"rows": [*sentences(4), {"text": " \t", "label": "good"}]}, "eval": None},
        "bad_row",
        {"split": "train", "row": 5, "column": "text"},
    ),
    (
        "a text that is a number",
        {"train": {"rows": [*sentences(4), {"text": 7, "label": "good"}]}, "eval": None},
        "bad_row",
        {"split": "train", "row": 5, "column": "text"},
    ),
    (
        "a missing label",
        {"train": {"rows": [*sentences(4), {"text": "a"}]}, "eval": None},
        "bad_row",
        {"split": "train", "row": 5, "column": "label"},
    ),
    (
        "a missing column",
        {"train": {"rows": [{"review": "a", "label": "x"}, {"review": "b", "label": "y"}]}, "eval": None},
        "missing_column",
        {"split": "train", "column": "text"},
    ),
]


@pytest.mark.parametrize(("data", "code", "place"), [case[1:] for case in BAD_ROWS], ids=[case[0] for case in BAD_ROWS])
def test_rows_that_cannot_be_learned_from_are_refused_by_their_place(
    http: httpx.Client, data: dict[str, Any], code: str, place: dict[str, Any]
) -> None:
    error = refusal(http.post("/v1/jobs", json=spec(data=data)), 422, code)
    assert error["param"] == f"data.{place['split']}"
    assert {key: error["details"][0][key] for key in place} == place
    assert http.get("/v1/jobs").json()["data"] == []


def test_rows_of_uploads_are_checked_and_the_dataset_stays_as_it_was(http: httpx.Client, upload: Upload) -> None:
    bad = upload([*sentences(4), {"text": "", "label": "good"}, {"text": "a", "label": "ugly"}])
    before = http.get(f"/v1/datasets/{bad}").json()
    error = refusal(
        http.post("/v1/jobs", json=spec(data={"train": {"rows": sentences(4)}, "eval": {"dataset": bad}})), 422
    )
    assert [(item["row"], item["line"], item["column"]) for item in error["details"]] == [
        (5, 5, "text"),
        (6, 6, "label"),
    ]
    assert "ugly" in error["details"][1]["message"]
    assert http.get(f"/v1/datasets/{bad}").json() == before
    skipping = {"train": {"rows": sentences(4)}, "eval": {"dataset": bad}, "on_bad_row": "skip"}
    assert http.post("/v1/jobs/validate", json=spec(data=skipping)).status_code == 200


def test_a_missing_column_of_an_upload_lists_the_columns_there_are(http: httpx.Client, upload: Upload) -> None:
    dataset = upload([{"review": "a", "stars": 1}, {"review": "b", "stars": 2}])
    error = refusal(http.post("/v1/jobs", json=spec(data={"train": {"dataset": dataset}, "eval": None})), 422)
    assert (error["code"], error["param"]) == ("missing_column", "data.columns.text")
    assert error["details"] == {
        "split": "train",
        "columns": ["review", "stars"],
        "suggestion": {"text": "review", "label": "stars"},
    }
    assert 'perhaps "columns": {"text": "review", "label": "stars"}; its columns are review, stars' in error["message"]
    pasted = {"train": {"dataset": dataset}, "eval": None, "columns": error["details"]["suggestion"]}
    assert http.post("/v1/jobs/validate", json=spec(data=pasted)).status_code == 200


def test_a_missing_column_that_nothing_is_like_gets_no_suggestion(http: httpx.Client, upload: Upload) -> None:
    dataset = upload([{"a": "a", "label": 1}, {"a": "b", "label": 2}])
    error = refusal(http.post("/v1/jobs", json=spec(data={"train": {"dataset": dataset}, "eval": None})), 422)
    assert error["details"] == {"split": "train", "columns": ["a", "label"]}
    assert "perhaps" not in error["message"]


def test_label_cells_may_be_ids_into_the_labels_of_the_task(http: httpx.Client) -> None:
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": "1"}, {"text": "c", "label": "good"}]
    body = spec(data={"train": {"rows": rows}, "eval": None}, task={"labels": ["bad", "good"]})
    assert http.post("/v1/jobs/validate", json=body).status_code == 200
    for cell in (2, "7" * 5000, -1, "²"):
        rows[0]["label"] = cell
        assert refusal(http.post("/v1/jobs/validate", json=body), 422, "bad_row")["details"][0]["row"] == 1


@pytest.mark.parametrize("model", ["job:job_" + "0" * 26, "../etc", "local:../x", "https://x/y", "a" * 300, ""])
def test_a_model_that_cannot_be_is_refused(http: httpx.Client, model: str) -> None:
    assert refusal(http.post("/v1/jobs", json=spec(model=model)), 422)["param"] in ("model", "model.id")
    assert refusal(http.post("/v1/jobs", json={**spec(), "model": {"id": model}}), 422)["param"] == "model.id"


def test_a_job_without_a_model_yet_is_nothing_to_start_from(http: httpx.Client) -> None:
    earlier = http.post("/v1/jobs", json=spec()).json()["id"]
    refusal(http.post("/v1/jobs", json=spec(model=f"job:{earlier}")), 422, "model_not_published")


def test_an_idempotency_key_and_its_body_make_one_job(http: httpx.Client, stranger: httpx.Client) -> None:
    key = {"idempotency-key": "once"}
    first = http.post("/v1/jobs", json=spec(), headers=key)
    again = http.post("/v1/jobs", content=json.dumps(spec(), indent=1, sort_keys=True), headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = http.post("/v1/jobs", json=spec(name="other"), headers=key)
    assert refusal(other, 422, "idempotency_key_reused")["param"] == "idempotency-key"
    assert stranger.post("/v1/jobs", json=spec(), headers=key).status_code == 201


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_an_idempotency_key_that_cannot_be_is_refused_before_rows_are_looked_at(http: httpx.Client, key: str) -> None:
    body = spec(data={"train": {"rows": [{"text": "", "label": ""}]}, "eval": None})
    error = refusal(http.post("/v1/jobs", json=body, headers={"idempotency-key": key}), 422)
    assert error["param"] == "idempotency-key"


def test_twenty_posts_at_once_with_one_key_make_one_job(http: httpx.Client, service: Deployment) -> None:
    def post(_: int) -> httpx.Response:
        return http.post("/v1/jobs", json=spec(), headers={"idempotency-key": "rush"})

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(http.get("/v1/jobs").json()["data"]) == 1
    database = Database(service.database_url)
    with database.read() as session:
        job_id = answers[0].json()["id"]
        assert session.scalar(select(func.count()).where(IdempotencyKey.job_id == job_id)) == 1
        project = select(Job.project_id).where(Job.id == job_id).scalar_subquery()
        assert session.scalar(select(func.count()).where(Job.project_id == project)) == 1
    database.close()


def test_a_cancelled_job_cannot_be_cancelled_again(http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json=spec()).json()["id"]
    assert http.post(f"/v1/jobs/{job}/cancel").json()["status"] == "cancelled"
    again = http.post(f"/v1/jobs/{job}/cancel")
    assert "'cancelled'" in refusal(again, 409, "job_ended")["message"]
    assert again.headers["x-should-retry"] == "false"


def test_a_dataset_is_deleted_only_when_no_job_waits_for_it(
    http: httpx.Client, upload: Upload, service: Deployment
) -> None:
    dataset = upload(sentences(8))
    job = http.post("/v1/jobs", json=spec(data={"train": {"dataset": dataset}, "eval": {"dataset": dataset}})).json()[
        "id"
    ]
    in_use = http.delete(f"/v1/datasets/{dataset}")
    assert job in refusal(in_use, 409, "dataset_in_use")["message"]
    assert in_use.headers["x-should-retry"] == "false"
    http.post(f"/v1/jobs/{job}/pause")
    refusal(http.delete(f"/v1/datasets/{dataset}"), 409, "dataset_in_use")
    assert http.get(f"/v1/datasets/{dataset}/rows").status_code == 200
    http.post(f"/v1/jobs/{job}/cancel")
    assert http.delete(f"/v1/datasets/{dataset}").json() == {"id": dataset, "object": "dataset", "deleted": True}
    for method, path in (("GET", ""), ("GET", "/rows"), ("DELETE", "")):
        refusal(http.request(method, f"/v1/datasets/{dataset}{path}"), 404, "dataset_not_found")
    assert http.get("/v1/datasets").json()["data"] == []
    assert not list((service.folder / "cache" / "datasets").glob(f"{dataset}*"))
    body = spec(data={"train": {"dataset": dataset}, "eval": None})
    assert refusal(http.post("/v1/jobs", json=body), 422, "dataset_not_found")["param"] == "data.train.dataset"


def test_a_dataset_and_the_job_that_needs_it_never_pass_each_other(http: httpx.Client, upload: Upload) -> None:
    for _ in range(4):
        dataset = upload(sentences(4))
        body = spec(data={"train": {"dataset": dataset}, "eval": None})
        with ThreadPoolExecutor(2) as pool:
            posted = pool.submit(http.post, "/v1/jobs", json=body)
            deleted = pool.submit(http.delete, f"/v1/datasets/{dataset}")
        codes = (posted.result().status_code, deleted.result().status_code)
        assert codes in ((201, 409), (422, 200), (404, 200)), (posted.result().text, deleted.result().text)


def test_pages_walk_every_job_once_newest_first(http: httpx.Client) -> None:
    made = [http.post("/v1/jobs", json=spec(name=f"n{n}")).json()["id"] for n in range(7)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = http.get("/v1/jobs", params=query).json()
        seen += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = seen[-1]
    assert seen == made[::-1]


NAMES = ["plain", 'a"b', "a\\b", "é", "0", "$", "a.b", "a]b", "[x]", "a'b", "a&b=c", " ", "*"]


def test_jobs_are_found_by_what_they_are(http: httpx.Client, service: Deployment) -> None:
    jobs = [
        http.post("/v1/jobs", json=spec(name=f"n{n}", metadata={name: "v", "n": str(n)})).json()
        for n, name in enumerate(NAMES)
    ]
    ids = [job["id"] for job in jobs]
    http.post(f"/v1/jobs/{ids[1]}/cancel")

    def found(**query: Any) -> list[str]:
        answer = http.get("/v1/jobs", params={"limit": 100, **query})
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    assert found(status="cancelled") == [ids[1]]
    assert found(status="queued") == [i for i in ids[::-1] if i != ids[1]]
    assert found(task="text-classification") == ids[::-1]
    assert found(task="causal-lm") == []
    assert found(name="n3") == [ids[3]]
    for n, name in enumerate(NAMES):
        assert found(**{f"metadata[{name}]": "v"}) == [ids[n]], name
        assert found(**{f"metadata[{name}]": "v", "metadata[n]": str(n + 1)}) == []
    assert found(**{"metadata[]": "v"}) == []

    database = Database(service.database_url)
    with database.read() as session:
        middle = session.get_one(Job, ids[6]).created_at
    database.close()
    assert found(created_after=repr(middle)) == ids[:6:-1]
    assert found(created_before=repr(middle)) == ids[5::-1]
    assert found(created_after="2001-01-01") == ids[::-1]
    # Both ways of writing the plus sign.
    assert found(created_after="2001-01-01T00:00:00+01:00") == ids[::-1]
    raw = http.get("/v1/jobs?created_before=2001-01-01T00:00:00+01:00")
    assert (raw.status_code, raw.json()["data"]) == (200, [])


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=1000000000", "limit"),
        ("limit=0", "limit"),
        ("limit=1e3", "limit"),
        ("limit=1" + "0" * 5000, "limit"),
        ("status=done", "status"),
        ("staus=queued", "staus"),
        ("metadata=x", "metadata"),
        ("metadata[a=x", "metadata[a"),
        ("created_after=yesterday", "created_after"),
        ("created_after=%C2%B2", "created_after"),
        ("created_before=nan", "created_before"),
        ("name=%00", "name"),
        ("metadata[a]=%00", "metadata[a]"),
        ("metadata[%00]=a", "metadata[\ufffd]"),
        ("&".join(f"metadata[k{number}]=x" for number in range(17)), "metadata"),
        ("after=" + "x" * 41, "after"),
        ("name=" + "x" * 201, "name"),
    ],
)
def test_a_query_that_means_nothing_is_refused_by_its_name(http: httpx.Client, query: str, param: str) -> None:
    assert refusal(http.get(f"/v1/jobs?{query}"), 422)["param"] == param


def test_a_finished_job_tells_its_end(http: httpx.Client, service: Deployment) -> None:
    job = http.post("/v1/jobs", json=spec(resources={"gpus": 1})).json()["id"]
    database, lease = claim(service, job)
    with database.write() as session:
        failure = Failure.of(FailureCode.BAD_ROWS, "broken\ud7ff")
        lifecycle.conclude(session, lease, Failed(failure), POLICY)
    database.close()
    found = http.get(f"/v1/jobs/{job}").json()
    assert (found["status"], found["error"]["code"], found["queue_position"]) == ("failed", "bad_rows", None)
    assert found["first_started_at"] == found["started_at"]
    assert found["queued_seconds"] > 0
    assert found["running_seconds"] > 0
    assert found["gpu_seconds"] == 0
    refusal(http.post(f"/v1/jobs/{job}/cancel"), 409, "job_ended")
