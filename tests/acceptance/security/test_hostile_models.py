"""Models that try to run code, read other files or exhaust the machine are refused at once, and say nothing of the server."""

import json
from pathlib import Path
from typing import Any

from deployment import Deployment
from hostile_models import make_hostile
from tiny import make_model, spec
from tiny_generator import conversations, make_generator


def refused(service: Deployment, job_id: str) -> dict[str, Any]:
    """A job that was given up in its first attempt, because its model was refused."""
    job = service.wait_for_end(job_id)
    assert (job["status"], job["attempt"], job["error"]["code"]) == ("failed", 1, "model_refused"), job
    told = json.dumps([job, list(service.client.events(job_id, 0))])
    assert str(service.folder) not in told, told
    assert "Traceback" not in told
    assert "site-packages" not in told
    return job


def test_every_hostile_model_is_refused_in_one_attempt(local: Deployment, tiny_model: Path, tmp_path: Path) -> None:
    secret = make_model(local.folder / "secret")
    names = make_hostile(local.folder / "models", tiny_model, secret)
    local.start_api()
    jobs = {name: local.client.post("/v1/jobs", spec(model=f"local:{name}"))["id"] for name in names}
    local.start_worker(TUNESMITH_SLOTS="2")

    for name, job in jobs.items():
        error = refused(local, job)["error"]
        assert f"local:{name}" in error["message"], error


TEMPLATES = {
    "huge": "{% for m in messages %}{{ m.content * 1000000000 }}{% endfor %}",
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "escape": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "broken": "{% for m in messages %}{{ m.content }}",
}


def test_a_hostile_chat_template_is_refused_within_limits(local: Deployment) -> None:
    for kind, template in TEMPLATES.items():
        folder = make_generator(local.folder / "models" / kind)
        (folder / "chat_template.jinja").write_text(template)
    local.start_api()
    body = {"task": {"type": "causal-lm"}, "data": {"train": {"rows": conversations(8)}}}
    jobs = {kind: local.client.post("/v1/jobs", {**body, "model": f"local:{kind}"})["id"] for kind in TEMPLATES}
    # 4 GiB at most, so that a broken limit does not take the whole machine.
    worker = local.start_worker(TUNESMITH_SLOTS="2", TUNESMITH_TRAINING_MEMORY_BYTES=str(4 * 1024**3))

    for job in jobs.values():
        assert "chat template" in refused(local, job)["error"]["message"]
    assert worker.popen.poll() is None
