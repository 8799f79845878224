"""A stand-in for the Binance archive on this machine, which fails as servers and networks do."""

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Callable
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from btcbt.candles.archive import ArchiveFile
from btcbt.records import FloatArray

HOUR = 3_600_000


def walk(rng: np.random.Generator, n: int) -> FloatArray:
    """Consistent candles (n, 6) around 100, with an exact amount."""
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
    opened = close * np.exp(rng.normal(0, 0.005, n))
    high = np.maximum(opened, close) * (1 + rng.uniform(0, 0.01, n))
    low = np.minimum(opened, close) * (1 - rng.uniform(0, 0.01, n))
    volume = rng.uniform(0, 50, n)
    return np.stack([opened, high, low, close, volume, volume * close], axis=1)


def kline_csv(values: FloatArray, first_ms: int, *, step_ms: int = HOUR, micro: bool = False, title: str = "") -> str:
    """A table of the archive's 12 columns; times in ms, or in microseconds as since 2025."""
    unit = 1000 if micro else 1
    lines = [title] if title else []
    for row, (opened, high, low, close, volume, amount) in enumerate(values.tolist()):
        at = (first_ms + row * step_ms) * unit
        lines.append(
            f"{at},{opened!r},{high!r},{low!r},{close!r},{volume!r},{at + step_ms * unit - 1},{amount!r},9,1.0,2.0,0"
        )
    return "\n".join(lines) + "\n"


def midnight_ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86_400_000


def month(year: int, number: int, symbol: str = "BTCUSDT") -> ArchiveFile:
    """The archive's file of that month of hours."""
    return ArchiveFile(symbol, "1h", date(year, number, 1), date(year + number // 12, number % 12 + 1, 1))


def zipped(name: str, content: str | bytes) -> bytes:
    """A zip of one member, the same bytes every time."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return sink.getvalue()


Fault = Callable[["Answers", bytes], None]


class Answers(BaseHTTPRequestHandler):
    """Serves the archive's files, after the faults that are queued for them."""

    protocol_version = "HTTP/1.1"
    server: "ArchiveServer"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append(self.path)
            queue = self.server.faults.get(self.path.rsplit("/", 1)[-1], [])
            fault = queue.pop(0) if queue else None
        content = self.server.files.get(self.path.lstrip("/"))
        if fault:
            fault(self, content or b"")
        elif content is None:
            self.reply(404)
        else:
            self.reply(200, content)

    def reply(self, status: int, content: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class ArchiveServer(ThreadingHTTPServer):
    """The archive's layout on this machine, with faults on request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no news."""

    def publish(self, file: ArchiveFile, table: str | bytes) -> bytes:
        content = zipped(f"{file.stem}.csv", table)
        self.put(file, content)
        return content

    def put(self, file: ArchiveFile, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self.files[file.path] = content
        self.files[f"{file.path}.CHECKSUM"] = f"{digest}  {file.name}\n".encode()

    def asked(self, ending: str = ".zip") -> list[str]:
        """Names of the files that were asked for, sorted."""
        return sorted(path.rsplit("/", 1)[-1] for path in self.requests if path.endswith(ending))


def status(code: int, **headers: str) -> Fault:
    """Answer with `code` and nothing else; ``Retry_After`` names the header Retry-After."""
    return lambda answers, content: answers.reply(code, **headers)


def silent(seconds: float) -> Fault:
    """Say nothing for a while, then hang up."""

    def fault(answers: Answers, content: bytes) -> None:
        time.sleep(seconds)
        answers.close_connection = True

    return fault


def hung_up(answers: Answers, content: bytes) -> None:
    """Close the connection without an answer."""
    answers.close_connection = True


def cut(answers: Answers, content: bytes) -> None:
    """Promise everything, send the first half."""
    answers.reply(200, content[: len(content) // 2], length=len(content))
    answers.close_connection = True


def short(answers: Answers, content: bytes) -> None:
    """Send the first half as if it were all."""
    answers.reply(200, content[: len(content) // 2])


def flipped(answers: Answers, content: bytes) -> None:
    """Flip a bit."""
    half = len(content) // 2
    answers.reply(200, content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])


def foreign_digest(answers: Answers, content: bytes) -> None:
    """Give the SHA-256 of something else."""
    answers.reply(200, hashlib.sha256(b"else").hexdigest().encode() + content[64:])


def page(answers: Answers, content: bytes) -> None:
    """Answer with a web page, as captive portals do."""
    answers.reply(200, b"<html>please log in</html>")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
