"""What becomes of a job when one of its attempts ends: the only place that decides.

Retries, back-off, smaller batches, postponing and giving up are decided here, for the worker and for the sweeper.
Everything here is pure; `app.jobs.lifecycle` writes the transition.
"""

from dataclasses import dataclass, replace

from app.failures import Counted, Failure, FailureCode
from app.jobs import out_of_memory
from app.jobs.outcomes import (
    DeadlinePassed,
    Failed,
    LeaseExpired,
    Outcome,
    OutOfMemory,
    Stopped,
    StopReason,
    Succeeded,
)
from app.jobs.states import EDGES, Edge, JobStatus
from app.settings import Settings
from app.specs import Resolved

LONGEST_BACKOFF_SECONDS = 60.0
POSTPONED_BACKOFFS = 30.0
"""A job is postponed for this many times the first back-off: a minute by default."""
DEADLINE_GRACE_SECONDS = 300.0
"""How long after the deadline the worker has to save a checkpoint and end the job itself."""


@dataclass(frozen=True)
class RetryPolicy:
    """When a job is retried, and when it is given up."""

    max_failures: int
    max_workers_lost: int
    max_stalled: int
    """Attempts in a row without a new training step: a crash loop."""
    backoff_seconds: float
    """The wait after the first failure. It doubles with each further failure, up to a minute."""

    @classmethod
    def of(cls, settings: Settings) -> "RetryPolicy":
        """The policy that the settings describe."""
        return cls(settings.max_failures, settings.max_workers_lost, settings.max_stalled, settings.backoff_seconds)

    @property
    def postponed_seconds(self) -> float:
        """How long a postponed job waits, and how long a worker with a full disk claims no job."""
        return POSTPONED_BACKOFFS * self.backoff_seconds

    def wait_seconds(self, failures: int) -> float:
        """How long a job waits after this many failures."""
        return min(self.backoff_seconds * 2 ** (failures - 1), LONGEST_BACKOFF_SECONDS)

    def allows(self, counts: "Counts") -> bool:
        """Whether a job with these counts may be tried again."""
        return (
            counts.failures < self.max_failures
            and counts.workers_lost < self.max_workers_lost
            and counts.stalled < self.max_stalled
        )


@dataclass(frozen=True)
class Counts:
    """What limits the attempts of a job."""

    failures: int = 0
    workers_lost: int = 0
    stalled: int = 0
    """Attempts in a row that reached no new training step."""


@dataclass(frozen=True)
class History:
    """What is known about a job when one of its attempts ends."""

    counts: Counts
    furthest_step: int = 0
    """The furthest training step of all attempts."""
    step_at_claim: int = 0
    """The furthest training step before this attempt."""
    cancel_requested: bool = False
    pause_requested: bool = False

    def after(self, counted: Counted) -> Counts:
        """The counts after a failure that is counted so."""
        stalled = 0 if self.furthest_step > self.step_at_claim else self.counts.stalled + 1
        match counted:
            case Counted.ATTEMPT:
                return replace(self.counts, failures=self.counts.failures + 1, stalled=stalled)
            case Counted.WORKER:
                return replace(self.counts, workers_lost=self.counts.workers_lost + 1, stalled=stalled)
            case Counted.MEMORY_RETRY | Counted.POSTPONED | Counted.NOTHING:
                return self.counts


@dataclass(frozen=True)
class Transition:
    """What is written about a job: its edge of the state machine and the values that belong to it."""

    edge: Edge
    counts: Counts
    failure: Failure | None = None
    wait_seconds: float | None = None
    """How long nobody may claim the job; None leaves its time as it is."""
    resolved: Resolved | None = None
    """Smaller batches for the next attempt."""
    success: Succeeded | None = None


def decide(outcome: Outcome, history: History, policy: RetryPolicy) -> Transition:
    """What becomes of a job whose attempt ended with `outcome`.

    A requested cancel takes precedence over everything but success, and a requested pause over the queue: nobody claims
    a
    queued job with such a request.
    """
    transition = _on_its_own(outcome, history, policy)
    target = transition.edge.target
    if transition.edge.source != JobStatus.RUNNING:
        return transition
    if history.cancel_requested and target in (JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.FAILED):
        return replace(transition, edge=CANCELS[transition.edge.actor], wait_seconds=None)
    if history.pause_requested and target == JobStatus.QUEUED:
        return replace(transition, edge=PAUSES[transition.edge.actor], wait_seconds=None)
    return transition


def _on_its_own(outcome: Outcome, history: History, policy: RetryPolicy) -> Transition:
    match outcome:
        case Succeeded():
            return Transition(EDGES["succeed"], history.counts, success=outcome)
        case Stopped(reason):
            failure = _timeout() if reason is StopReason.TIMEOUT else None
            return Transition(STOPPED[reason], history.counts, failure)
        case OutOfMemory():
            return _after_out_of_memory(outcome, history, policy)
        case Failed(failure):
            return _after_failure(failure, history, policy)
        case LeaseExpired(attempt):
            return _after_lost_worker(attempt, history, policy)
        case DeadlinePassed(status):
            edge = EDGES["expire_queued"] if status == JobStatus.QUEUED else EDGES["expire_running"]
            return Transition(edge, history.counts, _timeout())


def _after_out_of_memory(outcome: OutOfMemory, history: History, policy: RetryPolicy) -> Transition:
    smaller = out_of_memory.shrink(outcome)
    failure = out_of_memory.failure_of(outcome, smaller)
    if smaller is None:
        return _after_failure(failure, history, policy)
    # Not counted, because a batch can be halved only so often.
    return Transition(EDGES["shrink"], history.counts, failure, resolved=smaller)


def _after_failure(failure: Failure, history: History, policy: RetryPolicy) -> Transition:
    if failure.counted is Counted.POSTPONED:
        # Not counted, because the job is not to blame; only its deadline bounds it.
        return Transition(EDGES["postpone"], history.counts, failure, policy.postponed_seconds)
    counts = history.after(Counted.ATTEMPT)
    if failure.retryable and policy.allows(counts):
        return Transition(EDGES["retry"], counts, failure, policy.wait_seconds(counts.failures))
    return Transition(EDGES["fail"], counts, failure)


def _after_lost_worker(attempt: int, history: History, policy: RetryPolicy) -> Transition:
    failure = Failure.of(FailureCode.WORKER_LOST, f"The worker of attempt {attempt} stopped renewing its lease.")
    counts = history.after(failure.counted)
    return Transition(EDGES["reclaim" if policy.allows(counts) else "give_up"], counts, failure)


def _timeout() -> Failure:
    return Failure.of(FailureCode.TIMEOUT, "The job ran longer than resources.timeout allows.")


STOPPED = {
    StopReason.CANCEL: EDGES["cancel_running"],
    StopReason.PAUSE: EDGES["pause_running"],
    StopReason.TIMEOUT: EDGES["fail"],
    StopReason.WORKER_STOPPING: EDGES["release"],
    StopReason.DATABASE_SILENT: EDGES["release_silent"],
}
CANCELS = {"worker": EDGES["cancel_running"], "sweeper": EDGES["reclaim_cancelled"]}
"""The edge of a requested cancel, by who ends the attempt."""
PAUSES = {"worker": EDGES["pause_running"], "sweeper": EDGES["reclaim_paused"]}
