"""Secrets are nowhere in readable form: neither in the database, nor in logs, events, artifacts or errors."""

import json
from base64 import b64decode
from pathlib import Path
from uuid import uuid4

import pytest
from deployment import Deployment
from receiver import receiver
from sqlalchemy import select
from standardwebhooks import Webhook as VerifiedWebhook
from tiny import spec

from app.db import Database
from app.errors import TunesmithError
from app.sealing import SEALED, Sealer, WrongKey
from app.webhooks.tables import Webhook


def stored_secret(service: Deployment) -> str:
    database = Database(service.database_url)
    with database.read() as session:
        found = session.scalars(select(Webhook.secret)).one()
    database.close()
    return found


def test_a_webhook_secret_is_encrypted_and_still_signs(service: Deployment) -> None:
    service.settings |= {"TUNESMITH_SECRET_KEY": "k" * 32, "TUNESMITH_WEBHOOK_PRIVATE_ADDRESSES": "true"}
    service.start_api()
    with receiver() as hook:
        made = service.client.post("/v1/webhooks", {"url": hook.url})
        assert stored_secret(service).startswith(SEALED)
        assert made["secret"] not in stored_secret(service)
        assert service.client.post(f"/v1/webhooks/{made['id']}/test", None)["delivered"] is True
        sent = hook.wait(1)[0]
        VerifiedWebhook(made["secret"]).verify(sent.body, sent.headers)


def test_a_secret_of_another_key_is_reported() -> None:
    sealed = Sealer("a" * 32).seal("secret")
    assert Sealer("a" * 32).open(sealed) == "secret"
    assert Sealer("a" * 32).open("stored plain") == "stored plain"
    for other in (Sealer("b" * 32), Sealer("")):
        with pytest.raises(WrongKey) as raised:
            other.open(sealed)
        assert isinstance(raised.value, TunesmithError)


def test_canaries_of_a_whole_run_are_found_nowhere(local: Deployment) -> None:
    canaries = {name: f"canary{uuid4().hex}" for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD")}
    secret_key = f"canary{uuid4().hex}"
    local.start_api(**canaries, TUNESMITH_SECRET_KEY=secret_key)
    local.start_worker(**canaries)
    good = local.client.post("/v1/jobs", spec(training={"max_steps": 4}))["id"]
    bad = local.client.post("/v1/jobs", spec(model={"id": "local:tiny", "config": {"n_embd": 3}}))["id"]
    key = local.http.post("/v1/keys", json={"name": "x"}).json()["secret"]
    assert local.wait_for_end(good)["status"] == "succeeded"
    assert local.wait_for_end(bad)["status"] == "failed"
    told = [local.client.get(f"/v1/jobs/{job}") for job in (good, bad)]
    told += [list(local.client.events(job, 0)) for job in (good, bad)]
    told += [local.client.get("/v1/workers"), local.client.get("/v1/audit"), local.http.get("/metrics").text]

    for process in local.processes:
        process.stop()
    written = [path for path in local.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(written) > 10
    for canary in (*canaries.values(), secret_key, key, local.key):
        assert canary not in json.dumps(told)
        assert [str(path) for path in written if canary.encode() in path.read_bytes()] == []


def test_tunesmith_up_makes_a_key_for_its_own_user_only(local: Deployment) -> None:
    local.start_up(is_worker_ready=False)
    file: Path = local.folder / "secret-key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text().strip()) >= 32
    assert b64decode(file.read_text().strip() + "==", altchars=b"-_")
