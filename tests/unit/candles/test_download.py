"""Downloads from a stand-in for the archive: layout, faults, restarts, appending. Nothing is really waited for."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import date

import numpy as np
import pytest

from btcbt.candles import find_gaps, read_candles, write_candles
from btcbt.candles.archive import plan_files
from btcbt.candles.download import ARCHIVES_NOTE, FileState, download_candles
from btcbt.candles.parquet import read_notes
from btcbt.candles.transport import Client, RetryPolicy
from btcbt.errors import CandleError
from tests.unit.candles.archive_server import (
    HOUR,
    cut,
    flipped,
    foreign_digest,
    hung_up,
    kline_csv,
    midnight_ms,
    month,
    page,
    short,
    silent,
    status,
    walk,
    zipped,
)

TODAY = date(2025, 3, 10)
SWITCH = date(2025, 1, 1)  # microseconds since
CALM = RetryPolicy()
HASTY = RetryPolicy(
    read_timeout_s=0.25
)  # for faults of silence alone: on a busy machine a good answer may take as long


@pytest.fixture
def truth(rng):
    """Hours from 2024-10-01 to 2025-03-10: open times and channels."""
    first = midnight_ms(date(2024, 10, 1))
    times = np.arange(first, midnight_ms(TODAY), HOUR)
    return times, walk(rng, len(times))


@pytest.fixture
def publish(archive_server, truth):
    """Publish files with the true candles, without those whose open time is named absent."""
    times, values = truth

    def put(files, absent=()):
        for file in files:
            first, end = file.span_ms
            inside = (times >= first) & (times < end)
            lines = kline_csv(values[inside], first, micro=file.first >= SWITCH).splitlines(keepends=True)
            kept = [line for line, at in zip(lines, times[inside], strict=True) if at not in absent]
            archive_server.publish(file, "".join(kept))

    return put


@pytest.fixture
def download(archive_server, clock, tmp_path):
    """Download into tmp_path/out.parquet with pauses that take no time."""

    def call(start="2024-12", end="2025-01", **options):
        retry = options.pop("retry", CALM)
        client = Client(archive_server.url, retry, sleep=clock.sleep, clock=clock)
        output = options.pop("output", tmp_path / "out.parquet")
        return download_candles("BTCUSDT", "1h", start, end, output=output, client=client, today=TODAY, **options)

    return call


TWO = [month(2024, 12), month(2025, 1)]


def check_against(truth, path, start, end):
    times, values = truth
    inside = (times >= midnight_ms(start)) & (times < midnight_ms(end))
    candles = read_candles(path)
    np.testing.assert_array_equal(candles.open_time, times[inside])
    np.testing.assert_array_equal(candles.values, values[inside])


def test_the_switch_to_microseconds_leaves_no_seam(download, publish, truth, archive_server):
    publish(TWO)
    done = download()
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))
    assert [result.state for result in done.results] == [FileState.FETCHED] * 2
    assert done.inspection.issues == ()
    assert (done.stored.added, done.stored.equal, done.stored.differing) == (1488, 0, 0)
    assert archive_server.asked() == [file.name for file in TWO]
    assert archive_server.asked(".CHECKSUM") == [f"{file.name}.CHECKSUM" for file in TWO]


def test_zips_are_kept_under_the_archives_path_beside_their_checksums(download, publish, tmp_path, archive_server):
    publish(TWO)
    download()
    kept = sorted(path.relative_to(tmp_path / "archive").as_posix() for path in tmp_path.rglob("*.zip*"))
    assert kept == sorted(archive_server.files)
    for name in kept:
        assert (tmp_path / "archive" / name).read_bytes() == archive_server.files[name]


def test_a_second_run_fetches_nothing_and_leaves_the_file_as_it_is(download, publish, archive_server):
    publish(TWO)
    first = download()
    content = first.output.read_bytes()
    archive_server.requests.clear()
    again = download()
    assert archive_server.requests == []
    assert again.stored is None
    assert again.count(FileState.STORED) == 2
    assert first.output.read_bytes() == content


def test_the_kept_zips_make_the_same_file_again(download, publish, archive_server):
    publish(TWO)
    first = download()
    content = first.output.read_bytes()
    first.output.unlink()
    archive_server.requests.clear()
    assert download().count(FileState.KEPT) == 2
    assert archive_server.requests == []
    assert first.output.read_bytes() == content


def test_appending_in_parts_makes_the_same_file_as_one_download(download, publish, tmp_path):
    publish([month(2024, 11), *TWO])
    whole = download("2024-11", "2025-01", output=tmp_path / "whole.parquet").output
    for start, end in (("2025-01", "2025-01"), ("2024-11", "2024-12"), ("2024-11", "2025-01")):
        done = download(start, end, output=tmp_path / "parts.parquet")
    assert done.output.read_bytes() == whole.read_bytes()


def test_the_history_names_the_zips_that_are_in_it(download, publish, archive_server):
    publish(TWO)
    note = json.loads(read_notes(download().output)[ARCHIVES_NOTE])
    assert note == {file.name: hashlib.sha256(archive_server.files[file.path]).hexdigest() for file in TWO}


def test_days_overlapping_a_month_add_nothing(download, publish, truth):
    days = plan_files("BTCUSDT", "1h", date(2024, 12, 30), date(2025, 1, 1), TODAY)
    publish([*TWO, *days])
    download("2024-12-30", "2024-12-31")
    done = download("2024-12", "2025-01")
    assert (done.stored.added, done.stored.equal, done.stored.differing) == (1488 - 48, 48, 0)
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))


def test_a_month_that_is_not_out_yet_is_fetched_by_day(download, publish, truth):
    february = plan_files("BTCUSDT", "1h", date(2025, 2, 1), date(2025, 2, 28), TODAY)
    days = plan_files("BTCUSDT", "1h", date(2025, 2, 28), date(2025, 3, 10), TODAY)
    publish([*TWO, *february, *days])
    done = download("2024-12", None)
    check_against(truth, done.output, date(2024, 12, 1), TODAY)
    assert done.named(FileState.ABSENT) == ["BTCUSDT-1h-2025-02.zip"]


def test_months_before_the_listing_are_not_asked_by_day(download, publish, archive_server):
    publish(TWO)
    done = download("2017-08", "2025-01")
    assert done.count(FileState.ABSENT) == len(archive_server.asked()) - 2 == 88
    assert done.stored.added == 1488


def test_a_month_that_is_absent_between_others_is_asked_by_day(download, publish, truth, archive_server):
    days = plan_files("BTCUSDT", "1h", date(2024, 11, 1), date(2024, 11, 30), TODAY)
    publish([month(2024, 10), month(2024, 12), *days])
    done = download("2024-10", "2024-12")
    assert done.named(FileState.ABSENT) == ["BTCUSDT-1h-2024-11.zip", "BTCUSDT-1h-2024-11-30.zip"]
    candles = read_candles(done.output)
    assert find_gaps(candles).tolist() == [[midnight_ms(date(2024, 11, 30)), 24]]
    assert len(candles) == (31 + 30 + 31 - 1) * 24
    np.testing.assert_array_equal(candles.values, truth[1][np.isin(truth[0], candles.open_time)])


FAULTS = {
    "503": [status(503)],
    "503 with Retry-After": [status(503, Retry_After="3")],
    "429 with Retry-After": [status(429, Retry_After="20")] * 2,
    "429": [status(429)] * 3,
    "hung up": [hung_up] * 2,
    "cut off": [cut],
    "cut off and called whole": [short],
    "a flipped bit": [flipped],
    "a web page": [page],
    "everything": [status(500), cut, flipped, hung_up, status(429, Retry_After="1")],
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("ending", ["", ".CHECKSUM"])
def test_a_fault_that_passes_is_survived(download, publish, truth, archive_server, name, ending):
    publish(TWO)
    archive_server.faults[TWO[0].name + ending] = list(FAULTS[name])
    done = download()
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))
    asked = archive_server.requests.count(f"/{TWO[0].path}{ending}")
    assert asked == len(FAULTS[name]) + 1
    assert archive_server.asked().count(TWO[1].name) == 1


@pytest.mark.parametrize("ending", ["", ".CHECKSUM"])
def test_silence_is_survived(download, publish, truth, archive_server, ending):
    publish(TWO)
    archive_server.faults[TWO[0].name + ending] = [silent(2.0)]
    done = download(retry=HASTY)
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))
    assert archive_server.requests.count(f"/{TWO[0].path}{ending}") >= 2


def test_a_checksum_of_something_else_is_fetched_again(download, publish, truth, archive_server):
    publish(TWO)
    archive_server.faults[f"{TWO[0].name}.CHECKSUM"] = [foreign_digest]
    check_against(truth, download().output, date(2024, 12, 1), date(2025, 2, 1))
    assert archive_server.asked().count(TWO[0].name) == 2


def test_retry_after_is_kept(download, publish, archive_server, clock):
    publish(TWO)
    archive_server.faults[TWO[0].name] = [status(429, Retry_After="20")]
    download(jobs=1)
    assert clock.naps == [20.0]


def failure(download, **options) -> str:
    with pytest.raises(CandleError) as caught:
        download(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(503), "503"),
        (status(403), "403"),
        (cut, "cut off"),
        (flipped, "SHA-256"),
        (hung_up, "connection failed"),
    ],
)
def test_a_fault_that_stays_is_named_and_the_next_run_goes_on(
    download, publish, truth, archive_server, tmp_path, fault, reason
):
    publish(TWO)
    archive_server.faults[TWO[1].name] = [fault] * 3
    message = failure(download, retry=RetryPolicy(attempts=3))
    assert message.startswith("candles: 1 of 2 files could not be fetched, the first BTCUSDT-1h-2025-01.zip: ")
    assert reason in message
    assert not (tmp_path / "out.parquet").exists()
    archive_server.faults.clear()
    archive_server.requests.clear()
    done = download()
    assert archive_server.asked() == [TWO[1].name]
    assert [result.state for result in done.results] == [FileState.KEPT, FileState.FETCHED]
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))


def test_the_rest_can_be_stored_when_a_file_fails(download, publish, truth, archive_server):
    publish(TWO)
    archive_server.faults[TWO[0].name] = [status(403)]
    done = download(keep_going=True)
    assert done.named(FileState.FAILED) == [TWO[0].name]
    check_against(truth, done.output, date(2025, 1, 1), date(2025, 2, 1))
    assert download().named(FileState.FETCHED) == [TWO[0].name]
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))


def test_a_zip_without_a_checksum_is_not_trusted(download, publish, archive_server):
    publish(TWO)
    del archive_server.files[f"{TWO[0].path}.CHECKSUM"]
    assert "BTCUSDT-1h-2024-12.zip.CHECKSUM does not exist" in failure(download)


def test_an_archive_that_has_nothing_is_an_error(download, archive_server):
    assert "has none of" in failure(download)


@pytest.mark.parametrize("damage", ["zip", "truncated", "checksum", "no checksum", "empty"])
def test_a_kept_zip_that_was_damaged_is_fetched_again(download, publish, truth, archive_server, tmp_path, damage):
    publish(TWO)
    first = download()
    first.output.unlink()
    place = tmp_path / "archive" / TWO[0].path
    digest = place.with_name(f"{place.name}.CHECKSUM")
    content = place.read_bytes()
    match damage:
        case "zip":
            place.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "truncated":
            place.write_bytes(content[:100])
        case "checksum":
            digest.write_text("0" * 64 + f"  {place.name}\n")
        case "no checksum":
            digest.unlink()
        case "empty":
            place.write_bytes(b"")
    archive_server.requests.clear()
    done = download()
    assert archive_server.asked() == [TWO[0].name]
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))


@pytest.mark.parametrize("name", ["../../../../escape.csv", "/escape.csv", "..\\escape.csv"])
def test_a_zip_that_would_escape_is_refused_and_writes_nothing(download, archive_server, tmp_path, name):
    archive_server.put(TWO[0], zipped(name, "1\n"))
    assert "is not a plain file name; refused" in failure(download, end="2024-12")
    written = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert written == []


def test_a_month_under_the_name_of_another_is_refused(download, publish, archive_server):
    publish(TWO)
    table = kline_csv(np.ones((3, 6)), midnight_ms(date(2024, 11, 1)))
    archive_server.publish(TWO[0], table)
    assert "row 0 (2024-11-01T00:00:00Z) is outside the file's period" in failure(download)


def spoil(archive_server, file):
    """Publish a month again with a row off the grid, a reversed close time and a placeholder."""
    lines = kline_csv(np.full((48, 6), 5.0), file.span_ms[0]).splitlines()
    cells = [line.split(",") for line in lines]
    cells[3][0] = str(int(cells[3][0]) + 1234)
    cells[7][6] = str(int(cells[7][0]) - 1)
    cells[9][5] = "0.0"
    archive_server.publish(file, "\n".join(",".join(row) for row in cells) + "\n")


def test_problems_are_reported_and_nothing_is_written_until_a_repair_is_asked_for(download, archive_server):
    spoil(archive_server, TWO[0])
    done = download(end="2024-12")
    assert done.stored is None
    assert not done.output.exists()
    assert [(issue.kind, issue.count) for issue in done.inspection.problems] == [
        ("open times off the 1h grid", 1),
        ("close times before the open time", 1),
    ]
    archive_server.requests.clear()
    done = download(end="2024-12", repair=True)
    assert TWO[0].name not in archive_server.asked()
    assert done.dropped == {"open times off the 1h grid": 1, "close times before the open time": 1}
    assert len(read_candles(done.output)) == 46


def test_a_repaired_history_stays_repaired_when_more_is_appended(download, publish, archive_server):
    publish(TWO)
    spoil(archive_server, TWO[0])
    download(end="2024-12", drop_placeholders=True)
    done = download()
    assert done.stored.added == 744
    assert len(read_candles(done.output)) == 744 + 45


def test_a_repair_asks_the_daily_files_for_what_a_month_lacks(download, publish, truth):
    fifth, sixth = (date(2024, 12, day) for day in (5, 6))
    absent = {midnight_ms(fifth) + 3 * HOUR, midnight_ms(sixth)}
    publish(TWO, absent)
    publish(plan_files("BTCUSDT", "1h", fifth, sixth, TODAY))
    assert len(read_candles(download().output)) == 1486
    (download().output).unlink()
    done = download(repair=True)
    assert done.filled == 1
    assert done.named(FileState.ABSENT) == ["BTCUSDT-1h-2024-12-06.zip"]
    candles = read_candles(done.output)
    assert find_gaps(candles).tolist() == [[midnight_ms(sixth), 1]]
    np.testing.assert_array_equal(candles.values, truth[1][np.isin(truth[0], candles.open_time)])


def test_a_file_that_was_published_anew_is_taken_on_refresh_alone(download, publish, truth, archive_server):
    publish(TWO)
    download()
    times, values = truth
    values[times == midnight_ms(date(2024, 12, 24))] = 7.0
    publish(TWO)
    assert download().stored is None
    archive_server.requests.clear()
    done = download(refresh=True)
    assert archive_server.asked() == [TWO[0].name]
    assert (done.stored.added, done.stored.equal, done.stored.differing) == (0, 743, 1)
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))
    assert download(refresh=True).stored is None


def test_a_history_that_is_broken_is_refused_before_anything_is_fetched(download, publish, archive_server, tmp_path):
    publish(TWO)
    (tmp_path / "out.parquet").write_bytes(b"PAR1 nonsense")
    assert "not a readable Parquet file" in failure(download)
    assert archive_server.requests == []
    assert (tmp_path / "out.parquet").read_bytes() == b"PAR1 nonsense"


def test_a_foreign_history_is_appended_to(download, publish, truth, tmp_path, make_history):
    publish(TWO)
    write_candles(make_history(48), tmp_path / "out.parquet")
    done = download()
    assert done.stored.added == 1488
    assert len(read_candles(done.output)) == 1488 + 48


def test_a_note_that_is_damaged_counts_as_none(download, publish, tmp_path):
    from btcbt.candles.importers import read_rows
    from btcbt.candles.parquet import write_rows

    publish(TWO)
    done = download()
    for note in ("[1, 2]", "{", "{}", '{"BTCUSDT-1h-2024-12.zip": 7}', "[" * 100_000):
        write_rows(read_rows(done.output), done.output, "1h", notes={ARCHIVES_NOTE: note})
        again = download()
        assert again.stored.added == 0
        assert again.stored.equal == 1488


@pytest.mark.parametrize(
    "options",
    [
        {"jobs": 0},
        {"jobs": 99},
        {"start": "2016-01"},
        {"end": "x"},
        {"output": "history.csv"},
        {"output": "/proc/x/y.parquet"},
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_fetched(download, archive_server, options):
    failure(download, **options)
    assert archive_server.requests == []


def test_a_folder_that_cannot_be_written_is_named(download, publish, tmp_path):
    publish(TWO)
    (tmp_path / "archive").write_text("a file where the folder would be")
    assert "choose another --archive" in failure(download)


def test_requests_run_side_by_side(download, publish, archive_server):
    """Both zips are held back until both were asked for, which takes two requests at a time."""
    publish(TWO)
    together = threading.Barrier(2, timeout=60)

    def held(answers, content):
        together.wait()
        answers.reply(200, content)

    for file in TWO:
        archive_server.faults[file.name] = [held]
    assert download(jobs=2).stored.added == 1488
    assert not together.broken


def test_an_interrupt_stops_the_threads_and_the_next_run_goes_on(download, publish, truth, archive_server, tmp_path):
    publish(TWO)

    def interrupt(done, todo, name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(jobs=1, progress=interrupt)
    kept = {path.name for path in tmp_path.rglob("*.zip")}
    assert kept
    archive_server.requests.clear()
    done = download()
    assert not kept & set(archive_server.asked())
    check_against(truth, done.output, date(2024, 12, 1), date(2025, 2, 1))


def test_progress_counts_every_file(download, publish):
    publish(TWO)
    told = []
    download(progress=lambda *news: told.append(news))
    assert [(done, todo) for done, todo, _ in told] == [(1, 2), (2, 2)]
    assert {name for *_, name in told} == {file.name for file in TWO}


def test_a_killed_process_is_gone_on_from(publish, truth, archive_server, tmp_path):
    """SIGKILL while the last of four files is held back; the second run asks for that file alone."""
    files = [month(2024, 10), month(2024, 11), *TWO]
    publish(files)
    held, release = threading.Event(), threading.Event()

    def hold(answers, content):
        held.set()
        release.wait(120)
        answers.close_connection = True

    archive_server.faults[files[-1].name] = [hold]
    output = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "btcbt", "data", "download", "--symbol", "BTCUSDT", "--start", "2024-10"]
    command += ["--end", "2025-01", "--base-url", archive_server.url, "--output", str(output), "--jobs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert held.wait(120)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
        release.set()
    assert not output.exists()
    archive_server.requests.clear()
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    assert archive_server.asked() == [files[-1].name]
    check_against(truth, output, date(2024, 10, 1), date(2025, 2, 1))
    leftovers = [path.name for path in tmp_path.rglob(".*")]
    assert leftovers == []


class TestRealMonths:
    """The five real months, in the layout that the archive gives them."""

    @pytest.fixture
    def months(self, shared_data, archive_server):
        """Publish the raw tables; gives the file of each month."""
        files = {}
        for table in sorted((shared_data / "raw").glob("BTCUSDT-1h-*.csv")):
            year, number = map(int, table.stem.split("-")[2:])
            files[table.stem[-7:]] = month(year, number)
            archive_server.publish(files[table.stem[-7:]], table.read_bytes())
        assert len(files) == 5
        return files

    def test_the_switch_of_units_falls_on_the_grid(self, months, download, shared_data):
        done = download()
        assert done.inspection.problems == ()
        candles = read_candles(done.output)
        first, end = midnight_ms(date(2024, 12, 1)), midnight_ms(date(2025, 2, 1))
        np.testing.assert_array_equal(candles.open_time, np.arange(first, end, HOUR))
        known = read_candles(shared_data / "BTCUSDT_1h.parquet")
        inside = np.isin(known.open_time, candles.open_time)
        np.testing.assert_array_equal(candles.values, known.values[inside])

    @pytest.mark.parametrize(
        ("name", "problems", "kept", "gaps"),
        [
            ("2018-02", {"open times off the 1h grid": 43}, 597, 1),
            ("2020-12", {"close times before the open time": 1}, 739, 2),
            ("2023-03", {}, 743, 1),
        ],
    )
    def test_the_months_of_outages_are_reported_and_repaired(self, months, download, name, problems, kept, gaps):
        done = download(name, name)
        assert {issue.kind: issue.count for issue in done.inspection.problems} == problems
        assert done.output.exists() == (not problems)
        done = download(name, name, repair=True)
        candles = read_candles(done.output)
        assert (len(candles), len(find_gaps(candles))) == (kept, gaps)

    def test_every_fault_at_once_changes_nothing(self, months, download, archive_server, tmp_path):
        calm = [download(name, name, repair=True, output=tmp_path / "calm.parquet") for name in months][-1]
        (tmp_path / "archive").rename(tmp_path / "kept")
        for file in months.values():
            archive_server.faults[file.name] = [status(503), cut, flipped, status(429, Retry_After="5"), short]
            archive_server.faults[f"{file.name}.CHECKSUM"] = [page, hung_up, foreign_digest]
        retry = RetryPolicy(attempts=10)
        stormy = [
            download(name, name, repair=True, output=tmp_path / "stormy.parquet", retry=retry) for name in months
        ][-1]
        assert not any(archive_server.faults.values())
        assert stormy.output.read_bytes() == calm.output.read_bytes()


def test_a_bad_archive_with_a_right_checksum_blocks_no_later_download(download, publish, archive_server, tmp_path):
    archive_server.publish(TWO[0], "not,a,table\n")
    with pytest.raises(CandleError, match="the file was removed, so the next download fetches it again"):
        download(end="2024-12")
    assert list((tmp_path / "archive").rglob("*.zip*")) == []
    publish(TWO[:1])
    assert download(end="2024-12").stored.added == 744
