"""Keys with roles, ceilings, quotas and the audit log; and two projects that try every route with each other's ids."""

import json
import re
import time
from typing import Any

import httpx
import pytest
from deployment import Deployment
from refusals import refusal
from tiny import spec

METHODS = ("get", "post", "put", "patch", "delete")


def client(service: Deployment, key: str) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=60)


def routes(service: Deployment) -> list[tuple[str, str]]:
    """Every method and path of the OpenAPI document."""
    paths = service.http.get("/openapi.json").json()["paths"]
    return [(method, path) for path, operations in paths.items() for method in operations if method in METHODS]


def new_key(service: Deployment, **parts: Any) -> dict[str, Any]:
    answer = service.http.post("/v1/keys", json={"name": "test", **parts})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_no_route_gives_a_project_anything_of_another_one(service: Deployment) -> None:
    service.start_api()
    mine = service.http
    job = service.client.post("/v1/jobs", spec())["id"]
    upload = mine.post("/v1/datasets", files={"file": ("a.csv", b"text,label\na,b\n")}).json()["id"]
    ids = {
        "job_id": job,
        "dataset_id": upload,
        "key_id": new_key(service)["id"],
        "webhook_id": "wh_00000000000000000000000000",
        "step": "1",
        "path": "config.json",
    }
    unknown_ids = {name: f"{known[:-4]}zzzz" if name.endswith("_id") else known for name, known in ids.items()}
    other = client(service, service.new_key("other"))
    tried = 0
    for method, path in routes(service):
        names = re.findall(r"{(\w+)(?::path)?}", path)
        if not names:
            continue
        assert set(names) <= ids.keys(), f"give this test an id for {path}"
        address = re.sub(r"{(\w+)(?::path)?}", lambda match: ids[match[1]], path)
        body = {} if method in ("post", "put", "patch") else None
        answer = other.request(method, address, json=body)
        assert answer.status_code == 404, (method, path, answer.status_code, answer.text)
        unknown = re.sub(r"{(\w+)(?::path)?}", lambda match: unknown_ids[match[1]], path)
        missing = other.request(method, unknown, json=body)
        # Whether somebody else has it cannot be told from the answer.
        assert missing.status_code == 404
        assert _told(answer, address) == _told(missing, unknown), (method, path)
        tried += 1
    assert tried > 15
    for path in ("/v1/jobs", "/v1/datasets", "/v1/webhooks"):
        assert other.get(path).json()["data"] == []
    assert [key["name"] for key in other.get("/v1/keys").json()["data"]] == ["test"]
    assert mine.get(f"/v1/jobs/{job}").json()["status"] == "queued"
    for body in (spec(model=f"job:{job}"), spec(data={"train": {"dataset": upload}, "eval": {"dataset": upload}})):
        refusal(other.post("/v1/jobs", json=body), 422)


def _told(answer: httpx.Response, address: str) -> str:
    error = answer.json()["error"]
    return json.dumps({name: error[name] for name in ("message", "code", "param")}).replace(
        address.rpartition("/")[2], "ID"
    )


def test_each_role_may_do_what_it_says(service: Deployment) -> None:
    service.start_api()
    keys = {role: client(service, new_key(service, role=role)["secret"]) for role in ("read", "submit", "admin")}
    job = service.client.post("/v1/jobs", spec())["id"]
    for method, path in routes(service):
        if not path.startswith("/v1/"):
            continue
        address = re.sub(r"{(\w+)(?::path)?}", "x", path)
        for_admins = path.startswith(("/v1/keys", "/v1/audit"))
        changes = method != "get" and path != "/v1/jobs/validate"
        body = {} if method == "post" else None
        for role, http in keys.items():
            answer = http.request(method, address, json=body)
            allowed = role == "admin" or (not for_admins and (role == "submit" or not changes))
            assert (answer.status_code == 403) != allowed, (role, method, path, answer.status_code)
            if not allowed:
                refusal(answer, 403, "role_insufficient")
    assert keys["read"].get(f"/v1/jobs/{job}").status_code == 200
    assert keys["read"].post("/v1/jobs/validate", json=spec()).status_code == 200
    assert keys["submit"].post("/v1/jobs", json=spec()).status_code == 201
    assert keys["read"].head(f"/v1/jobs/{job}").status_code == 200


def test_keys_expire_are_revoked_and_show_their_last_use(service: Deployment) -> None:
    service.start_api()
    brief = new_key(service, role="read", expires_in_days=1.5 / 86400)
    assert "secret" in brief
    http = client(service, brief["secret"])
    assert http.get("/v1/jobs").status_code == 200
    time.sleep(2.5)
    refusal(http.get("/v1/jobs"), 401, "expired_api_key")
    lasting = new_key(service, name="lasting")
    assert client(service, lasting["secret"]).get("/v1/jobs").status_code == 200

    listed = {key["id"]: key for key in service.http.get("/v1/keys").json()["data"]}
    assert all("secret" not in key for key in listed.values())
    assert (listed[lasting["id"]]["role"], listed[lasting["id"]]["name"]) == ("submit", "lasting")
    deadline = time.monotonic() + 20
    while listed[lasting["id"]]["last_used_at"] is None and time.monotonic() < deadline:
        time.sleep(0.1)
        listed = {key["id"]: key for key in service.http.get("/v1/keys").json()["data"]}
    assert listed[lasting["id"]]["last_used_at"] is not None

    assert service.http.delete(f"/v1/keys/{lasting['id']}").json()["deleted"] is True
    time.sleep(1.5)
    refusal(client(service, lasting["secret"]).get("/v1/jobs"), 401, "invalid_api_key")
    refusal(service.http.delete(f"/v1/keys/{lasting['id']}"), 404, "key_not_found")


def test_priority_has_a_ceiling_by_key_and_by_project(service: Deployment) -> None:
    service.start_api()
    plain, high = (client(service, new_key(service, **parts)["secret"]) for parts in ({}, {"priority_ceiling": 20}))
    error = refusal(plain.post("/v1/jobs", json=spec(priority=1)), 403, "priority_too_high")
    assert error["details"] == {"ceiling": 0}
    assert plain.post("/v1/jobs", json=spec(priority=-5)).status_code == 201
    assert high.post("/v1/jobs", json=spec(priority=20)).status_code == 201
    refusal(high.post("/v1/jobs", json=spec(priority=21)), 403, "priority_too_high")
    assert service.http.post("/v1/jobs", json=spec(priority=100)).status_code == 201

    service.tunesmith("projects", "limit", "default", "priority_ceiling=10")
    time.sleep(1.5)
    refusal(service.http.post("/v1/jobs", json=spec(priority=11)), 403, "priority_too_high")
    assert high.post("/v1/jobs", json=spec(priority=10)).status_code == 201


def test_quotas_say_what_is_used_and_what_is_free(service: Deployment) -> None:
    service.start_api()
    service.tunesmith("projects", "limit", "default", "queued_jobs=2", "datasets=1", "dataset_bytes=1000")
    for _ in range(2):
        assert service.http.post("/v1/jobs", json=spec()).status_code == 201
    error = refusal(service.http.post("/v1/jobs", json=spec()), 429, "quota_exceeded")
    assert error["details"] == {"quota": "queued_jobs", "limit": 2, "used": 2, "free": 0}
    large = {"file": ("a.csv", b"text,label\n" + b"aaaaaaaaa,b\n" * 100)}
    assert refusal(service.http.post("/v1/datasets", files=large), 429)["details"]["quota"] == "dataset_bytes"
    small = {"file": ("a.csv", b"text,label\na,b\n")}
    assert service.http.post("/v1/datasets", files=small).status_code == 201
    assert refusal(service.http.post("/v1/datasets", files=small), 429)["details"]["quota"] == "datasets"

    found = service.http.get("/v1/usage").json()
    assert (found["queued_jobs"], found["datasets"], found["total"]["jobs"]) == (2, 1, 2)
    assert found["limits"]["queued_jobs"] == 2
    assert "queued jobs 2" in service.tunesmith("usage")
    other = client(service, service.new_key("other"))
    assert other.post("/v1/jobs", json=spec()).status_code == 201


def test_usage_is_summed_by_a_metadata_key(local: Deployment) -> None:
    local.start_api()
    for team in ("a", "a", "b"):
        local.client.post("/v1/jobs", spec(metadata={"team": team}, training={"max_steps": 2}))
    local.start_worker()
    for job in local.client.get("/v1/jobs")["data"]:
        local.wait_for_end(job["id"])

    found = local.http.get("/v1/usage", params={"by": "team"}).json()

    assert {team: part["jobs"] for team, part in found["by"].items()} == {"a": 2, "b": 1}
    assert found["total"]["cpu_seconds"] == pytest.approx(sum(part["cpu_seconds"] for part in found["by"].values()))
    assert found["total"]["cpu_seconds"] > 0
    assert local.http.get("/v1/usage", params={"month": "2020-01"}).json()["total"]["jobs"] == 0
    refusal(local.http.get("/v1/usage", params={"month": "2020-13"}), 422)


def test_the_audit_log_names_key_route_and_address_and_no_secret(service: Deployment) -> None:
    service.start_api()
    key = new_key(service, role="submit")
    http = client(service, key["secret"])
    job = http.post("/v1/jobs", json=spec()).json()["id"]
    cancelled = http.post(f"/v1/jobs/{job}/cancel")
    refusal(http.post("/v1/keys", json={"name": "x"}), 403)
    http.get("/v1/jobs")
    http.post("/v1/jobs/validate", json=spec())

    found = service.http.get("/v1/audit").json()["data"]

    assert [(entry["method"], entry["path"], entry["status"]) for entry in found[:4]] == [
        ("POST", "/v1/keys", 403),
        ("POST", f"/v1/jobs/{job}/cancel", 200),
        ("POST", "/v1/jobs", 201),
        ("POST", "/v1/keys", 201),
    ]
    assert {entry["key_id"] for entry in found[:3]} == {key["id"]}
    assert found[1]["request_id"] == cancelled.headers["x-request-id"]
    assert found[1]["address"] == "127.0.0.1"
    printed = service.tunesmith("audit")
    assert len([json.loads(line) for line in printed.splitlines()]) == len(found)
    assert key["secret"] not in printed + json.dumps(found) + service.logs()


def test_requests_of_a_key_and_wrong_keys_of_an_address_are_limited(service: Deployment) -> None:
    service.settings |= {"TUNESMITH_RATE_LIMIT": "5/hour", "TUNESMITH_FAILED_SIGN_IN_LIMIT": "3/hour"}
    service.start_api()
    answers = [service.http.get("/v1/jobs") for _ in range(5)]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["4", "3", "2", "1", "0"]
    assert answers[0].headers["ratelimit-limit"] == "5"
    over = service.http.get("/v1/jobs")
    refusal(over, 429, "rate_limited")
    assert 0 < int(over.headers["retry-after"]) <= 3600
    assert client(service, service.new_key("default")).get("/v1/jobs").status_code == 200

    wrong = client(service, "ts_" + "0" * 26 + "_" + "x" * 43)
    assert [wrong.get("/v1/jobs").status_code for _ in range(4)] == [401, 401, 401, 429]
    if service.settings.get("TUNESMITH_BROKER_URL"):
        # Processes that share a Redis count together.
        service.start_api()
        refusal(service.http.get("/v1/jobs"), 429, "rate_limited")
    assert client(service, service.new_key("default")).get("/v1/jobs").status_code == 200
