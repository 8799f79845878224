"""Candle history on disk to validated, read-only `Candles`; downloads, imports, checks and repairs."""

from btcbt.candles.bundled import bundled_names
from btcbt.candles.check import Inspection, inspect_rows, repair_rows
from btcbt.candles.download import Download, download_candles
from btcbt.candles.funding import read_funding, require_cover
from btcbt.candles.importers import check_history, import_candles, import_history, read_rows
from btcbt.candles.ops import fill_gaps, find_gaps, resample
from btcbt.candles.parquet import read_candles, write_candles
from btcbt.candles.rows import Rows
from btcbt.candles.schema import make_candles

__all__ = [
    "Download",
    "Inspection",
    "Rows",
    "bundled_names",
    "check_history",
    "download_candles",
    "fill_gaps",
    "find_gaps",
    "import_candles",
    "import_history",
    "inspect_rows",
    "make_candles",
    "read_candles",
    "read_funding",
    "read_rows",
    "repair_rows",
    "require_cover",
    "resample",
    "write_candles",
]
