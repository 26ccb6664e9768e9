"""How often a key may send requests, and an address may send wrong keys. Counted in Redis where there is one.

With several API processes and no Redis, each of them counts by itself.
"""

import logging
import time
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError

from app.errors import RateLimited

log = logging.getLogger(__name__)

REDIS = ("redis://", "rediss://")
REQUESTS, SIGN_INS = "requests", "sign-ins"


@dataclass(frozen=True)
class Rate:
    """What is left of a limit, for the headers of a response (draft-ietf-httpapi-ratelimit-headers)."""

    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """`RateLimit-*`."""
        return {
            "ratelimit-limit": str(self.limit),
            "ratelimit-remaining": str(self.remaining),
            "ratelimit-reset": str(self.reset_seconds),
        }


class RateLimits:
    """Limits such as `600/minute`; an empty text is no limit."""

    def __init__(self, requests: str, failed_sign_ins: str, broker_url: str) -> None:
        self._requests = parse(requests) if requests else None
        self._sign_ins = parse(failed_sign_ins) if failed_sign_ins else None
        self._limiter = FixedWindowRateLimiter(_storage(broker_url))

    async def request(self, key_id: str) -> Rate | None:
        """Count a request of a key. None without a limit. Raises RateLimited."""
        return await self._count(self._requests, REQUESTS, key_id)

    async def failed_sign_in(self, address: str) -> None:
        """Count a request with a missing or wrong key. Raises RateLimited."""
        await self._count(self._sign_ins, SIGN_INS, address)

    async def _count(self, limit: RateLimitItem | None, kind: str, who: str) -> Rate | None:
        if limit is None:
            return None
        try:
            is_allowed = await self._limiter.hit(limit, kind, who)
            window = await self._limiter.get_window_stats(limit, kind, who)
        except StorageError as error:
            # A service that does not count is better than one that does not answer.
            log.warning("requests are not counted, because Redis does not answer: %s", error)
            return None
        rate = Rate(limit.amount, window.remaining, max(1, round(window.reset_time - time.time())))
        if not is_allowed:
            raise RateLimited(rate.reset_seconds, rate.headers())
        return rate


def _storage(broker_url: str) -> Storage:
    if not broker_url.startswith(REDIS):
        return MemoryStorage()
    return RedisStorage(f"async+{broker_url}", implementation="redispy", wrap_exceptions=True, key_prefix="tunesmith")
