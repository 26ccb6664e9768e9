"""A worker without a broker starts a job at once, although it polls once a minute."""

from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest
from deployment import deployment
from servers import PostgresServer
from tiny import spec


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_job_is_claimed_when_it_is_committed(
    database: str, tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest
) -> None:
    settings = {"TUNESMITH_POLL_SECONDS": "60", "TUNESMITH_SWEEP_SECONDS": "60"}
    if database == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        settings["TUNESMITH_DATABASE_URL"] = server.create_database(f"t{uuid4().hex}")
    with deployment(tmp_path / "service", **settings) as service:
        (service.folder / "models" / "tiny").symlink_to(tiny_model)
        service.start_api()
        service.start_worker()
        for _ in range(2):
            job = service.client.post("/v1/jobs", spec(training={"max_steps": 2}))
            done = service.wait_for_end(job["id"])
            assert done["status"] == "succeeded", done
            waited = datetime.fromisoformat(done["started_at"]) - datetime.fromisoformat(done["created_at"])
            assert waited.total_seconds() < 30
