from check_docs import (
    API,
    LIFECYCLE,
    OPERATIONS,
    event_differences,
    failure_differences,
    undocumented_commands,
    undocumented_routes,
    undocumented_settings,
)

from app.failures import CATALOG, FailureCode


def test_a_row_that_lost_its_first_cell_is_missed() -> None:
    page = OPERATIONS.read_text()
    whole = undocumented_settings(page)
    broken = page.replace("| `TUNESMITH_DATA_DIR` | ~/.tunesmith |", "| ~/.tunesmith |")
    assert undocumented_settings(broken) == sorted([*whole, "TUNESMITH_DATA_DIR"])
    in_a_wrong_cell = page.replace("| `TUNESMITH_SLOTS` | 1 |", "| 1 | `TUNESMITH_SLOTS` |")
    assert undocumented_settings(in_a_wrong_cell) == sorted([*whole, "TUNESMITH_SLOTS"])
    without_default = page.replace("| `TUNESMITH_SLOTS` | 1 |", "| `TUNESMITH_SLOTS` |")
    assert undocumented_settings(without_default) == sorted([*whole, "TUNESMITH_SLOTS"])


def test_a_command_needs_a_row_of_its_own() -> None:
    page = OPERATIONS.read_text()
    whole = undocumented_commands(page)
    # It is still named in the text below the table, and by the longer command.
    assert undocumented_commands(page.replace("| `tunesmith up` |", "| up |")) == sorted([*whole, "tunesmith up"])


def test_a_route_needs_a_list_item() -> None:
    page = API.read_text()
    broken = page.replace("- `GET /v1/jobs` ", "`GET /v1/jobs` ")
    assert undocumented_routes(broken) == sorted([*undocumented_routes(page), "GET /v1/jobs"])


def test_the_table_of_codes_says_what_the_catalog_says() -> None:
    page = LIFECYCLE.read_text()
    assert failure_differences(page) == []
    kind = CATALOG[FailureCode.BAD_ROWS]
    row = f"| `bad_rows` | {kind.meaning} | no |"
    assert row in page
    for changed in ("", row.replace("| no |", "| yes |"), row.replace(kind.meaning, "rows are bad")):
        assert failure_differences(page.replace(row, changed or "| |")) != []
    (unknown,) = failure_differences(page.replace(row, f"{row}\n| `bad_luck` | the stars | no |"))
    assert "bad_luck" in unknown
    assert len(failure_differences("")) == len(CATALOG)


def test_the_table_of_events_has_the_fields_of_each_type() -> None:
    page = API.read_text()
    assert event_differences(page) == []
    (missing,) = event_differences(page.replace("| message, engine |", "| message |"))
    assert "`note`" in missing
