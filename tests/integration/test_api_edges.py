"""What holds on every route: keys, projects, the envelope, request ids, methods, addresses, the document."""

import json
import socket
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from deployment import Deployment, Process
from openapi_spec_validator import validate as validate_openapi
from refusals import refusal
from sqlalchemy import text
from tiny import spec

from app import auth
from app.db import Database

UNKNOWN = "0" * 26
JOB, DATASET, WEBHOOK, KEY = f"job_{UNKNOWN}", f"ds_{UNKNOWN}", f"wh_{UNKNOWN}", f"key_{UNKNOWN}"

OF_A_JOB = [
    ("GET", ""),
    ("POST", "/cancel"),
    ("GET", "/events"),
    ("GET", "/metrics"),
    ("GET", "/logs"),
    ("GET", "/checkpoints"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/retry"),
    ("GET", "/artifacts"),
    ("GET", "/artifacts/config.json"),
    ("GET", "/archive"),
    ("DELETE", ""),
    ("POST", "/pin"),
    ("DELETE", "/pin"),
    ("DELETE", "/checkpoints/1"),
    ("POST", "/checkpoints/1/pin"),
    ("DELETE", "/checkpoints/1/pin"),
]
OF_A_DATASET = [("GET", ""), ("GET", "/rows"), ("DELETE", "")]
OF_A_WEBHOOK = [("GET", ""), ("DELETE", ""), ("POST", "/test")]
ROUTES = [
    ("POST", "/v1/jobs"),
    ("POST", "/v1/jobs/validate"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/datasets"),
    ("GET", "/v1/datasets"),
    ("POST", "/v1/webhooks"),
    ("GET", "/v1/webhooks"),
    ("GET", "/v1/tasks"),
    ("GET", "/v1/workers"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("DELETE", f"/v1/keys/{KEY}"),
    ("GET", "/v1/audit"),
    ("GET", "/v1/usage"),
    *[(method, f"/v1/jobs/{JOB}{path}") for method, path in OF_A_JOB],
    *[(method, f"/v1/datasets/{DATASET}{path}") for method, path in OF_A_DATASET],
    *[(method, f"/v1/webhooks/{WEBHOOK}{path}") for method, path in OF_A_WEBHOOK],
]
OPEN = ["/healthz", "/readyz", "/metrics", "/openapi.json"]


def test_the_list_of_routes_is_the_documents(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    documented = {
        (
            method.upper(),
            path.format(job_id=JOB, dataset_id=DATASET, webhook_id=WEBHOOK, key_id=KEY, step=1, path="config.json"),
        )
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert documented == {*ROUTES, *[("GET", path) for path in OPEN if path != "/openapi.json"]}


def test_every_route_wants_a_key_before_anything_else(service: Deployment) -> None:
    database = Database(service.database_url)
    with database.write() as session:
        project = auth.ensure_project(session, "default").id
        revoked = auth.create_key(session, project, "old")
        auth.revoke(session, f"key_{revoked.split('_')[1]}")
    database.close()
    wrong = service.key[:-1] + ("a" if service.key[-1] != "a" else "b")
    presented = [None, "", "Bearer", "Bearer x", f"Bearer {wrong}", f"Bearer {revoked}", f"Basic {service.key}"]
    with httpx.Client(base_url=service.url, timeout=30) as client:
        for method, path in ROUTES:
            for key in presented if path == "/v1/jobs" else [None, f"Bearer {revoked}"]:
                # A broken body and an unknown parameter are not looked at.
                headers = {} if key is None else {"authorization": key}
                answer = client.request(
                    method, f"{path}?x=1", content=b"{" if method == "POST" else None, headers=headers
                )
                refusal(answer, 401, "invalid_api_key")
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in OPEN:
            assert client.get(path).status_code == 200
        assert client.get("/v1/jobs", headers={"authorization": f"bearer  {service.key}"}).status_code == 200


def test_another_projects_jobs_and_datasets_do_not_exist(http: httpx.Client, stranger: httpx.Client) -> None:
    job = http.post("/v1/jobs", json=spec()).json()["id"]
    dataset = http.post("/v1/datasets", files={"file": ("a.csv", b"text,label\na,b\nc,d\n")}).json()["id"]
    for method, path in OF_A_JOB:
        refusal(stranger.request(method, f"/v1/jobs/{job}{path}"), 404, "job_not_found")
    for method, path in OF_A_DATASET:
        refusal(stranger.request(method, f"/v1/datasets/{dataset}{path}"), 404, "dataset_not_found")
    body = spec(data={"train": {"dataset": dataset}, "eval": None})
    refusal(stranger.post("/v1/jobs", json=body), 422, "dataset_not_found")
    refusal(stranger.post("/v1/jobs", json=spec(model=f"job:{job}")), 422, "job_not_found")
    for path in ("/v1/jobs", "/v1/datasets"):
        assert stranger.get(path).json()["data"] == []
    refusal(stranger.get("/v1/jobs", params={"after": job}), 422, "job_not_found")
    assert http.get(f"/v1/jobs/{job}").json()["status"] == "queued"
    assert http.get(f"/v1/datasets/{dataset}").status_code == 200


@pytest.mark.parametrize("name", ["x", "job_", "%00", "a%00b", "%ff", "%2e%2e", "job_'%20OR%201=1", "a" * 5000])
def test_an_id_of_any_form_is_just_not_there(http: httpx.Client, name: str) -> None:
    for method, path in OF_A_JOB:
        refusal(http.request(method, f"/v1/jobs/{name}{path}"), 404)
    for method, path in OF_A_DATASET:
        refusal(http.request(method, f"/v1/datasets/{name}{path}"), 404)
    for method, path in OF_A_WEBHOOK:
        refusal(http.request(method, f"/v1/webhooks/{name}{path}"), 404)


@pytest.mark.parametrize(
    "path", ["/", "/v2/jobs", "/v1", "/v1/jobs/", "/v1/datasets/", "/v1/jobs/x/y/z", "/%2e%2e", "/healthz/"]
)
def test_an_address_that_is_not_there_is_a_404_in_the_envelope(http: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        refusal(http.request(method, path, content=b"x" if method == "POST" else None), 404, "not_found")
    head = http.head(path)
    assert (head.status_code, head.content, head.headers["x-request-id"][:4]) == (404, b"", "req_")


def test_a_method_that_an_address_does_not_take_is_a_405_that_lists_those_it_takes(http: httpx.Client) -> None:
    for method, path, allowed in (
        ("DELETE", "/v1/jobs", "GET, POST, HEAD"),
        ("OPTIONS", "/v1/jobs", "GET, POST, HEAD"),
        ("PUT", f"/v1/datasets/{DATASET}", "GET, DELETE, HEAD"),
        ("GET", f"/v1/jobs/{JOB}/cancel", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ):
        answer = http.request(method, path)
        refusal(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed
    assert http.head(f"/v1/jobs/{JOB}/cancel").status_code == 405


def test_head_answers_as_get_does_without_the_body(http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json=spec()).json()["id"]
    # The answer of a queued job counts its seconds, so its length can change between two requests.
    http.post(f"/v1/jobs/{job}/cancel")
    for path in ("/v1/jobs", f"/v1/jobs/{job}", f"/v1/jobs/{JOB}", "/v1/tasks", "/healthz", "/openapi.json"):
        get, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
        assert head.headers["x-request-id"] != get.headers["x-request-id"]


def test_unknown_query_parameters_are_refused_on_every_route(http: httpx.Client) -> None:
    for method, path in ROUTES:
        if method == "GET":
            assert refusal(http.get(path, params={"chekpoint": 1}), 422, "unknown_parameter")["param"] == "chekpoint"


def test_an_address_longer_than_any_is_refused(service: Deployment) -> None:
    for line in (f"/v1/jobs?name={'x' * 9000}", "/" + "x" * 60_000, "/v1/jobs/" + "%41" * 20_000):
        head, body = _raw(service, f"GET {line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert b" 414 " in head
        assert b"x-request-id: req_" in head
        assert json.loads(body)["error"]["code"] == "uri_too_long"


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /\xff HTTP/1.1",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1",
        b"GET  HTTP/1.1",
        b"\x00\x01",
        b"GET http://[::1 HTTP/1.1",
    ],
)
def test_bytes_that_are_no_request_do_no_harm(running: tuple[Deployment, Process], request_line: bytes) -> None:
    service, api = running
    logged = len(api.log)
    _raw(service, request_line + b"\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert httpx.get(f"{service.url}/healthz").status_code == 200
    assert "Traceback" not in api.log[logged:]


def test_a_fault_of_ours_is_a_500_in_the_envelope_and_its_cause_is_in_the_log(
    running: tuple[Deployment, Process], http: httpx.Client
) -> None:
    service, api = running
    job = http.post("/v1/jobs", json=spec()).json()["id"]
    database = Database(service.database_url)
    with database.write() as session:
        # What no release of ours writes: a time that is none.
        session.execute(text("UPDATE jobs SET created_at = 1e30 WHERE id = :id"), {"id": job})
    for _ in range(2):
        # The second time on the same connection: a fault does not cost it.
        answer = http.get(f"/v1/jobs/{job}")
        error = refusal(answer, 500, "internal_error")
        assert error["type"] == "server_error"
        assert answer.headers["x-request-id"] in error["message"]
        assert answer.headers["x-request-id"] in api.log
    assert "OverflowError" in api.log or "ValueError" in api.log
    assert "1e30" not in answer.text
    with database.write() as session:
        session.execute(text("UPDATE jobs SET created_at = queued_at WHERE id = :id"), {"id": job})
    database.close()
    assert http.get(f"/v1/jobs/{job}").status_code == 200


def test_the_document_is_valid_and_describes_every_field_of_a_job(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    validate_openapi(document)
    schemas = document["components"]["schemas"]
    for path in ("/v1/jobs", "/v1/jobs/validate"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": "#/components/schemas/JobSpec"}
    pending, seen = ["JobSpec"], set[str]()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        assert schemas[name].get("description"), name
        for field, schema in schemas[name].get("properties", {}).items():
            described = {**schemas.get(schema.get("$ref", "").rpartition("/")[2], {}), **schema}
            assert described.get("description"), f"{name}.{field} is not described"
        pending += _named_in(schemas[name])
    assert len(seen) > 12
    parameters = {item["name"] for item in document["paths"]["/v1/jobs"]["get"]["parameters"]}
    assert {
        "limit",
        "after",
        "status",
        "task",
        "name",
        "metadata[key]",
        "created_after",
        "created_before",
        "include",
    } == parameters


def test_ready_and_healthy_are_said_without_a_key(service: Deployment) -> None:
    assert httpx.get(f"{service.url}/healthz").json() == {"status": "ok", "checks": {}}
    checks = httpx.get(f"{service.url}/readyz").json()["checks"]
    assert [checks[name] for name in ("database", "migrations", "storage")] == ["ok", "ok", "ok"]


def _named_in(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        here = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
        return here + [name for value in schema.values() for name in _named_in(value)]
    return [name for item in schema for name in _named_in(item)] if isinstance(schema, list) else []


def _raw(service: Deployment, request: bytes) -> tuple[bytes, bytes]:
    address = urlsplit(service.url)
    with closing(socket.create_connection((address.hostname, address.port), 10)) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body
