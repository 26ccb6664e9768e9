"""The main job, end to end, with the product's own commands: start, upload, submit, watch, download, use.

    python tools/demo.py [SPEC.json]

A spec that names TRAIN_DATASET and EVAL_DATASET gets real reviews in five rating classes, and a real pretrained encoder
from a Python package. Any other spec is submitted unchanged, such as examples/yelp-bert.json, which needs the hub.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import reviews

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
OUTPUT = ROOT / "demo-output"
BIN = Path(sys.executable).parent
START_SECONDS = 120
SENTENCES = (
    "An absolute masterpiece, I have never enjoyed a film so much.",
    "It is watchable, with a few good moments and a few dull ones.",
    "A horrible, boring waste of two hours.",
)
USE = """
import sys
from transformers import pipeline
classify = pipeline("text-classification", model=sys.argv[1])
for text, found in zip(sys.argv[2:], classify(sys.argv[2:])):
    print(f"  {found['label']:>8} ({found['score']:.2f})  {text}")
"""


def main() -> None:
    """Run the demo; leave the model in demo-output/."""
    spec_file = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "examples" / "reviews-demo.json")
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    with _service() as environment:
        spec = _fill_in(spec_file.read_text(), environment)
        job = _train(spec, environment)
        model = OUTPUT / "model"
        _run("download", job["id"], str(model), environment=environment)
        _say(f"plain transformers loads {model.relative_to(ROOT)} and labels three new sentences:")
        subprocess.run(
            [sys.executable, "-c", USE, str(model), *SENTENCES], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        _compare(job, environment)


@contextmanager
def _service() -> Iterator[dict[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = OUTPUT / "service"
    environment = {
        **os.environ,
        "TUNESMITH_DATA_DIR": str(data),
        "TUNESMITH_URL": f"http://127.0.0.1:{port}",
        "COLUMNS": "110",
    }
    reviews.models_dir(data / "models")
    _say(f"tunesmith up --port {port} --data {data.relative_to(ROOT)}")
    log = (OUTPUT / "service.log").open("wb")
    up = subprocess.Popen([BIN / "tunesmith", "up", "--port", str(port), "--data", str(data)], stdout=log, stderr=log)
    try:
        _wait_until_ready(environment["TUNESMITH_URL"], up)
        yield environment
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


def _wait_until_ready(url: str, up: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and up.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"the service did not start; see {OUTPUT / 'service.log'}")


def _fill_in(text: str, environment: dict[str, str]) -> str:
    if "TRAIN_DATASET" not in text:
        return text
    for role, rows in reviews.splits(CACHE).items():
        path = reviews.write_csv(rows, OUTPUT / f"{role}.csv")
        answer = _run("datasets", "upload", str(path), environment=environment)
        dataset_id = re.search(r"ds_[0-9a-z]{26}", answer)
        if dataset_id is None:
            raise SystemExit("the upload gave no dataset id")
        text = text.replace(f"{role.upper()}_DATASET", dataset_id[0])
    return text


def _train(spec: str, environment: dict[str, str]) -> dict[str, Any]:
    path = OUTPUT / "spec.json"
    path.write_text(spec)
    key = secrets.token_hex(8)
    answer = _run("submit", str(path), "--watch", "--idempotency-key", key, environment=environment)
    return _get(environment, f"/v1/jobs/{answer.split()[0]}")


def _compare(job: dict[str, Any], environment: dict[str, str]) -> None:
    series = _get(environment, f"/v1/jobs/{job['id']}/metrics")["series"].get("eval_accuracy", [])
    before = next((point["value"] for point in series if point["step"] == 0), None)
    after = job["metrics"].get("eval_accuracy")
    if before is not None and after is not None:
        _say(f"accuracy before: {before:.3f}   accuracy after: {after:.3f}   (on reviews that it was not trained on)")


def _get(environment: dict[str, str], path: str) -> dict[str, Any]:
    key = (Path(environment["TUNESMITH_DATA_DIR"]) / "api-key").read_text().strip()
    answer = httpx.get(environment["TUNESMITH_URL"] + path, headers={"authorization": f"Bearer {key}"}, timeout=30)
    answer.raise_for_status()
    return json.loads(answer.text)


def _run(*arguments: str, environment: dict[str, str]) -> str:
    """Run a tunesmith command, show what it prints as it comes, and return it."""
    _say("tunesmith " + " ".join(arguments))
    lines: list[str] = []
    with subprocess.Popen(
        [BIN / "tunesmith", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"tunesmith {arguments[0]} ended with {process.returncode}; see {OUTPUT / 'service.log'}")
    return "".join(lines)


def _say(text: str) -> None:
    print(f"\n$ {text}" if text.startswith("tunesmith") else f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
