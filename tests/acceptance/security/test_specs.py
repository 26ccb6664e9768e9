"""Specs that try to pass arguments to loaders, to fill the database, or to deceive whoever reads a list."""

import json
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment
from refusals import refusal
from tiny import sentences, spec

LOADER_ARGUMENTS = (
    "subfolder",
    "gguf_file",
    "attn_implementation",
    "experts_implementation",
    "cache_dir",
    "token",
    "proxies",
    "name_or_path",
    "revision",
    "trust_remote_code",
    "transformers_weights",
    "backbone",
    "no_such_setting",
)


def test_only_settings_of_a_configuration_pass(local: Deployment) -> None:
    local.start_api()
    for name in LOADER_ARGUMENTS:
        body = spec(model={"id": "local:tiny", "config": {name: "../../etc/passwd"}})
        error = refusal(local.http.post("/v1/jobs", json=body), 422)
        assert error["param"] == "model.config", error
        assert name in error["message"]
    for settings in ({"hidden_dropout_prob": 0.2}, {"classifier_dropout": None, "layer_norm_eps": 1e-6}):
        body = spec(model={"id": "local:tiny", "config": settings})
        assert local.http.post("/v1/jobs/validate", json=body).status_code == 200


def test_a_setting_of_another_kind_of_model_is_refused_by_the_worker(local: Deployment) -> None:
    local.start_api()
    body = spec(model={"id": "local:tiny", "config": {"n_embd": 8}})
    job = local.client.post("/v1/jobs", body)
    local.start_worker()

    ended = local.wait_for_end(job["id"])

    assert (ended["attempt"], ended["error"]["code"]) == (1, "model_config_invalid"), ended
    assert "n_embd is no setting of a bert model" in ended["error"]["message"]


def test_a_spec_is_at_most_64_kib_besides_its_rows(local: Deployment) -> None:
    local.start_api()
    many = {f"name{number}": "x" for number in range(50)}
    huge = spec(task={"type": "text-classification", "labels": [f"{number:0>900}" for number in range(100)]})
    refusal(local.http.post("/v1/jobs", json=huge), 422, "spec_too_large")
    refusal(
        local.http.post("/v1/jobs", json=spec(model={"id": "local:tiny", "config": {"hidden_act": "x" * 201}})), 422
    )
    refusal(local.http.post("/v1/jobs", json=spec(model={"id": "local:tiny", "config": many})), 422)
    rows = [{"text": "good film " * 10, "label": "good"}, {"text": "bad film " * 10, "label": "bad"}] * 400
    assert len(json.dumps(rows)) > 64 * 1024
    assert local.http.post("/v1/jobs", json=spec(data={"train": {"rows": rows}})).status_code == 201


def test_every_text_of_a_spec_is_bounded(local: Deployment) -> None:
    local.start_api()
    document = local.http.get("/openapi.json").json()
    unbounded: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if node.get("type") == "string" and not {"maxLength", "enum", "const", "pattern", "format"} & node.keys():
                unbounded.append(path)
            for name, inner in node.items():
                walk(inner, f"{path}/{name}")
        elif isinstance(node, list):
            for place, inner in enumerate(node):
                walk(inner, f"{path}/{place}")

    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        schema = document["components"]["schemas"][name]
        walk(schema, name)
        for reference in set(json.dumps(schema).split('"#/components/schemas/')[1:]):
            visit(reference.split('"', 1)[0])

    visit("JobSpec")
    assert len(seen) > 20
    assert unbounded == []


DECEIVING = ("\x1b[2J", "a\r\nb", "a\u202eb", "a\u2066b", "\x9b31m", "a\u2028b")


@pytest.mark.parametrize("text", DECEIVING)
def test_no_name_moves_the_cursor_or_reverses_text(text: str, local: Deployment) -> None:
    local.start_api()
    for part in ({"name": text}, {"metadata": {"k": text}}, {"metadata": {text: "v"}}):
        refusal(local.http.post("/v1/jobs", json=spec(**part)), 422)
    form = {"name": (None, text), "file": ("a.csv", b"text,label\na,b\n")}
    refusal(local.http.post("/v1/datasets", files=form), 422, "invalid_name")
    assert local.http.post("/v1/jobs", json=spec(name="Größe \U0001f469\u200d\U0001f4bb")).status_code == 201


def test_a_card_shows_names_as_they_are(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    name = "<img src=x onerror=alert(1)> [a](javascript:b) # `c` | --- $d$"
    labels = {"good": "<b>`good`</b>|", "bad": "--- bad: [x]"}
    rows = [{"text": row["text"], "label": labels[row["label"]]} for row in sentences(24)]
    job = local.client.post("/v1/jobs", spec(name=name, data={"train": {"rows": rows}, "eval": {"rows": rows[:8]}}))
    local.start_worker()
    assert local.wait_for_end(job["id"])["status"] == "succeeded"

    card = local.http.get(f"/v1/jobs/{job['id']}/artifacts/README.md").text

    front, body = card.split("\n---\n", 1)
    assert json.dumps(name) in front
    assert "\\<img src=x onerror=alert\\(1\\)\\>" in body
    assert "](javascript" not in body.replace("\\]\\(", "")
    assert "<img" not in body.replace("\\<", "")
    assert "``<b>`good`</b>|``" in body
    # Columns of the table of classes.
    assert all(line.count(" | ") == body.splitlines()[start].count(" | ") for start, line in table_lines(body))


def table_lines(body: str) -> list[tuple[int, str]]:
    """Each line of a table, with the number of the table's first line."""
    found: list[tuple[int, str]] = []
    start = 0
    for number, line in enumerate(body.splitlines()):
        if not line.startswith("|"):
            start = number + 1
        else:
            found.append((start, line))
    return found


def test_a_terminal_gets_no_control_characters_of_old_jobs(local: Deployment) -> None:
    local.start_api()
    job = local.client.post("/v1/jobs", spec(name="plain"))["id"]
    from app.db import Database
    from app.jobs.tables import Job

    database = Database(local.database_url)
    with database.write() as session:
        found = session.get(Job, job)
        assert found is not None
        found.name = "\x1b[2Jx\u202ey"
    database.close()

    printed = local.tunesmith("jobs")

    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "\ufffd[2Jx\ufffdy" in printed


def test_internal_hosts_cannot_be_told_from_unknown_ones(local: Deployment) -> None:
    local.start_api()
    answers = set()
    for host in ("localhost", "no-such-host.invalid", "127.0.0.1", "10.0.0.1", "[::1]"):
        error = refusal(local.http.post("/v1/webhooks", json={"url": f"https://{host}/hook"}), 422)
        answers.add((error["code"], error["message"]))
    assert answers == {("host_not_allowed", "'url' must have a host with an address on the public internet")}
