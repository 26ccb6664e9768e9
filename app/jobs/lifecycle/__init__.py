"""The life of a job: the only package that writes `status` and `attempt`.

Every function takes a write session and leaves the commit to its caller. Each transition is one UPDATE whose
WHERE holds its guard, and the event that records it is part of the same transaction. Rooms: `queueing` (submit,
claim), `running` (the owner), `requests` (users), `repairs` (the sweeper); all write through `transitions`.
`app.jobs.decision` decides what becomes of a job when an attempt ends.
"""

from app.jobs.lifecycle.lease import Lease, LostLease, Requests
from app.jobs.lifecycle.queueing import claim, submit
from app.jobs.lifecycle.repairs import expire, note, reclaim
from app.jobs.lifecycle.requests import cancel, pause, resume
from app.jobs.lifecycle.running import checkpoint, conclude, log, look, record, renew

__all__ = [
    "Lease",
    "LostLease",
    "Requests",
    "cancel",
    "checkpoint",
    "claim",
    "conclude",
    "expire",
    "log",
    "look",
    "note",
    "pause",
    "reclaim",
    "record",
    "renew",
    "resume",
    "submit",
]
