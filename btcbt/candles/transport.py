"""Fetch small files over HTTP, with retries and limits on size and time.

Responses are bounded in size and in time. Transient errors are retried after a growing pause; a pause requested by
the server (``Retry-After``) applies to every thread, and is the only reason to wait longer than `max_pause_s`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from btcbt.errors import CandleError

if TYPE_CHECKING:
    import requests

_log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_NOT_FOUND = 404
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries and time limits for one file.

    Attributes
    ----------
    attempts : int
        Requests for one file before it fails.
    first_pause_s, max_pause_s : float
        The pause after the first failure, seconds; it doubles up to the longest.
    max_retry_after_s : float
        The longest pause that a server may request; a longer one fails the file.
    read_timeout_s : float
        Seconds without a byte after which a response fails.
    total_timeout_s : float
        Seconds after which an incomplete response fails.
    """

    attempts: int = 6
    first_pause_s: float = 1.0
    max_pause_s: float = 60.0
    max_retry_after_s: float = 300.0
    read_timeout_s: float = 30.0
    total_timeout_s: float = 300.0

    def pause_s(self, attempt: int, name: str) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1).

        Part of it depends on the file's name, so that parallel requests that failed together are not retried
        together.
        """
        spread = 0.75 + 0.5 * zlib.crc32(f"{name} {attempt}".encode()) / 2**32
        return min(self.first_pause_s * 2.0 ** (attempt - 1) * spread, self.max_pause_s)


class FetchError(Exception):
    """A request failed; `transient` if a retry may succeed, after the `retry_after_s` that the server requests."""

    def __init__(self, reason: str, *, transient: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.transient = transient
        self.retry_after_s = retry_after_s


class Client:
    """Fetches files below one base URL; threads may share it.

    Parameters
    ----------
    base_url : str
        ``http`` or ``https``.
    retry : RetryPolicy
        Attempts, pauses and timeouts.
    sleep, clock : callable
        Replacements for waiting and for `time.monotonic`, for tests.

    Raises
    ------
    CandleError
        If `base_url` is invalid.
    """

    def __init__(
        self,
        base_url: str,
        retry: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_url = _check_url(base_url)
        self.retry = retry or RetryPolicy()
        self._stopped = threading.Event()
        # Waiting on the event lets stop() end every pause.
        self._sleep = sleep or self._stopped.wait
        self._clock = clock
        self._lock = threading.Lock()
        self._blocked_until = clock()
        self._threads = threading.local()

    def stop(self) -> None:
        """Make every thread fail before its next request."""
        self._stopped.set()

    def fetch(self, path: str, limit: int, check: Callable[[bytes], None] | None = None) -> bytes | None:
        """Fetch the file at `path` below the base URL; None if it does not exist there (404).

        Parameters
        ----------
        path : str
            Relative path, with ``/``.
        limit : int
            Largest allowed size, bytes.
        check : callable, optional
            Raises `FetchError` for invalid content, which is fetched again if the error is transient.

        Raises
        ------
        FetchError
            After the last attempt, or at once if the error is not transient.
        """
        for attempt in range(1, self.retry.attempts + 1):
            self._wait_until_allowed()
            try:
                content = self._request(path, limit)
                if content is not None and check is not None:
                    check(content)
                return content
            except FetchError as error:
                name = path.rsplit("/", 1)[-1]
                if not error.transient or attempt == self.retry.attempts:
                    tries = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise FetchError(f"{name}: {error}{tries}") from None
                pause = self._pause(error, attempt, name)
                _log.info("%s: %s; attempt %d in %.1f s", name, error, attempt + 1, pause)
                if not error.retry_after_s:
                    self._sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pause(self, error: FetchError, attempt: int, name: str) -> float:
        """Seconds until the next attempt; a pause requested by the server applies to every thread."""
        if not error.retry_after_s:
            return self.retry.pause_s(attempt, name)
        if error.retry_after_s > self.retry.max_retry_after_s:
            raise FetchError(f"{name}: {error} and asks to wait {error.retry_after_s:,.0f} s; try again later")
        with self._lock:
            self._blocked_until = max(self._blocked_until, self._clock() + error.retry_after_s)
        return error.retry_after_s

    def _wait_until_allowed(self) -> None:
        with self._lock:
            pause = self._blocked_until - self._clock()
        if pause > 0:
            self._sleep(pause)
        if self._stopped.is_set():
            raise FetchError("stopped")

    def _request(self, path: str, limit: int) -> bytes | None:
        with _Deadline(self.retry.total_timeout_s) as deadline:
            self._threads.deadline = deadline
            try:
                content = self._exchange(path, limit)
            except FetchError:
                if not deadline.passed:
                    raise
            if deadline.passed:  # a body of undeclared length then seems to have ended
                late = f"response not complete after {self.retry.total_timeout_s:g} s"
                raise FetchError(late, transient=True) from None
            return content

    def _exchange(self, path: str, limit: int) -> bytes | None:
        import requests

        timeout = self.retry.read_timeout_s
        try:
            with self._session().get(
                f"{self.base_url}/{path}", stream=True, timeout=(timeout, timeout), allow_redirects=False
            ) as response:
                if response.status_code == _NOT_FOUND:
                    return None
                if response.status_code != requests.codes.ok:
                    raise _refused(response)
                return self._body(response, limit)
        except requests.exceptions.Timeout:
            raise FetchError(f"no response within {timeout:g} s", transient=True) from None
        except requests.exceptions.ChunkedEncodingError:
            raise FetchError("the response was cut off", transient=True) from None
        except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
            raise FetchError(_brief(error)) from None
        except (requests.exceptions.ConnectionError, requests.exceptions.ContentDecodingError) as error:
            raise FetchError(f"connection failed ({_brief(error)})", transient=True) from None
        except requests.exceptions.RequestException as error:
            raise FetchError(_brief(error)) from None

    def _body(self, response: requests.Response, limit: int) -> bytes:
        """The body, up to `limit` bytes and `total_timeout_s` seconds."""
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:20]) > limit:
            raise FetchError(f"response declares {int(length[:20]):,} bytes, expected at most {limit:,}")
        content = bytearray()
        started = self._clock()
        for chunk in response.iter_content(_CHUNK):
            content += chunk
            if len(content) > limit:
                raise FetchError(f"response exceeds {limit:,} bytes")
            if self._clock() - started > self.retry.total_timeout_s:
                raise FetchError(f"response not complete after {self.retry.total_timeout_s:g} s", transient=True)
            if self._stopped.is_set():
                raise FetchError("stopped")
        return bytes(content)

    def _watch(self, sock: socket.socket) -> None:
        self._threads.deadline.watch(sock)

    def _session(self) -> requests.Session:
        """The thread's own session: requests does not guarantee that sessions can be shared."""
        import requests

        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = requests.Session()
            adapter = requests.adapters.HTTPAdapter()
            pools = adapter.poolmanager.pool_classes_by_scheme.items()
            adapter.poolmanager.pool_classes_by_scheme = {name: _watched(pool, self._watch) for name, pool in pools}
            for prefix in ("http://", "https://"):
                session.mount(prefix, adapter)
            # Without compression the limit on the body also limits the memory.
            session.headers.update({"User-Agent": "btcbt", "Accept-Encoding": "identity"})
            self._threads.session = session
        return session


class _Deadline:
    """Cuts a connection when its request takes too long: the timeout of a socket starts again with every byte."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._close()

    def watch(self, sock: socket.socket) -> None:
        """Cut this connection. A handle of its own works at every stage: encrypted or not, in use or handed over."""
        with self._lock:
            self._close()
            self._handle = socket.socket(fileno=os.dup(sock.fileno()))
            if self.passed:
                self._shut()

    def _cut(self) -> None:
        with self._lock:
            self.passed = True
            self._shut()

    def _shut(self) -> None:
        if self._handle is not None:
            with suppress(OSError):  # the server was faster
                self._handle.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def _watched(pool: Any, watch: Callable[[socket.socket], None]) -> Any:
    """A class of urllib3's connection pools that shows the socket of every request to `watch`."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            watch(self.sock)

        def request(self, *args: Any, **options: Any) -> Any:
            if self.sock is not None:  # kept from an earlier request
                watch(self.sock)
            return super().request(*args, **options)

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def _refused(response: requests.Response) -> FetchError:
    status = f"the server returned {response.status_code} {response.reason or ''}".strip()
    if response.is_redirect:
        return FetchError(f"{status}: moved to {response.headers['Location'][:120]!r}; give that as the base URL")
    transient = response.status_code in _TRANSIENT
    return FetchError(status, transient=transient, retry_after_s=_retry_after(response) if transient else 0.0)


def _retry_after(response: requests.Response) -> float:
    """Seconds of ``Retry-After``, which is a number or a date; 0 if absent or invalid."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
        # The date refers to the server's clock, if it sends one.
        sent = response.headers.get("Date", "")
        now = parsedate_to_datetime(sent) if sent else datetime.now(UTC)
        return max((until - now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        valid = False
    if "@" in url:  # not repeated: messages end up in logs
        raise CandleError(
            "candles: base URL contains a user or password, expected none; use one such as https://data.binance.vision"
        )
    if not valid:
        raise CandleError(f"candles: invalid base URL {url[:80]!r}; use one such as https://data.binance.vision")
    return url.rstrip("/")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
