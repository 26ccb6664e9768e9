import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import free_port

Run = Callable[..., Any]


def shows(said: Any, *parts: str) -> None:
    """It ended with 2, and said so in a line without a traceback."""
    assert said.code == 2, said
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err, said.err


@pytest.mark.parametrize("command", [["create"], ["list"], ["revoke", "key_x"]])
def test_keys_before_the_migrations_say_what_to_run(tunesmith: Run, data_dir: Path, command: list[str]) -> None:
    shows(tunesmith("keys", *command), "run `tunesmith migrate` (or `tunesmith up`)")
    assert not data_dir.exists()
    data_dir.mkdir()
    sqlite3.connect(data_dir / "tunesmith.db").close()
    shows(tunesmith("keys", *command), "run `tunesmith migrate` (or `tunesmith up`)")


def test_keys_work_once_the_database_is_migrated(tunesmith: Run) -> None:
    assert tunesmith("migrate").code == 0
    made = tunesmith("keys", "create", "[/x]", "--project", "run [red]")
    assert made.out.startswith("ts_")
    listed = tunesmith("keys", "list").out
    assert "run [red]" in listed
    assert "[/x]" in listed
    assert tunesmith("keys", "revoke", "[/x]").code == 1


def test_a_database_of_a_newer_version_is_reported(tunesmith: Run, data_dir: Path) -> None:
    tunesmith("migrate")
    with sqlite3.connect(data_dir / "tunesmith.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    shows(tunesmith("keys", "list"), "tunesmith migrate")
    shows(tunesmith("migrate"), "9999", "newer version")


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("postgresql+psycopg://u:hidden@127.0.0.1:9/x", "Connection refused"),
        ("sqlite:////proc/nowhere/x.db", "unable to open"),
        ("nonsense", "URL"),
    ],
)
@pytest.mark.parametrize("command", [["migrate"], ["up", "--port", str(free_port())]], ids=["migrate", "up"])
def test_a_database_that_cannot_be_used_is_reported(
    tunesmith: Run, monkeypatch: pytest.MonkeyPatch, url: str, part: str, command: list[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", url)
    said = tunesmith(*command)
    shows(said, part, "TUNESMITH_DATABASE_URL")
    assert "hidden" not in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["up", "api", "worker", "migrate", "jobs"])
def test_every_bad_setting_is_named(tunesmith: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("TUNESMITH_SLOTS", "100")
    monkeypatch.setenv("TUNESMITH_POLL_SECONDS", "[/x]")
    shows(
        tunesmith(command),
        "TUNESMITH_SLOTS must be less than or equal to 64; it is '100'",
        "TUNESMITH_POLL_SECONDS must",
        "'[/x]'",
    )


def test_what_is_wrong_with_a_file_is_one_line(tunesmith: Run, data_dir: Path) -> None:
    (data_dir / "api-key").mkdir(parents=True)
    said = tunesmith("jobs")
    shows(said, "api-key: Is a directory")
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("text", ["{", '{"name": NaN}', '{"name": "\\ud800"}', "\xff"])
def test_a_spec_that_is_not_json_is_reported(tunesmith: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "run [red].json"
    path.write_bytes(text.encode("latin-1"))
    shows(tunesmith("submit", str(path)), f"{path} is not JSON")


@pytest.mark.parametrize(
    ("name", "value"), [("TUNESMITH_URL", "http://[x"), ("TUNESMITH_API_KEY", "ключ"), ("TUNESMITH_URL", "127.0.0.1")]
)
def test_an_address_or_key_that_cannot_be_one_is_reported(
    service: Any, tunesmith: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    shows(tunesmith("jobs"), name)


def test_an_answer_of_something_else_is_reported(service: Any, tunesmith: Run) -> None:
    service.answers["/v1/jobs"] = [(200, b"<html>welcome</html>")]
    shows(tunesmith("jobs"), "is this a Tunesmith service?")


def test_a_refusal_shows_what_to_do(service: Any, tunesmith: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,a\n")
    details = {"row": None, "line": 1, "column": "a", "hint": "rename [/x] one of them"}
    error = {"message": "'a' stands there twice", "code": "header", "details": details}
    service.answers["/v1/datasets"] = [(422, {"error": error})]
    shows(
        tunesmith("datasets", "upload", str(tmp_path / "a.csv")),
        "refused (422, header): 'a' stands there twice\n  rename [/x] one of them",
    )


def test_a_refusal_shows_names_as_they_are(service: Any, tunesmith: Run, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    details = [{"split": "train", "row": 3, "column": "[/b]", "message": "label '[/INST]' :warning: is unknown"}]
    error = {"message": "column [/x] is not there", "code": "bad_rows", "details": details}
    service.answers["/v1/jobs"] = [(422, {"error": error})]
    shows(
        tunesmith("submit", str(tmp_path / "job.json")),
        "refused (422, bad_rows): column [/x] is not there",
        "split train row 3 column [/b]: label '[/INST]' :warning: is unknown",
    )
