"""Small files over HTTP from a server that may be busy, slow, cut off or wrong.

Every answer is bounded in size and in time. What may pass is tried again after a growing pause; a pause that the
server asks for (``Retry-After``) is kept by every thread, and is the only reason to wait longer than `longest_s`.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from btcbt.errors import CandleError

if TYPE_CHECKING:
    import requests

_log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_ABSENT = 404
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a file is waited for.

    Attributes
    ----------
    attempts : int
        Requests for one file before it is given up.
    first_s, longest_s : float
        The pause after the first failure, seconds; it doubles up to the longest.
    asked_s : float
        The longest pause that a server may ask for; a longer one gives the file up.
    silence_s : float
        Seconds without a byte after which an answer has failed.
    answer_s : float
        Seconds after which an answer that still trickles has failed.
    """

    attempts: int = 6
    first_s: float = 1.0
    longest_s: float = 60.0
    asked_s: float = 300.0
    silence_s: float = 30.0
    answer_s: float = 300.0

    def pause_s(self, attempt: int, name: str) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1).

        A part of it hangs on the file's name, so that parallel requests that failed together do not return
        together.
        """
        spread = 0.75 + 0.5 * zlib.crc32(f"{name} {attempt}".encode()) / 2**32
        return min(self.first_s * 2.0 ** (attempt - 1) * spread, self.longest_s)


class FetchError(Exception):
    """A request failed; `passing` says whether another may succeed, `after_s` when the server wants it."""

    def __init__(self, reason: str, *, passing: bool = False, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.passing = passing
        self.after_s = after_s


class Client:
    """Fetches files below one base URL; threads may share it.

    Parameters
    ----------
    base_url : str
        ``http`` or ``https``.
    patience : Patience
        Attempts, pauses and time limits.
    sleep, clock : callable
        Stand-ins for waiting and for `time.monotonic`, for tests.

    Raises
    ------
    CandleError
        If `base_url` is none.
    """

    def __init__(
        self,
        base_url: str,
        patience: Patience | None = None,
        *,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_url = _check_url(base_url)
        self.patience = patience or Patience()
        self._stopped = threading.Event()
        # Waiting on the event, not on the clock, lets stop() end every pause.
        self._sleep = sleep or self._stopped.wait
        self._clock = clock
        self._lock = threading.Lock()
        self._closed_until = clock()
        self._threads = threading.local()

    def stop(self) -> None:
        """Let every thread give up before its next request."""
        self._stopped.set()

    def fetch(self, path: str, limit: int, check: Callable[[bytes], None] | None = None) -> bytes | None:
        """The file at `path` below the base URL, or None where the server has none (404).

        Parameters
        ----------
        path : str
            Relative, with ``/``.
        limit : int
            Bytes that it may have.
        check : callable, optional
            Raises `FetchError` if the content is not right; a passing one makes it be fetched again.

        Raises
        ------
        FetchError
            After the last attempt, or at once if no other attempt can help.
        """
        for attempt in range(1, self.patience.attempts + 1):
            self._wait_for_server()
            try:
                content = self._request(path, limit)
                if content is not None and check is not None:
                    check(content)
                return content
            except FetchError as error:
                name = path.rsplit("/", 1)[-1]
                if not error.passing or attempt == self.patience.attempts:
                    tries = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise FetchError(f"{name}: {error}{tries}") from None
                pause = self._pause(error, attempt, name)
                _log.info("%s: %s; attempt %d in %.1f s", name, error, attempt + 1, pause)
                if not error.after_s:
                    self._sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pause(self, error: FetchError, attempt: int, name: str) -> float:
        """Seconds until the next attempt; what the server asks for is noted for every thread."""
        if not error.after_s:
            return self.patience.pause_s(attempt, name)
        if error.after_s > self.patience.asked_s:
            raise FetchError(f"{name}: {error} and asks to wait {error.after_s:,.0f} s; try again after that")
        with self._lock:
            self._closed_until = max(self._closed_until, self._clock() + error.after_s)
        return error.after_s

    def _wait_for_server(self) -> None:
        with self._lock:
            pause = self._closed_until - self._clock()
        if pause > 0:
            self._sleep(pause)
        if self._stopped.is_set():
            raise FetchError("stopped")

    def _request(self, path: str, limit: int) -> bytes | None:
        import requests

        silence = self.patience.silence_s
        try:
            with self._session().get(
                f"{self.base_url}/{path}", stream=True, timeout=(silence, silence), allow_redirects=False
            ) as answer:
                if answer.status_code == _ABSENT:
                    return None
                if answer.status_code != requests.codes.ok:
                    raise _refused(answer)
                return self._body(answer, limit)
        except requests.exceptions.Timeout:
            raise FetchError(f"no answer within {silence:g} s", passing=True) from None
        except requests.exceptions.ChunkedEncodingError:
            raise FetchError("the answer was cut off", passing=True) from None
        except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
            raise FetchError(_brief(error)) from None
        except (requests.exceptions.ConnectionError, requests.exceptions.ContentDecodingError) as error:
            raise FetchError(f"connection failed ({_brief(error)})", passing=True) from None
        except requests.exceptions.RequestException as error:
            raise FetchError(_brief(error)) from None

    def _body(self, answer: requests.Response, limit: int) -> bytes:
        """The body, read up to `limit` bytes and `answer_s` seconds."""
        length = answer.headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:20]) > limit:
            raise FetchError(f"declares {int(length[:20]):,} bytes, expected at most {limit:,}")
        content = bytearray()
        started = self._clock()
        for chunk in answer.iter_content(_CHUNK):
            content += chunk
            if len(content) > limit:
                raise FetchError(f"sends more than {limit:,} bytes")
            if self._clock() - started > self.patience.answer_s:
                raise FetchError(f"not complete after {self.patience.answer_s:g} s", passing=True)
            if self._stopped.is_set():
                raise FetchError("stopped")
        return bytes(content)

    def _session(self) -> requests.Session:
        """The thread's own session: requests does not promise that one may be shared."""
        import requests

        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = requests.Session()
            # Asking for no compression makes the bound on the body one on what is allocated.
            session.headers.update({"User-Agent": "btcbt", "Accept-Encoding": "identity"})
            self._threads.session = session
        return session


def _refused(answer: requests.Response) -> FetchError:
    status = f"the server answers {answer.status_code} {answer.reason or ''}".strip()
    if answer.is_redirect:
        return FetchError(f"{status}: moved to {answer.headers['Location'][:120]!r}; give that as the base URL")
    passing = answer.status_code in _PASSING
    return FetchError(status, passing=passing, after_s=_asked_pause(answer) if passing else 0.0)


def _asked_pause(answer: requests.Response) -> float:
    """Seconds of ``Retry-After``, which is a count or a date; 0 without one that can be read."""
    asked = answer.headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked[:9])
    try:
        until = parsedate_to_datetime(asked)
        # The server's own clock, where it tells it, is the one that it means.
        sent = answer.headers.get("Date", "")
        now = parsedate_to_datetime(sent) if sent else datetime.now(UTC)
        return max((until - now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if "@" in url:  # not repeated, for messages end in logs
        raise CandleError(
            "candles: a base URL without user or password is expected; use one such as https://data.binance.vision"
        )
    if not good:
        raise CandleError(f"candles: base URL {url[:80]!r} is none; use one such as https://data.binance.vision")
    return url.rstrip("/")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
