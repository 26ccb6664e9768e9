"""How long it takes until a job continues after its worker died, and until a job starts without the broker.

All settings are the defaults. Prints seconds and their targets, and exits with 1 if a target is missed. The first time
consists of the rest of the lease (60 s, renewed every 10 s), the next sweep (5 s) and the next poll (2 s).
"""

import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from deployment import Deployment, deployment, wait_until
from servers import postgres_server, redis_server, s3_server
from tiny import make_model, spec

WORKER_TARGET_SECONDS, BROKER_TARGET_SECONDS = 90.0, 10.0
SHORTENED = ("POLL", "SWEEP", "LEASE", "HEARTBEAT", "BACKOFF")
"""Settings that tests shorten and this benchmark does not."""
ENDLESS = spec(training={"max_steps": 10_000_000, "logging_steps": 1000}, data={"eval": None})


def main() -> None:
    """Measure both and compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "tiny")
        measured = (
            ("worker killed, until the next attempt begins", after_a_worker(folder, model), WORKER_TARGET_SECONDS),
            ("broker killed, until a new job runs", after_the_broker(folder, model), BROKER_TARGET_SECONDS),
        )
    for what, seconds, target in measured:
        print(f"{what}: {seconds:.1f} s (target: under {target:.0f} s)")
    sys.exit(any(seconds >= target for _, seconds, target in measured))


def after_a_worker(folder: Path, model: Path) -> float:
    """One API and two workers on SQLite; the one that runs the job is killed."""
    with deployment(folder / "local") as service:
        _prepare(service, model)
        workers = [service.start_worker(), service.start_worker()]
        job = str(service.client.post("/v1/jobs", ENDLESS)["id"])
        service.wait_for(job, lambda seen: bool(seen["progress"]))
        owner = next(worker for worker in workers if job in worker.log)
        owner.stop(signal.SIGKILL)
        began = time.monotonic()
        service.wait_for(job, lambda seen: seen["attempt"] == 2)
        return time.monotonic() - began


def after_the_broker(folder: Path, model: Path) -> float:
    """PostgreSQL, S3 and a broker that is killed before the job is posted."""
    with ExitStack() as servers:
        postgres, redis, s3 = (servers.enter_context(server()) for server in (postgres_server, redis_server, s3_server))
        settings = {
            "TUNESMITH_DATABASE_URL": postgres.create_database("tunesmith"),
            "TUNESMITH_BROKER_URL": redis.url,
            "TUNESMITH_STORAGE_URL": f"{s3.storage_url}/repair",
            **s3.env,
        }
        service = servers.enter_context(deployment(folder / "fleet", **settings))
        _prepare(service, model)
        worker = service.start_worker()
        wait_until(lambda: "ready" in worker.log, worker)
        os.kill(redis.pid, signal.SIGKILL)
        began = time.monotonic()
        job = service.client.post("/v1/jobs", ENDLESS)["id"]
        service.wait_for(job, lambda seen: seen["status"] == "running")
        return time.monotonic() - began


def _prepare(service: Deployment, model: Path) -> None:
    for name in SHORTENED:
        del service.settings[f"TUNESMITH_{name}_SECONDS"]
    (service.folder / "models" / "tiny").symlink_to(model)
    service.start_api()


if __name__ == "__main__":
    main()
