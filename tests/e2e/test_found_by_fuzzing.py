"""What changed files broke once, each by its smallest file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.lib import format as npy

from btcbt.errors import CheckpointError, StoreError
from btcbt.files import refusals_explained
from btcbt.storage.registrations import Registration, read_registrations, study_digest, write_registration
from btcbt.storage.runs import Run
from btcbt.walkforward.trial_returns import _load
from btcbt.workflows.finetune import draw_curves

CURVE = b"split,step,loss\nselect,1,4.5\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(CURVE + b"\xc6", id="no text"),
        pytest.param(CURVE.replace(b"split", b"spit"), id="without a column"),
        pytest.param(CURVE.replace(b"step", b"stop"), id="without steps"),
        pytest.param(CURVE.replace(b"select", b"train"), id="without selection losses"),
        pytest.param(CURVE.replace(b"4.5", b"select"), id="a loss that is no number"),
        pytest.param(CURVE.replace(b",1,", b",1"), id="a field less"),
        pytest.param(CURVE.replace(b",1,", b",1" + b"0" * 400 + b","), id="a step beyond all numbers"),
    ],
)
def test_a_damaged_curve_of_losses_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model_loss.csv").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model_loss\.csv: not the losses of a fit \("):
        draw_curves(tmp_path)


def test_a_folder_in_the_place_of_a_picture_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model_loss.csv").write_bytes(CURVE)
    (tmp_path / "model_loss.png").mkdir()
    with pytest.raises(StoreError, match="Is a directory"), refusals_explained():
        draw_curves(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model_loss.csv", "model_loss.png"}


@pytest.mark.parametrize(
    "change",
    [
        {"registered": "a\nb"},
        {"registered": "2026-01-01"},
        {"candles": {"first": 0.5, "end": 2, "stretch": "a"}},
        {"candles": {"first": "0", "end": 2, "stretch": "a"}},
        {"candles": {"first": 0, "end": 2**63, "stretch": "a"}},
        {"candles": 0.5},
        {"commit": 7},
    ],
    ids=json.dumps,
)
def test_a_registration_with_a_right_checksum_and_wrong_types_is_one_line(
    tmp_path: Path, change: dict[str, object]
) -> None:
    study = {"configuration": {"seed": 3}}
    right = {"registered": "2026-01-01T00:00:00+00:00", "candles": {"first": 0, "end": 2, "stretch": "a"}}
    tree = right | {"digest": study_digest(study), "study": study, "commit": None} | change
    write_registration(tmp_path, "small", Registration(**tree))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"not a registration|was changed") as caught:
        read_registrations(tmp_path, "small")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("notes", [b"{", b"\xa5", b"[]", b'{"index_columns": [7], "columns": 3}'])
def test_notes_for_pandas_in_a_table_of_a_run_may_be_damaged(tmp_path: Path, notes: bytes) -> None:
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"pandas": notes}), tmp_path / "trades.parquet")
    run = Run(tmp_path, None, {}, {})  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"trades\.parquet: cannot be read"):
        run.trades()


@pytest.mark.parametrize("header", [b"{'descr': '<f8', (", b"(" * 400, b"1 2", b"\xff", b"{[]: 1}"])
def test_returns_whose_header_is_damaged_count_as_not_kept(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "a.npy"
    file.write_bytes(npy.magic(1, 0) + len(header).to_bytes(2, "little") + header + bytes(16))
    assert _load(file, (2,)) is None
    np.save(file, np.array([1.0, 2.0]))
    np.testing.assert_array_equal(_load(file, (2,)), [1.0, 2.0])
