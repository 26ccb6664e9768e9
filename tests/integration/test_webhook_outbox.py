"""The outbox: a row for each status event that somebody wants, claimed by one, gone once it was sent."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from attempts import CANCELLED, POLICY
from sqlalchemy import func, select, update

from app import auth
from app.db import Database
from app.identifiers import new_id
from app.jobs import events, lifecycle
from app.jobs.tables import Event, Job
from app.sealing import Sealer
from app.webhooks import changes, queries, tries
from app.webhooks.queries import Waiting
from app.webhooks.sender import Outcome
from app.webhooks.tables import Webhook, WebhookDelivery
from app.webhooks.tries import WAITS, Claim

ALL = ["job.queued", "job.running", "job.paused", "job.succeeded", "job.failed", "job.cancelled"]
FAILED, SENT = Outcome(500, "the answer was 500"), Outcome(200, None)


@pytest.fixture
def project(database: Database) -> str:
    with database.write() as session:
        return auth.ensure_project(session, "default").id


@pytest.fixture
def submit(database: Database, project: str) -> Callable[[], str]:
    def submit() -> str:
        job = Job(
            id=new_id("job"), project_id=project, task="t", user_metadata={}, priority=0, queue="cpu", spec={},
            timeout_seconds=3600, body_sha256="0" * 64,
        )  # fmt: skip
        with database.write() as session:
            lifecycle.submit(session, job)
        return job.id

    return submit


def subscribe(database: Database, project: str, events: list[str]) -> str:
    return changes.add(database, Sealer(""), project, "http://127.0.0.1:9/", events, private_addresses=True)[0].id


def end(database: Database, job: str) -> None:
    with database.write() as session:
        assert lifecycle.cancel(session, job)


def due(database: Database, each: int = 100) -> list[Waiting]:
    with database.read() as session:
        return queries.due(session, each=each, in_flight={})


def take(database: Database, waiting: Waiting) -> Claim:
    with database.write() as session:
        claimed = tries.claim(session, waiting)
    assert claimed is not None
    return claimed


def note(database: Database, claimed: Claim, outcome: Outcome) -> None:
    with database.write() as session:
        tries.record(session, claimed, outcome)


def left(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(WebhookDelivery)) or 0


def later(database: Database, seconds: float) -> None:
    """What is due then is due now."""
    with database.write() as session:
        session.execute(update(WebhookDelivery).values(due_at=WebhookDelivery.due_at - seconds))


def webhook(database: Database, webhook_id: str) -> Webhook:
    with database.read() as session:
        return session.get_one(Webhook, webhook_id)


def test_many_processes_never_claim_the_same_delivery(
    database: Database, project: str, submit: Callable[[], str]
) -> None:
    subscribe(database, project, ["job.queued"])
    jobs = {submit() for _ in range(24)}
    claimed: list[str] = []

    def work() -> None:
        while waiting := due(database):
            for item in waiting:
                with database.write() as session:
                    if (mine := tries.claim(session, item)) is not None:
                        claimed.append(mine.job_id)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(jobs)


def test_of_a_job_only_the_oldest_event_is_due_and_the_next_once_that_was_sent(
    database: Database, project: str, submit: Callable[[], str]
) -> None:
    subscribe(database, project, ALL)
    job = submit()
    end(database, job)
    (first,) = due(database)
    assert first.seq == 1
    claimed = take(database, first)
    assert due(database) == []
    note(database, claimed, SENT)
    (second,) = due(database)
    assert second.seq == 2
    note(database, take(database, second), SENT)
    assert left(database) == 0


def test_only_so_many_are_due_at_a_time_and_those_under_way_count(
    database: Database, project: str, submit: Callable[[], str]
) -> None:
    one, other = (subscribe(database, project, ALL) for _ in range(2))
    for _ in range(6):
        submit()
    assert [item.webhook_id for item in due(database, each=4)].count(one) == 4
    with database.read() as session:
        found = queries.due(session, each=4, in_flight={one: 3, other: 4})
    assert [item.webhook_id for item in found] == [one]


def test_a_delivery_is_given_up_after_its_last_try_and_the_next_event_takes_its_turn(
    database: Database, project: str, submit: Callable[[], str]
) -> None:
    made = subscribe(database, project, ALL)
    end(database, submit())
    for wait in WAITS:
        (waiting,) = due(database)
        assert waiting.seq == 1
        note(database, take(database, waiting), FAILED)
        later(database, wait * 0.9)
        assert due(database) == []
        later(database, wait * 0.3)
    (last,) = due(database)
    note(database, take(database, last), FAILED)
    seen = webhook(database, made)
    assert (seen.failures, seen.given_up, seen.last_status_code) == (len(WAITS) + 1, 1, 500)
    (following,) = due(database)
    assert following.seq == 2
    assert 18 * 3600 < sum(WAITS) < 30 * 3600


def test_a_claim_that_ran_out_goes_to_another_and_what_comes_late_counts_for_nothing(
    database: Database, project: str, submit: Callable[[], str]
) -> None:
    made = subscribe(database, project, ["job.queued"])
    submit()
    (waiting,) = due(database)
    lost = take(database, waiting)
    later(database, tries.LEASE_SECONDS)
    (again,) = due(database)
    mine = take(database, again)
    note(database, lost, SENT)
    assert left(database) == 1
    assert webhook(database, made).last_attempt_at is None
    note(database, mine, SENT)
    assert left(database) == 0
    # What was seen may be gone by the time it is claimed.
    with database.write() as session:
        assert tries.claim(session, waiting) is None


def test_410_drops_what_was_to_be_sent(database: Database, project: str, submit: Callable[[], str]) -> None:
    made = subscribe(database, project, ALL)
    jobs = [submit() for _ in range(3)]
    note(database, take(database, due(database)[0]), Outcome(410, "the answer was 410"))
    assert webhook(database, made).disabled_at is not None
    end(database, jobs[0])
    assert left(database) == 0


def test_every_status_event_that_is_wanted_has_its_row_and_no_other(
    database: Database, project: str, submit: Callable[[], str]
) -> None:
    whole, some = subscribe(database, project, ALL), subscribe(database, project, ["job.running", "job.cancelled"])
    job = submit()
    with database.write() as session:
        other = auth.ensure_project(session, "other").id
    assert subscribe(database, other, ALL)
    with database.write() as session:
        taken = lifecycle.claim(session, "w", ("cpu",), 60)
        assert taken is not None
        lease = lifecycle.Lease(taken.id, taken.attempt, "w")
        lifecycle.record(session, lease, [events.note("job.running")])
        lifecycle.cancel(session, job)
        lifecycle.conclude(session, lease, CANCELLED, POLICY)
    with database.read() as session:
        log = session.execute(select(Event.seq, Event.data).where(Event.job_id == job, Event.type == "status")).all()
        rows = session.execute(select(WebhookDelivery.webhook_id, WebhookDelivery.seq)).all()
    wanted = [seq for seq, data in log if data["to"] in ("running", "cancelled")]
    assert sorted(rows) == sorted([(whole, seq) for seq, _ in log] + [(some, seq) for seq in wanted])


def test_webhooks_that_come_and_go_never_disturb_a_job(
    database: Database, project: str, submit: Callable[[], str]
) -> None:
    def come_and_go() -> None:
        made = subscribe(database, project, ALL)
        time.sleep(0.02)
        changes.remove(database, project, made)

    def deliver() -> None:
        for item in due(database):
            with database.write() as session:
                claimed = tries.claim(session, item)
            if claimed is not None:
                note(database, claimed, SENT if claimed.seq % 2 else FAILED)

    with beside(come_and_go, come_and_go, deliver, deliver):
        for _ in range(150):
            end(database, submit())
    with database.read() as session:
        assert session.scalar(select(func.count()).where(Job.status == "cancelled")) == 150
    assert left(database) == 0


@contextmanager
def beside(*works: Callable[[], None]) -> Iterator[None]:
    """Repeat each in a thread of its own until the block ends; none may fail."""
    over = threading.Event()

    def repeat(work: Callable[[], None]) -> None:
        while not over.is_set():
            work()

    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(repeat, work) for work in works]
        try:
            yield
        finally:
            over.set()
    for done in running:
        done.result()
