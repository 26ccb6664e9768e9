from check_docs import API, OPERATIONS, undocumented_commands, undocumented_routes, undocumented_settings


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
