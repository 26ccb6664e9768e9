"""Tokens that one job left are there for the next, through a real worker."""

from deployment import Deployment
from tiny import spec


def notes(service: Deployment, job_id: str) -> list[str]:
    return [event["data"]["message"] for event in service.client.events(job_id, 0) if event["type"] == "note"]


def test_jobs_of_one_machine_share_their_tokens(local: Deployment) -> None:
    local.start_api()
    local.start_worker()
    bodies = [spec(), spec(training={"learning_rate": 0.02}), spec()]
    first, tuned, repeated = (str(local.client.post("/v1/jobs", body)["id"]) for body in bodies)
    for job in (first, tuned, repeated):
        assert local.wait_for_end(job)["status"] == "succeeded", local.logs()
    shared = {
        f"{split}: {rows} rows were tokenized before; taken from the cache"
        for split, rows in (("train", 48), ("eval", 12))
    }
    assert not shared & set(notes(local, first))
    assert shared <= set(notes(local, tuned))
    assert shared <= set(notes(local, repeated))
    assert local.model_sha(repeated) == local.model_sha(first) != local.model_sha(tuned)
    kept = [path.suffix for path in (local.folder / "cache" / "tokens").glob("*/*")]
    assert sorted(kept) == [".arrow", ".arrow", ".json", ".json"]
