"""When a part is away: 503 and a hint to try again, never a 500. And figures of what goes on."""

import time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import httpx
from deployment import deployment
from prometheus_client.parser import text_string_to_metric_families
from refusals import refusal
from servers import postgres_server, s3_server
from starlette.testclient import TestClient
from tiny import spec

from app import migrate
from app.api.shared_answer import SHARED_SECONDS
from app.db import Database, now
from app.main import create_app
from app.settings import Settings
from app.workers.tables import Worker


def test_a_database_that_goes_away_is_said_and_is_no_fault(tmp_path: Path) -> None:
    with ExitStack() as servers:
        database = servers.enter_context(postgres_server())
        with deployment(tmp_path / "service", TUNESMITH_DATABASE_URL=database.url) as service:
            api = service.start_api()
            with service.http as http:
                job = http.post("/v1/jobs", json=spec()).json()["id"]
                servers.close()
                for request in (
                    lambda: http.get(f"/v1/jobs/{job}"),
                    lambda: http.post("/v1/jobs", json=spec()),
                    lambda: http.post("/v1/datasets", files={"file": ("a.csv", b"a\n1\n")}),
                    lambda: http.get("/metrics"),
                ):
                    answer = request()
                    refusal(answer, 503, "database_unavailable")
                    assert int(answer.headers["retry-after"]) >= 1
                ready = _asked_later(http)
                assert (ready.status_code, ready.headers["x-request-id"][:4]) == (503, "req_")
                checks = ready.json()["checks"]
                assert checks["database"].startswith("failed")
                assert checks["storage"] == "ok"
                assert http.get("/healthz").status_code == 200
            assert "Traceback" not in api.log


def test_a_storage_that_goes_away_is_said_and_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    with ExitStack() as servers:
        s3 = servers.enter_context(s3_server())
        with deployment(tmp_path / "service", TUNESMITH_STORAGE_URL=s3.storage_url, **s3.env) as service:
            api = service.start_api()
            with service.http as http:
                file = {"file": ("a.csv", b"text,label\na,b\nc,d\n")}
                kept, deleted = (http.post("/v1/datasets", files=file).json()["id"] for _ in range(2))
                servers.close()
                ready = _asked_later(http)
                assert ready.status_code == 503
                assert ready.json()["checks"]["storage"].startswith("failed")
                assert ready.json()["checks"]["database"] == "ok"
                for answer in (
                    http.post("/v1/datasets", files=file),
                    http.get(f"/v1/datasets/{kept}/rows"),
                    http.delete(f"/v1/datasets/{deleted}"),
                ):
                    refusal(answer, 503, "storage_unavailable")
                    assert int(answer.headers["retry-after"]) >= 1
                assert list((service.folder / "cache" / "uploads").glob("*")) == []
                # What was deleted is gone; asking once more would remove what is left of its files.
                assert [item["id"] for item in http.get("/v1/datasets").json()["data"]] == [kept]
                assert http.post("/v1/jobs", json=spec()).status_code == 201
            assert "Traceback" not in api.log


def test_a_broker_that_is_away_is_reported_and_keeps_nobody_from_being_ready(tmp_path: Path) -> None:
    # Nothing listens on port 1.
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0")
    database = Database(settings.database())
    migrate.upgrade(database)
    database.close()
    with TestClient(create_app(settings)) as client:
        ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"]["broker"].startswith("failed")


def test_prometheus_reads_what_waits_and_who_works(tmp_path: Path) -> None:
    with deployment(tmp_path / "service") as service:
        service.start_api()
        with service.http as http:
            jobs = [http.post("/v1/jobs", json=spec()).json()["id"] for _ in range(3)]
            http.post(f"/v1/jobs/{jobs[0]}/cancel")
        database = Database(service.database_url)
        with database.write() as session:
            for age, slots in ((0, 2), (0, 1), (600, 8)):
                session.add(_worker(slots, age))
        database.close()
        with service.http as http:
            workers = http.get("/v1/workers").json()["data"]
        assert sorted((worker["slots"], worker["alive"]) for worker in workers) == [(1, True), (2, True), (8, False)]
        assert {(worker["host"], *worker["queues"], *worker["engines"]) for worker in workers} == {
            ("test", "cpu", "any", "trainer")
        }
        answer = httpx.get(f"{service.url}/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        figures = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        assert figures[("tunesmith_jobs", "queued")] == 2
        assert figures[("tunesmith_jobs", "cancelled")] == 1
        assert figures[("tunesmith_jobs", "running")] == 0
        assert 0 < figures[("tunesmith_oldest_queued_seconds",)] < 60
        assert (figures[("tunesmith_workers", "alive")], figures[("tunesmith_workers", "silent")]) == (2, 1)
        assert figures[("tunesmith_slots",)] == 3
        open_metrics = httpx.get(f"{service.url}/metrics", headers={"accept": "application/openmetrics-text"})
        assert open_metrics.text.endswith("# EOF\n")


def _asked_later(http: httpx.Client) -> httpx.Response:
    # The answer of the same second would be the one from before.
    time.sleep(SHARED_SECONDS)
    return http.get("/readyz")


def _worker(slots: int, age: float) -> Worker:
    return Worker(
        id=uuid4().hex,
        host="test",
        pid=1,
        version="0",
        queues="cpu,any",
        engines="trainer",
        slots=slots,
        hardware={},
        last_seen_at=now() - age,
    )
