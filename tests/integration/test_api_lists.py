"""Lists: what a page has of a job, and how much of it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from attempts import POLICY, RETRYABLE
from deployment import Deployment
from hand_worker import claim
from jsonschema import validate
from pydantic import BaseModel
from refusals import refusal
from sqlalchemy import insert, update
from tiny import sentences, spec

from app.api.answers import EventAnswer, JobAnswer, JobSummary, Point
from app.api.jobs import PAGE_BYTES
from app.db import Database
from app.identifiers import new_id
from app.jobs import events, lifecycle
from app.jobs.tables import Job

LEFT_OUT = {"spec", "resolved", "preflight"}


def test_a_list_has_the_job_without_its_specs_unless_they_are_asked_for(http: httpx.Client) -> None:
    job = http.get(http.post("/v1/jobs", json=spec(metadata={"a": "b"})).json()["links"]["self"]).json()
    listed = http.get("/v1/jobs").json()["data"][0]
    assert job.keys() - listed.keys() == LEFT_OUT
    unlike = {"queued_seconds", "waiting_for"}
    assert {key: job[key] for key in listed.keys() - unlike} == {key: listed[key] for key in listed.keys() - unlike}
    whole = http.get("/v1/jobs", params={"include": "spec"}).json()["data"][0]
    assert {key: whole[key] for key in LEFT_OUT} == {key: job[key] for key in LEFT_OUT}
    assert refusal(http.get("/v1/jobs?include=events"), 422)["param"] == "include"


def test_a_page_with_specs_ends_before_it_is_too_large(http: httpx.Client) -> None:
    rows = [{**row, "text": row["text"] + " " + "x" * 20_000} for row in sentences(40)]
    body = spec(data={"train": {"rows": rows}, "eval": None})
    made = [http.post("/v1/jobs", json=body).json()["id"] for _ in range(7)]
    seen: list[str] = []
    query: dict[str, Any] = {"include": "spec", "limit": 100}
    while True:
        answer = http.get("/v1/jobs", params=query)
        page = answer.json()
        assert len(answer.content) < PAGE_BYTES + 2**20
        assert 1 <= len(page["data"]) < len(made)
        seen += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = seen[-1]
    assert seen == made[::-1]
    assert [job["id"] for job in http.get("/v1/jobs").json()["data"]] == made[::-1]


def test_a_page_after_a_job_that_is_not_there_is_refused(http: httpx.Client, stranger: httpx.Client) -> None:
    job = http.post("/v1/jobs", json=spec()).json()["id"]
    for client, after in ((http, "job_0"), (stranger, job)):
        assert refusal(client.get("/v1/jobs", params={"after": after}), 422, "job_not_found")["param"] == "after"


def test_jobs_that_another_version_inserts_are_found_by_their_metadata(http: httpx.Client, service: Deployment) -> None:
    first = http.post("/v1/jobs", json=spec()).json()["id"]
    database = Database(service.database_url)
    with database.write() as session:
        row = session.get_one(Job, first)
        columns = {
            column.name: getattr(row, column.key) for column in Job.__mapper__.column_attrs for column in column.columns
        }
        added = {**columns, "id": new_id("job"), "user_metadata": {"é'": "ü", "n": "1"}}
        session.execute(insert(Job.__table__), added)
    database.close()
    found = http.get("/v1/jobs", params={"metadata[é']": "ü", "metadata[n]": "1"}).json()["data"]
    assert [job["id"] for job in found] == [added["id"]]


def test_positions_are_exact_up_to_a_thousand(http: httpx.Client, service: Deployment) -> None:
    first = http.post("/v1/jobs", json=spec(resources={"gpus": 1}, priority=100)).json()["id"]
    database = Database(service.database_url)
    queue = new_id("q")[:20]
    with database.write() as session:
        row = session.get_one(Job, first)
        fixed = {
            "project_id": row.project_id, "task": "t", "user_metadata": {}, "spec": {}, "timeout_seconds": 60,
            "body_sha256": "0" * 64, "queue": queue, "features": row.features, "priority": 0, "created_at": 0.0,
        }  # fmt: skip
        jobs = [{**fixed, "id": new_id("job"), "queued_at": float(number)} for number in range(1100)]
        session.execute(insert(Job), jobs)
    for number, position in ((0, 0), (7, 7), (999, 999), (1000, "1000+"), (1099, "1000+")):
        job = http.get(f"/v1/jobs/{jobs[number]['id']}").json()
        assert job["queue_position"] == position, number
    with database.write() as session:
        # They shall keep no other test from its place.
        session.execute(update(Job).where(Job.queue == queue).values(status="cancelled"))
    database.close()


@pytest.mark.parametrize(
    ("address", "path", "model", "picked"),
    [
        ("/v1/jobs/{job_id}", "", JobAnswer, lambda answer: answer),
        ("/v1/jobs", "", JobSummary, lambda answer: answer["data"][0]),
        ("/v1/jobs", "?include=spec", JobAnswer, lambda answer: answer["data"][0]),
        ("/v1/jobs/{job_id}/events", "", EventAnswer, lambda answer: answer["data"][0]),
        ("/v1/jobs/{job_id}/metrics", "", Point, lambda answer: answer["series"]["loss"][0]),
    ],
)
def test_what_is_written_by_hand_is_what_the_document_describes(
    http: httpx.Client,
    service: Deployment,
    address: str,
    path: str,
    model: type[BaseModel],
    picked: Callable[[Any], dict[str, Any]],
) -> None:
    job = http.post("/v1/jobs", json=spec(name="n", resources={"gpus": 1})).json()["id"]
    database, lease = claim(service, job)
    with database.write() as session:
        metric = events.reported("metric", {"step": 1, "epoch": 0.5, "values": {"loss": 0.25}})
        progress = {"step": 1, "of": 3, "epoch": 0.5}
        lifecycle.record(session, lease, [metric], phase="training", progress=progress, resolved={"device": "cpu"})
        lifecycle.conclude(session, lease, RETRYABLE, POLICY)
    database.close()
    answer = http.get(address.format(job_id=job) + path).json()
    document = http.get("/openapi.json").json()
    described = document["paths"][address]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    validate(answer, {**described, "components": document["components"]})
    assert set(picked(answer)) == set(model.model_fields)
