"""One POST to one webhook: to an address that was checked, without redirects, within a time."""

import asyncio
import logging
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import httpcore
import httpx

from app.webhooks.target import UnusableTarget, addresses, parse

log = logging.getLogger(__name__)

LIMIT_SECONDS = 10.0
"""From the look-up of the name to the head of the answer."""
CONNECT_SECONDS = 4.0
"""For one of several addresses, so that there is time for the next."""
LONGEST_ERROR = 300


@dataclass(frozen=True)
class Outcome:
    """What came back: a status code, or why there is none."""

    status_code: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.status_code is not None and 200 <= self.status_code < 300  # noqa: PLR2004 - HTTP's own figures


class Sender:
    """Sends to global addresses only, unless `private_addresses` are allowed."""

    def __init__(self, *, private_addresses: bool, tls: ssl.SSLContext | None = None) -> None:
        self._private = private_addresses
        self._tls = tls or httpx.create_ssl_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Send once. Never raises: whatever goes wrong is part of the outcome."""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                status_code = await self._send(url, headers, body)
        except TimeoutError:
            return Outcome(None, f"no answer within {LIMIT_SECONDS:.0f} s")
        except UnusableTarget as error:
            return Outcome(None, f"the URL {error}")
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            return Outcome(None, f"the connection failed: {error}"[:LONGEST_ERROR])
        except Exception:
            # One address that nothing was prepared for must not be tried again without a wait.
            log.exception("a webhook could not be sent")
            return Outcome(None, "something went wrong inside the service")
        return _outcome(status_code)

    async def _send(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        target = parse(url, private=self._private)
        checked = await asyncio.to_thread(addresses, target, private=self._private)
        request = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        raw = [(b"host", target.authority), *((name.encode(), value.encode()) for name, value in headers.items())]
        # The head of the answer is all that is read: leaving the block closes the connection.
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=_Pinned(checked)) as pool,
            pool.stream("POST", request, headers=raw, content=body) as response,
        ):
            return response.status


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that were checked, whatever the host's name leads to by now."""

    def __init__(self, checked: list[str]) -> None:
        self._checked = checked
        self._network: httpcore.AsyncNetworkBackend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Try each address in turn. Raises the last one's error."""
        *firsts, last = self._checked
        for address in firsts:
            try:
                return await self._network.connect_tcp(address, port, CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                log.debug("%s of %s does not answer: %s", address, host, error)
        return await self._network.connect_tcp(last, port)


def _outcome(status_code: int) -> Outcome:
    outcome = Outcome(status_code, None)
    if outcome.delivered:
        return outcome
    more = "; redirects are not followed" if 300 <= status_code < 400 else ""  # noqa: PLR2004 - HTTP's own figures
    return Outcome(status_code, f"the answer was {status_code}{more}")
