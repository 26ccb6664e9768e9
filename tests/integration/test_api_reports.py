"""What a job reports: metric series for a plot, and its output from any place on."""

import httpx
from deployment import Deployment
from hand_worker import claim
from refusals import refusal
from tiny import spec

from app.jobs import events, lifecycle


def test_series_are_thinned_on_request_and_keep_their_peaks(http: httpx.Client, service: Deployment) -> None:
    job = http.post("/v1/jobs", json=spec(resources={"gpus": 1})).json()["id"]
    database, lease = claim(service, job)
    values = [float(step % 7) for step in range(2500)]
    values[1234], values[77] = 100.0, -100.0
    with database.write() as session:
        entries = [
            events.reported("metric", {"step": step, "epoch": None, "values": {"loss": value, "none": None}})
            for step, value in enumerate(values)
        ]
        lifecycle.record(session, lease, entries)
    database.close()
    whole = http.get(f"/v1/jobs/{job}/metrics").json()["series"]
    assert list(whole) == ["loss"]
    assert [point["value"] for point in whole["loss"]] == values
    thin = http.get(f"/v1/jobs/{job}/metrics", params={"points": 100}).json()["series"]["loss"]
    assert len(thin) <= 100
    assert [point["step"] for point in thin] == sorted(point["step"] for point in thin)
    assert (thin[0], thin[-1]) == (whole["loss"][0], whole["loss"][-1])
    assert {1234, 77} <= {point["step"] for point in thin}
    assert refusal(http.get(f"/v1/jobs/{job}/metrics?points=9"), 422)["param"] == "points"


def test_the_output_is_read_from_any_place_on(http: httpx.Client, service: Deployment) -> None:
    job = http.post("/v1/jobs", json=spec(resources={"gpus": 1})).json()["id"]
    database, lease = claim(service, job)
    address = f"/v1/jobs/{job}/logs"

    def write(start: int, line: str) -> None:
        with database.write() as session:
            lifecycle.log(session, lease, start, line)

    write(0, "one\n")
    write(4, "two\n")
    end = http.get(address).json()
    assert (end["attempt"], end["text"]) == (1, "one\ntwo\n")
    first = http.get(address, params={"start": 0, "limit": 1}).json()
    second = http.get(address, params={"start": first["next"]}).json()
    assert (first["text"], second["text"], second["next"]) == ("one\n", "two\n", end["next"])
    nothing = http.get(address, params={"start": end["next"]}).json()
    assert (nothing["text"], nothing["next"]) == ("", end["next"])
    write(8, "three\n")
    database.close()
    assert http.get(address, params={"start": end["next"]}).json()["text"] == "three\n"
    assert http.get(address, params={"tail": 3}).json()["text"] == "ee\n"
    # With both: the end, but nothing before the place.
    assert http.get(address, params={"start": 0, "tail": 5}).json()["text"] == "hree\n"
    assert http.get(address, params={"start": 4, "tail": 100}).json()["text"] == "two\nthree\n"
