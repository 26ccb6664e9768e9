from app.failures import CATALOG, Counted, Failure, FailureCode
from worker.training import errors
from worker.training.errors import TrainingError


def test_every_code_is_in_the_catalog() -> None:
    assert list(CATALOG) == list(FailureCode)


def test_every_training_error_has_a_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, TrainingError) and kind is not TrainingError
    ]
    codes = [kind.code for kind in kinds]
    assert len(kinds) > 20
    assert len(codes) == len(set(codes))
    assert all(isinstance(kind("x").failure, Failure) for kind in kinds)


def test_a_failure_survives_json_and_leaves_out_what_it_lacks() -> None:
    whole = Failure.of(FailureCode.BAD_ROWS, "row 3", "fix it", details={"row": 3}, log_tail="")
    assert whole.to_json() == {
        "code": "bad_rows",
        "message": "row 3",
        "hint": "fix it",
        "details": {"row": 3},
        "log_tail": "",
    }
    assert Failure.from_json(whole.to_json()) == whole
    short = Failure.of(FailureCode.TIMEOUT, "too long")
    assert short.to_json() == {"code": "timeout", "message": "too long", "hint": CATALOG[FailureCode.TIMEOUT].hint}
    assert Failure.from_json(short.to_json(), log_tail="the end").log_tail == "the end"


def test_what_is_postponed_can_be_retried() -> None:
    assert all(kind.retryable for kind in CATALOG.values() if kind.counted is Counted.POSTPONED)
