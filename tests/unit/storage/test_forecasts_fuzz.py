"""Mutated shards: damaged ones are never used, and forged ones never crash a run or grow in memory."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from btcbt.errors import StoreError
from btcbt.records import ForecastBatch
from btcbt.storage.forecasts import DIGEST_BYTES, ForecastStore, _checksum, shard_named, shard_rows

S, H = 3, 4
KEY = "a" * 64
MUTANTS = 300


def mutate(rng: np.random.Generator, content: bytes) -> bytes:
    """The content after one to three flips, cuts, repeats, overwrites or moves."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, len(changed))))
        upto = min(len(changed), at + int(rng.integers(1, 64)))
        match int(rng.integers(6)):
            case 0 if len(changed):
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                del changed[at:upto]
            case 2:
                changed[at:at] = changed[at:upto] * int(rng.integers(1, 5))
            case 3:
                changed[at:upto] = rng.bytes(upto - at)
            case 4:
                changed[at:upto] = b"\xff" * (upto - at)
            case 5:
                del changed[at:]
    return bytes(changed)


@pytest.fixture
def whole(tmp_path: Path, rng: np.random.Generator) -> tuple[ForecastStore, np.ndarray, ForecastBatch, Path]:
    store = ForecastStore(tmp_path / "store", KEY, n_paths=S, horizon=H)
    origins = 3_600_000 * np.arange(6, dtype=np.int64)
    digests = np.frombuffer(rng.bytes(6 * DIGEST_BYTES), dtype=f"V{DIGEST_BYTES}")
    batch = ForecastBatch(origins, rng.normal(size=(6, S, H, 6)).astype(np.float32), {"device": "cpu"})
    return store, digests, batch, store.write(digests, batch)


def put(store: ForecastStore, content: bytes, first: int = 0, last: int = 18_000_000) -> Path:
    path = store.folder / f"{first}-{last}-{_checksum(content)}.parquet"
    path.write_bytes(content)
    return path


def test_mutated_shards_are_found_out_and_forged_ones_refused_or_read(whole, rng: np.random.Generator) -> None:
    store, digests, batch, path = whole
    good = path.read_bytes()
    path.unlink()
    seen: Counter[str] = Counter()
    for number in range(MUTANTS):
        content = mutate(rng, good)
        if content == good:
            continue
        path.write_bytes(content)
        assert len(store.plan(batch.origins, digests).missing) == 6  # whatever it holds, its checksum is wrong
        path.unlink()
        # Whoever may write into the store can forge a checksum: what it then holds is his to answer for, and its form
        # is not.
        forged = put(store, content)
        plan = store.plan(batch.origins, digests)
        message = ""
        try:
            shard_rows(shard_named(forged), content, KEY)
            if len(plan.missing) == 0:
                (read,) = store.read(plan, batch.origins, 9)
                assert read.paths.shape == batch.paths.shape
        except StoreError as error:
            message = str(error)
        assert len(message.splitlines()) <= 1, number
        seen["refused" if message else "read"] += 1
        forged.unlink()
    assert sum(seen.values()) > 0.9 * MUTANTS
    assert seen["read"] > 0
    assert seen["refused"] > MUTANTS / 3


def table(rows: int = 2, **changes: pa.Array) -> pa.Table:
    columns = {
        "origin": pa.array(range(rows), pa.timestamp("ms", tz="UTC")),
        "window": pa.array([b"w" * DIGEST_BYTES] * rows, pa.binary(DIGEST_BYTES)),
        "paths": pa.array([b"p" * (4 * S * H * 6)] * rows, pa.binary(4 * S * H * 6)),
    }
    columns |= changes
    return pa.table([c for c in columns.values() if c is not None], schema_of(columns))


def schema_of(columns: dict[str, pa.Array | None], **metadata: str) -> pa.Schema:
    described = {"format": "btcbt-forecasts-1", "key": KEY, "shape": json.dumps([S, H, 6]), "provenance": "{}"}
    fields = [pa.field(name, c.type, nullable=False) for name, c in columns.items() if c is not None]
    return pa.schema(fields, metadata=described | metadata)


def content_of(one: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(one, sink, compression="zstd")
    return sink.getvalue()


@pytest.mark.parametrize(
    "forged",
    [
        {"paths": None},
        {"window": pa.array([b"x", b"yy"])},
        {"origin": pa.array([1, 2])},
        {"paths": pa.array([b"p"] * 2, pa.binary(1))},
        {"more": pa.array([1, 2])},
    ],
    ids=["no paths", "loose windows", "plain origins", "narrow paths", "one column more"],
)
def test_a_forged_shard_of_another_form_is_foreign(tmp_path: Path, forged: dict[str, pa.Array | None]) -> None:
    store = ForecastStore(tmp_path, KEY, n_paths=S, horizon=H)
    path = put(store, content_of(table(**forged)))
    with pytest.raises(StoreError, match="is foreign: it does not have the columns"):
        store._read(shard_named(path), ["origin", "window", "paths"])


def test_a_forged_shard_whose_metadata_nests_deeply_is_refused(tmp_path: Path) -> None:
    store = ForecastStore(tmp_path, KEY, n_paths=S, horizon=H)
    forged = table(2)
    path = put(
        store, content_of(forged.replace_schema_metadata({**forged.schema.metadata, b"provenance": b"[" * 200_000}))
    )
    with pytest.raises(StoreError, match="is not a shard of forecasts"):
        store._read(shard_named(path), ["origin"])


def test_a_shard_that_unpacks_to_more_than_its_size_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    store = ForecastStore(tmp_path, KEY, n_paths=S, horizon=H)
    content = content_of(table(200_000))
    assert len(content) < 1_000_000  # and some 60 MB unpacked
    path = put(store, content)
    with pytest.raises(StoreError, match="is foreign"):
        store._read(shard_named(path), ["origin"])
    assert content_of(table(2))  # and the same of two rows is taken
    store._read(shard_named(put(store, content_of(table(2)), 0, 1)), ["origin", "window", "paths"])


@pytest.mark.parametrize("provenance", ["", "[]", "{", "null"])
def test_a_forged_note_of_where_forecasts_come_from_is_refused(tmp_path: Path, provenance: str) -> None:
    store = ForecastStore(tmp_path, KEY, n_paths=S, horizon=H)
    one = table()
    forged = one.replace_schema_metadata({**one.schema.metadata, b"provenance": provenance.encode()})
    with pytest.raises(StoreError, match=r"is foreign|is not a shard"):
        store._read(shard_named(put(store, content_of(forged))), ["origin"])
