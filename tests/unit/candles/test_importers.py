"""Import, append and check: histories are whole, valid and idempotent, or not written."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from btcbt.candles import importers, read_candles, write_candles
from btcbt.candles.importers import check_history, import_candles, import_history, read_rows
from btcbt.candles.parquet import ROWS_NOTE, read_notes, write_rows
from btcbt.errors import CandleError
from btcbt.records import AMOUNT, CHANNELS, VOLUME
from tests.unit.candles.archive_server import HOUR, kline_csv, walk, zipped

START = 1_546_300_800_000  # 2019-01-01T00:00Z
N = 30


@pytest.fixture
def values(rng):
    return walk(rng, N)


@pytest.fixture
def put(tmp_path, values):
    """Write rows [first, last) of the truth in some format."""

    def write(name, first=0, last=N, spoil=()):
        part = values[first:last].copy()
        part[list(spoil), VOLUME] = -1.0
        path = tmp_path / name
        times = [START + HOUR * i for i in range(first, last)]
        table = kline_csv(part, START + HOUR * first)
        match path.suffix:
            case ".csv":
                path.write_text(table)
            case ".zip":
                path.write_bytes(zipped(f"{path.stem}.csv", table))
            case ".json":
                path.write_text(json.dumps([[at, *row] for at, row in zip(times, part.tolist(), strict=True)]))
            case ".jsonl":
                names = ("timestamp", *CHANNELS)
                rows = [dict(zip(names, [at, *row], strict=True)) for at, row in zip(times, part.tolist(), strict=True)]
                path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write


def refused(call, *arguments, **options) -> str:
    with pytest.raises(CandleError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.zip", "a.json", "a.jsonl"])
def test_every_format_gives_the_same_candles(put, values, name):
    if name == "a.CSV":
        put("a.csv").rename(put("a.csv").with_name(name))
        path = put("a.json").with_name(name)
    else:
        path = put(name)
    candles = import_candles(path)
    np.testing.assert_array_equal(candles.values, values)
    np.testing.assert_array_equal(candles.open_time, START + HOUR * np.arange(N))


def test_a_written_history_is_imported_again(put, values, tmp_path):
    write_candles(import_candles(put("a.csv")), tmp_path / "a.parquet")
    np.testing.assert_array_equal(import_candles(tmp_path / "a.parquet").values, values)
    assert len(read_rows("bundled:BTCUSD_1h")) == len(read_candles("bundled:BTCUSD_1h"))


@pytest.mark.parametrize("name", ["../etc/passwd", "nowhere", "BTCUSD_1h/../../schema"])
def test_a_sample_that_would_leave_its_folder_is_refused(name):
    assert "no such sample" in refused(read_rows, f"bundled:{name}")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.pkl", ""])
def test_an_unknown_ending_is_refused(name):
    assert "unknown extension" in refused(read_rows, name)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "does not exist" in refused(read_rows, tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    assert "is not a file" in refused(read_rows, tmp_path / "b.csv")
    assert "candles a?[31m.csv: " in refused(read_rows, "a\x1b[31m.csv")
    refused(read_rows, "a\x00.csv")


def test_a_zip_above_its_bound_is_refused_before_it_is_opened(put, monkeypatch):
    monkeypatch.setattr(importers, "MAX_ZIP_BYTES", 10)
    assert "expected at most 10" in refused(read_rows, put("a.zip"))


def test_files_are_joined_into_one_history(put, values, tmp_path):
    output = tmp_path / "new" / "folder" / "out.parquet"
    stored = import_history([put("a.csv", 0, 10), put("b.json", 10, 20), put("c.zip", 20, 30)], output)
    assert (stored.written, stored.added, stored.inspection.source) == (True, N, "3 files")
    candles = read_candles(output)
    np.testing.assert_array_equal(candles.values, values)
    assert candles.sha256 == stored.sha256


def test_an_import_is_idempotent_and_appends(put, values, tmp_path):
    output = tmp_path / "out.parquet"
    import_history([put("a.csv", 10, 20)], output)
    content = output.read_bytes()
    stored = import_history([put("a.csv", 10, 20)], output)
    assert (stored.added, stored.equal, stored.differing) == (0, 10, 0)
    assert output.read_bytes() == content
    stored = import_history([put("b.json", 0, 15)], output)
    assert (stored.added, stored.equal, stored.differing) == (10, 5, 0)
    import_history([put("c.csv", 15, 30)], output)
    np.testing.assert_array_equal(read_candles(output).values, values)


def test_order_does_not_matter_to_the_bytes(put, tmp_path, rng):
    wholes = set()
    for _ in range(3):
        output = tmp_path / "out.parquet"
        output.unlink(missing_ok=True)
        for i in rng.permutation(6):
            import_history([put("a.csv", 5 * i, 5 * i + 5)], output)
        wholes.add(output.read_bytes())
    assert len(wholes) == 1


def test_a_candle_with_other_values_is_kept_unless_the_new_is_preferred(put, values, tmp_path):
    output = tmp_path / "out.parquet"
    import_history([put("a.csv", 0, 10)], output)
    old = values[4].copy()
    values[4, VOLUME] = 1.25
    stored = import_history([put("a.csv", 0, 12)], output)
    assert (stored.added, stored.equal, stored.differing) == (2, 9, 1)
    np.testing.assert_array_equal(read_candles(output).values[4], old)
    import_history([put("a.csv", 0, 12)], output, prefer_new=True)
    np.testing.assert_array_equal(read_candles(output).values, values[:12])


def test_problems_are_reported_and_nothing_is_written_until_a_repair_is_asked_for(put, tmp_path):
    output = tmp_path / "out.parquet"
    import_history([put("a.csv", 0, 10)], output)
    content = output.read_bytes()
    bad = put("b.csv", 10, 20, spoil=[3])
    stored = import_history([bad], output)
    assert not stored.written
    assert [(issue.kind, issue.count) for issue in stored.inspection.problems] == [("negative volumes or amounts", 1)]
    assert output.read_bytes() == content
    stored = import_history([bad], output, repair=True)
    assert (stored.written, stored.added, stored.dropped) == (True, 9, {"negative volumes or amounts": 1})
    assert START + 13 * HOUR not in read_candles(output).open_time


def test_missing_amounts_stay_missing_when_a_history_grows(put, values, tmp_path):
    values[:15, AMOUNT] = np.nan
    output = tmp_path / "out.parquet"
    import_history([put("a.csv", 0, 15)], output)
    assert "amount" not in pq.read_schema(output).names
    import_history([put("a.csv", 15, 30)], output)
    stored = pq.read_table(output).column("amount").to_numpy()
    np.testing.assert_array_equal(stored, values[:, AMOUNT])
    estimates = values[:15, VOLUME] * values[:15, :4].mean(axis=1)
    np.testing.assert_allclose(read_candles(output).values[:15, AMOUNT], estimates)


def test_longer_candles_are_refused_and_not_written(put, tmp_path, rng):
    path = tmp_path / "four.csv"
    path.write_text(kline_csv(walk(rng, 9), START, step_ms=4 * HOUR))
    assert "4h grid" in refused(import_history, [path], tmp_path / "out.parquet", "1h")
    assert "4h grid" in refused(check_history, path, "1h")
    assert not (tmp_path / "out.parquet").exists()
    assert check_history(path).before.interval_ms == 4 * HOUR
    assert import_history([path], tmp_path / "out.parquet").added == 9
    assert "4h grid" in refused(import_history, [put("a.csv")], tmp_path / "out.parquet")


@pytest.mark.parametrize("name", ["out.csv", "out", "..", "out.parquet.exe"])
def test_a_history_is_written_to_parquet_alone(put, tmp_path, name):
    assert "expected a name that ends in .parquet" in refused(import_history, [put("a.csv")], tmp_path / name)


def test_a_folder_in_the_way_is_named(put, tmp_path):
    (tmp_path / "out.parquet").mkdir()
    assert "is a folder" in refused(import_history, [put("a.csv")], tmp_path / "out.parquet")
    (tmp_path / "file").write_text("")
    assert "cannot be created" in refused(import_history, [put("a.csv")], tmp_path / "file" / "x" / "out.parquet")


def test_a_check_of_a_clean_file_changes_nothing(put, tmp_path):
    write_candles(import_candles(put("a.csv")), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for repair in (False, True):
        checked = check_history(tmp_path / "a.parquet", repair=repair)
        assert (checked.before.issues, checked.written) == ((), None)
    assert (tmp_path / "a.parquet").read_bytes() == content


def spoilt_history(put, tmp_path) -> Path:
    """A Parquet file that breaks the contract, as a foreign program would write it."""
    good = tmp_path / "good.parquet"
    import_history([put("a.csv")], good)
    table = pq.read_table(good).replace_schema_metadata(None)
    volumes = table.column("volume").to_numpy().copy()
    volumes[4] = -1.0
    pq.write_table(table.set_column(5, "volume", [volumes]), tmp_path / "bad.parquet")
    return tmp_path / "bad.parquet"


def test_a_repair_is_made_in_place(put, tmp_path, values):
    bad = spoilt_history(put, tmp_path)
    content = bad.read_bytes()
    checked = check_history(bad)
    assert len(checked.before.problems) == 1
    assert bad.read_bytes() == content
    checked = check_history(bad, repair=True)
    assert (checked.written, checked.dropped) == (bad, {"negative volumes or amounts": 1})
    assert checked.after.problems == ()
    np.testing.assert_array_equal(read_candles(bad).values, np.delete(values, 4, axis=0))


def test_a_repair_may_go_to_another_file_but_never_over_one(put, tmp_path):
    bad = spoilt_history(put, tmp_path)
    content = bad.read_bytes()
    assert check_history(bad, repair=True, output=tmp_path / "new.parquet").written == tmp_path / "new.parquet"
    assert bad.read_bytes() == content
    assert "exists already" in refused(check_history, bad, repair=True, output=tmp_path / "good.parquet")
    assert "name one with --output" in refused(check_history, put("a.csv", spoil=[1]), repair=True)
    checked = check_history(put("a.csv", spoil=[1]), repair=True, output=tmp_path / "csv.parquet")
    assert len(read_candles(checked.written)) == N - 1


def test_notes_outlive_a_repair_and_an_append(put, tmp_path):
    output = tmp_path / "out.parquet"
    rows = read_rows(put("a.csv", 0, 10))
    rows.values[3, VOLUME] = 0.0
    rows.values[3, :4] = 5.0
    write_rows(rows, output, "1h", notes={"btcbt.mine": "kept"})
    check_history(output, drop_placeholders=True)
    import_history([put("a.csv", 10, 20)], output)
    assert read_notes(output)["btcbt.mine"] == "kept"
    assert len(read_candles(output)) == 19


def test_a_flipped_bit_in_the_name_of_a_column_is_found_out(put, tmp_path):
    """Parquet protects its pages, not its footer: without a digest of the rows the amounts would be estimated."""
    output = tmp_path / "out.parquet"
    import_history([put("a.csv")], output)
    content = output.read_bytes()
    output.write_bytes(content.replace(b"amount", b"bmount"))
    assert "rows changed since they were written" in refused(read_candles, output)
    assert "rows changed since they were written" in refused(check_history, output)
    refused(import_history, [put("a.csv")], output)


def test_rows_edited_elsewhere_are_accepted_by_an_import(put, tmp_path):
    output, edited = tmp_path / "out.parquet", tmp_path / "edited.parquet"
    import_history([put("a.csv")], output)
    pq.write_table(pq.read_table(output).slice(3), edited)
    assert ROWS_NOTE in read_notes(edited)
    refused(read_candles, edited)
    import_history([edited], tmp_path / "new.parquet")
    assert len(read_candles(tmp_path / "new.parquet")) == N - 3


def test_real_parquet_is_checked_with_its_gaps(shared_data):
    found = check_history(shared_data / "BTCUSDT_1h.parquet").before
    assert (found.usable, len(found.gaps), found.missing, found.problems) == (73_285, 28, 127, ())
    assert {issue.kind: issue.count for issue in found.notes} == {
        "placeholders without volume": 5,
        "amounts missing, to be estimated from volume and price": 3_320,
    }
