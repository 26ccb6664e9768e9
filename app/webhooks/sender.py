"""One POST to one webhook: to a checked address, without redirects, with a time limit."""

import asyncio
import logging
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import httpcore
import httpx

from app.webhooks.target import Target, UnusableTarget, addresses, parse

log = logging.getLogger(__name__)

LIMIT_SECONDS = 10.0
"""From the lookup of the name to the head of the response."""
CONNECT_SECONDS = 4.0
"""For each of several addresses, so that there is time for the next one."""
LOOK_UPS = 100
LONGEST_ERROR = 300


@dataclass(frozen=True)
class Outcome:
    """The result: a status code, or why there is none."""

    status_code: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        """Whether the receiver accepted it."""
        return self.status_code is not None and 200 <= self.status_code < 300  # noqa: PLR2004 - HTTP's own figures


class Sender:
    """Sends to global addresses only, unless `private_addresses` are allowed."""

    def __init__(self, *, private_addresses: bool, tls: ssl.SSLContext | None = None) -> None:
        self._private = private_addresses
        self._tls = tls or httpx.create_ssl_context()
        # Many separate threads, because a name that resolves slowly occupies one for longer than the time limit.
        self._look_ups = ThreadPoolExecutor(LOOK_UPS, thread_name_prefix="webhook-names")

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Send once. Never raises: an error is part of the outcome."""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                status_code = await self._send(url, headers, body)
        except TimeoutError:
            return Outcome(None, f"no answer within {LIMIT_SECONDS:.0f} s")
        except UnusableTarget as error:
            return Outcome(None, f"the URL {error}"[:LONGEST_ERROR])
        except httpcore.ProtocolError:
            # Not the text of the error: it quotes the response, which the holder of the key may not be allowed to see.
            return Outcome(None, "the answer was not HTTP, or was incomplete")
        except (httpcore.NetworkError, httpcore.TimeoutException) as error:
            return Outcome(None, f"the connection failed: {str(error) or type(error).__name__}"[:LONGEST_ERROR])
        except Exception:
            # An unexpected error must not be retried without a wait.
            log.exception("a webhook could not be sent")
            return Outcome(None, "something went wrong inside the service")
        return _outcome(status_code)

    async def _send(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        target = parse(url, private=self._private)
        look_up = partial(addresses, target, private=self._private)
        *firsts, last = await asyncio.get_running_loop().run_in_executor(self._look_ups, look_up)
        for address in firsts:
            # Nothing was sent, because the address accepted no connection.
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._send_to(address, target, headers, body)
        return await self._send_to(last, target, headers, body)

    async def _send_to(self, address: str, target: Target, headers: Mapping[str, str], body: bytes) -> int:
        # Connect to the checked address, even if the name now resolves to another one. The certificate must match the
        # name.
        url = httpcore.URL(scheme=target.scheme, host=address.encode(), port=target.port, target=target.path)
        raw = [(b"host", target.authority), *((name.encode(), value.encode()) for name, value in headers.items())]
        more = {"sni_hostname": target.host.decode(), "timeout": {"connect": CONNECT_SECONDS}}
        # The head of the answer is all that is read: leaving the block closes the connection.
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls) as pool,
            pool.stream("POST", url, headers=raw, content=body, extensions=more) as response,
        ):
            return response.status


def _outcome(status_code: int) -> Outcome:
    outcome = Outcome(status_code, None)
    if outcome.delivered:
        return outcome
    more = "; redirects are not followed" if 300 <= status_code < 400 else ""  # noqa: PLR2004 - HTTP's own figures
    return Outcome(status_code, f"the answer was {status_code}{more}")
