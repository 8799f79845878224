"""Answers that come byte by byte, by the real clock: no timeout of a socket ever passes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from btcbt.candles.transport import Client, FetchError, RetryPolicy

HASTY = RetryPolicy(attempts=1, total_timeout_s=0.4)
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def dripping() -> Iterator[Callable[[bytes], str]]:
    """Serve an answer that begins with some bytes and goes on a byte every 50 ms; returns its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve(begin: bytes) -> str:
        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(begin)
                while not stopped.wait(0.05):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    stopped.set()
    listener.close()


@pytest.mark.parametrize(
    "begin",
    [b"HT", HEAD + b"X-Long: ", HEAD + b"\r\n", HEAD + b"Content-Length: 5000\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"],
    ids=["status", "header", "body of any length", "body of known length", "body until closed"],
)
def test_an_answer_that_drips_is_given_up_in_time(dripping: Callable[[bytes], str], begin: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"file: response not complete after 0.4 s"):
        Client(dripping(begin), HASTY).fetch("file", 10_000)
    assert time.monotonic() - started < 5
