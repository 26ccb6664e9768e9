"""The life of a job: the only package that writes `status` and `attempt`.

Every function takes a write session and leaves the commit to its caller. Each transition is one UPDATE whose
WHERE holds its guard, and the event that records it is part of the same transaction. Rooms: `queueing` (submit,
claim), `running` (the owner), `wishes` (people), `repairs` (the sweeper); `moves` is the one step they all take.
"""

from app.jobs.lifecycle.lease import Intents, Lease, Limits, LostLease, limits_of
from app.jobs.lifecycle.queueing import claim, queue_order, submit
from app.jobs.lifecycle.repairs import expire, note, reclaim
from app.jobs.lifecycle.running import (
    checkpoint,
    fail,
    finish_cancel,
    finish_pause,
    log,
    look,
    postpone,
    record,
    release,
    renew,
    shrink,
    succeed,
    time_out,
    timeout_error,
)
from app.jobs.lifecycle.wishes import cancel, pause, resume

__all__ = [
    "Intents",
    "Lease",
    "Limits",
    "LostLease",
    "cancel",
    "checkpoint",
    "claim",
    "expire",
    "fail",
    "finish_cancel",
    "finish_pause",
    "limits_of",
    "log",
    "look",
    "note",
    "pause",
    "postpone",
    "queue_order",
    "reclaim",
    "record",
    "release",
    "renew",
    "resume",
    "shrink",
    "submit",
    "succeed",
    "time_out",
    "timeout_error",
]
