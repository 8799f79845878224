"""Fetching from a server that is busy, slow, cut off or wrong. Pauses are counted, not waited for."""

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from btcbt.candles.transport import Client, FetchError, RetryPolicy
from btcbt.errors import CandleError
from tests.unit.candles.archive_server import cut, flipped, hung_up, silent, status

CONTENT = bytes(range(256)) * 40
USUAL = RetryPolicy()


@pytest.fixture
def client(archive_server, clock):
    archive_server.files["folder/file.zip"] = CONTENT
    return Client(archive_server.url, USUAL, sleep=clock.sleep, clock=clock)


def fetch(client, **options):
    return client.fetch("folder/file.zip", len(CONTENT), **options)


def test_a_file_is_fetched_with_one_request(client, archive_server, clock):
    assert fetch(client) == CONTENT
    assert archive_server.requests == ["/folder/file.zip"]
    assert clock.naps == []


def test_what_is_not_there_is_none_at_once(client, archive_server):
    assert client.fetch("folder/none.zip", 10) is None
    assert len(archive_server.requests) == 1


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_after_a_growing_pause(client, archive_server, clock, code):
    archive_server.faults["file.zip"] = [status(code)] * 4
    assert fetch(client) == CONTENT
    assert clock.naps == [USUAL.pause_s(attempt, "file.zip") for attempt in (1, 2, 3, 4)]
    assert all(0.75 * 2**i <= nap <= 1.25 * 2**i for i, nap in enumerate(clock.naps))


def test_pauses_grow_up_to_the_longest_and_differ_between_files():
    retry = RetryPolicy(max_pause_s=20)
    pauses = [retry.pause_s(attempt, "a") for attempt in range(1, 10)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 20
    assert retry.pause_s(1, "a") != retry.pause_s(1, "b")


@pytest.mark.parametrize("fault", [hung_up, cut])
def test_an_answer_that_is_cut_off_is_asked_for_again(client, archive_server, clock, fault):
    archive_server.faults["file.zip"] = [fault, fault]
    assert fetch(client) == CONTENT
    assert len(archive_server.requests) == 3
    assert len(clock.naps) == 2


def test_silence_is_not_waited_for(archive_server, client, clock):
    archive_server.faults["file.zip"] = [silent(2.0)]
    hasty = Client(archive_server.url, RetryPolicy(read_timeout_s=0.25), sleep=clock.sleep, clock=clock)
    assert fetch(hasty) == CONTENT
    assert len(archive_server.requests) >= 2


def test_silence_to_the_end_is_an_error(archive_server, client, clock):
    archive_server.faults["file.zip"] = [silent(2.0)] * 2
    hasty = Client(archive_server.url, RetryPolicy(attempts=2, read_timeout_s=0.1), sleep=clock.sleep, clock=clock)
    with pytest.raises(FetchError, match=r"file.zip: no response within 0.1 s \(2 attempts\)"):
        fetch(hasty)


def test_an_answer_that_trickles_is_given_up_after_its_time(client, archive_server, clock):
    def trickle(answers, content):
        clock.now += USUAL.total_timeout_s + 1
        answers.reply(200, content)

    archive_server.faults["file.zip"] = [trickle]
    started = clock.now
    assert fetch(client) == CONTENT
    assert clock.now > started + USUAL.total_timeout_s


def test_a_wrong_content_is_asked_for_again(client, archive_server):
    def check(content):
        if content != CONTENT:
            raise FetchError("wrong", transient=True)

    archive_server.faults["file.zip"] = [flipped]
    assert fetch(client, check=check) == CONTENT
    assert len(archive_server.requests) == 2


def test_the_last_attempt_says_what_failed(client, archive_server):
    archive_server.faults["file.zip"] = [status(503)] * 6
    with pytest.raises(FetchError, match=r"^file.zip: the server returned 503 Service Unavailable \(6 attempts\)$"):
        fetch(client)
    assert len(archive_server.requests) == 6


@pytest.mark.parametrize("code", [400, 401, 403, 410, 501])
def test_what_cannot_pass_is_not_asked_for_again(client, archive_server, code):
    archive_server.faults["file.zip"] = [status(code)]
    with pytest.raises(FetchError, match=f"file.zip: the server returned {code}"):
        fetch(client)
    assert len(archive_server.requests) == 1


@pytest.mark.parametrize("code", [429, 503])
def test_a_pause_that_the_server_asks_for_is_kept(client, archive_server, clock, code):
    archive_server.faults["file.zip"] = [status(code, Retry_After="17")]
    assert fetch(client) == CONTENT
    assert clock.naps == [17.0]


def test_a_pause_may_be_asked_for_by_date(client, archive_server, clock):
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    archive_server.faults["file.zip"] = [status(429, Retry_After=until)]
    assert fetch(client) == CONTENT
    assert clock.naps == [pytest.approx(100, abs=2)]


@pytest.mark.parametrize("asked", ["soon", "-5", "Wed, 99 Foo 2024 00:00:00 GMT", "1e3"])
def test_a_pause_that_cannot_be_read_is_the_usual_one(client, archive_server, clock, asked):
    archive_server.faults["file.zip"] = [status(429, Retry_After=asked)]
    assert fetch(client) == CONTENT
    assert clock.naps == [USUAL.pause_s(1, "file.zip")]


def test_a_pause_of_hours_is_an_error_that_says_so(client, archive_server, clock):
    archive_server.faults["file.zip"] = [status(429, Retry_After="7200")]
    with pytest.raises(FetchError, match="asks to wait 7,200 s"):
        fetch(client)
    assert clock.naps == []


def test_every_thread_keeps_the_pause_that_one_was_asked_for(client, archive_server, clock):
    archive_server.files["folder/other.zip"] = b"other"
    archive_server.faults["file.zip"] = [status(429, Retry_After="50")] * 2
    waiting = threading.Event()

    def sleep(seconds):
        waiting.set()
        clock.sleep(0)  # the other thread's pause does not let time pass for this one
        clock.naps[-1] = seconds

    client._sleep = sleep
    thread = threading.Thread(target=lambda: fetch(client))
    thread.start()
    assert waiting.wait(60)
    thread.join()
    clock.naps.clear()
    assert client.fetch("folder/other.zip", 10) == b"other"
    assert clock.naps == [50.0]


def test_a_declared_size_above_the_bound_is_refused_before_it_is_read(client, archive_server):
    def huge(answers, content):
        answers.reply(200, b"", length=10**15)
        answers.close_connection = True

    archive_server.faults["file.zip"] = [huge]
    with pytest.raises(FetchError, match=r"response declares 1,000,000,000,000,000 bytes, expected at most"):
        fetch(client)
    assert len(archive_server.requests) == 1


def test_a_body_without_an_end_is_read_up_to_the_bound(client, archive_server):
    def endless(answers, content):
        answers.send_response(200)
        answers.send_header("Connection", "close")
        answers.end_headers()
        for _ in range(100):
            answers.wfile.write(b"0" * 65536)
        answers.close_connection = True

    archive_server.faults["file.zip"] = [endless]
    with pytest.raises(FetchError, match="response exceeds"):
        fetch(client)


def test_a_redirect_is_not_followed(client, archive_server):
    archive_server.faults["file.zip"] = [status(302, Location="http://elsewhere.invalid/file.zip")]
    with pytest.raises(FetchError, match=r"moved to 'http://elsewhere.invalid/file.zip'; give that as the base URL"):
        fetch(client)


def test_no_server_is_an_error_after_the_attempts(clock):
    client = Client("http://127.0.0.1:9", RetryPolicy(attempts=3), sleep=clock.sleep, clock=clock)
    with pytest.raises(FetchError, match=r"connection failed .* \(3 attempts\)"):
        client.fetch("x", 10)


def test_a_stopped_client_asks_no_more(client, archive_server):
    client.stop()
    with pytest.raises(FetchError, match="stopped"):
        fetch(client)
    assert archive_server.requests == []


@pytest.mark.parametrize(
    "url",
    ["", "data.example", "ftp://data.example", "file:///etc", "http://", "http://a/?q=1", "http://[", "https://a#b"],
)
def test_a_base_url_that_is_none_is_refused(url):
    with pytest.raises(CandleError, match="base URL"):
        Client(url)


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@data.example", "https://hunter2@data.example", "ftp://me:hunter2@a"]
)
def test_a_base_url_with_credentials_is_refused_and_not_repeated(url):
    with pytest.raises(CandleError, match="base URL contains a user or password") as caught:
        Client(url)
    assert "hunter2" not in str(caught.value)
