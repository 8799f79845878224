"""What the store holds, what is damaged, and what may go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.errors import StoreError
from btcbt.files import in_use
from btcbt.records import ForecastBatch
from btcbt.storage import garbage as gc
from btcbt.storage.forecasts import DIGEST_BYTES, ForecastStore, forecast_key
from btcbt.storage.remote import LocalFolder

S, H = 3, 4
HOUR = 3_600_000
KEY, MEANING = forecast_key({"kind": "echo"}, interval_ms=HOUR, context=8, horizon=H, n_paths=S, seed=1)
DAY = 86_400


@pytest.fixture
def store(tmp_path: Path) -> ForecastStore:
    store = ForecastStore(tmp_path / "store" / KEY, KEY, n_paths=S, horizon=H)
    store.describe(MEANING)
    return store


def write(store: ForecastStore, first: int, n: int, *, seed: int = 0, age: float = 0.0) -> Path:
    """A shard of the hours first .. first + n, last touched `age` days ago."""
    origins = HOUR * np.arange(first, first + n, dtype=np.int64)
    digests = np.frombuffer(b"".join(o.to_bytes(DIGEST_BYTES) for o in origins.tolist()), dtype=f"V{DIGEST_BYTES}")
    paths = np.full((n, S, H, 6), seed, dtype=np.float32)
    path = store.write(digests, ForecastBatch(origins, paths, {}))
    return aged(path, age)


def aged(path: Path, days: float) -> Path:
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def hold(root: Path, shard: Path) -> None:
    """What a finished run does with a shard that it used."""
    folder = root / "run" / "digest" / "forecasts" / "echo"
    folder.mkdir(parents=True, exist_ok=True)
    os.link(shard, folder / shard.name)


def invoke(root: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["store", *arguments, "--root", str(root)])
    return result.exit_code, result.output


def why(root: Path, days: float | None = 7.0) -> dict[str, str]:
    return {item.name: item.why for item in gc.garbage(LocalFolder(root), older_than_days=days)}


def test_a_store_is_listed_with_what_its_keys_mean(store: ForecastStore, tmp_path: Path) -> None:
    write(store, 0, 5)
    write(store, 3, 5)
    (stored,) = gc.list_keys(LocalFolder(tmp_path))
    assert (stored.key, stored.origins, stored.shards) == (KEY, 8, 2)
    assert (stored.first, stored.last) == (0, 7 * HOUR)
    assert stored.meaning["forecaster"] == {"kind": "echo"}
    code, text = invoke(tmp_path, "ls")
    assert code == 0
    for word in (KEY[:12], "echo", "1970-01-01", "8"):
        assert word in text


def test_damaged_and_foreign_files_are_named(store: ForecastStore, tmp_path: Path) -> None:
    whole, flipped, cut = write(store, 0, 5), write(store, 5, 5), write(store, 10, 5)
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:100])
    foreign = store.folder / "notes.parquet"
    foreign.write_bytes(b"PAR1")
    code, text = invoke(tmp_path, "verify")
    assert code == 1
    for path in (flipped, cut, foreign):
        assert str(path) in text
    assert str(whole) not in text
    assert "4 files of 1 keys with 5 forecasts; 3 damaged" in text
    assert "3 damaged files" in invoke(tmp_path, "ls")[1]


def test_a_whole_store_verifies(store: ForecastStore, tmp_path: Path) -> None:
    write(store, 0, 5)
    code, text = invoke(tmp_path, "verify")
    assert (code, text.strip()) == (0, "1 files of 1 keys with 5 forecasts; 0 damaged")


def test_a_note_that_is_not_that_of_its_key_is_named(store: ForecastStore, tmp_path: Path) -> None:
    write(store, 0, 5)
    (store.folder / "key.json").write_text('{"n_paths": 3}')
    (stored,) = gc.list_keys(LocalFolder(tmp_path))
    assert stored.damaged == (f"{store.folder}/key.json does not describe the key that its folder is named by",)
    assert stored.origins == 5


def test_forecasts_that_no_run_holds_go_when_they_are_old(store: ForecastStore, tmp_path: Path) -> None:
    held, old, young = write(store, 0, 5, age=30), write(store, 5, 5, age=30), write(store, 10, 5, age=1)
    hold(tmp_path, held)
    assert set(why(tmp_path)) == {old.name}
    assert set(why(tmp_path, 0.5)) == {old.name, young.name}
    assert set(why(tmp_path, 60)) == set()
    assert set(why(tmp_path, None)) == set()


def test_while_a_run_is_under_way_whole_forecasts_stay(store: ForecastStore, tmp_path: Path) -> None:
    old, broken = write(store, 0, 3, age=9), aged(write(store, 5, 3), 9)
    broken.write_bytes(broken.read_bytes()[:-9])
    aged(broken, 9)
    with in_use(tmp_path / "store") as given:
        assert given
        with in_use(tmp_path / "store") as also:
            assert also
        code, output = invoke(tmp_path, "gc", "--delete")
    assert code == 0
    assert "a run is in progress here" in " ".join(output.split())
    assert old.exists()
    assert not broken.exists()
    assert "under way" not in invoke(tmp_path, "gc", "--delete")[1]
    assert not old.exists()


def test_a_copy_of_what_other_files_hold_goes_and_one_of_twins_stays(store: ForecastStore, tmp_path: Path) -> None:
    wide, inside = write(store, 0, 10, age=1), write(store, 2, 3, age=1)
    twin = write(store, 0, 10, seed=1, age=1)
    new = write(store, 4, 2)  # a run may be about to use it
    found = why(tmp_path)
    assert inside.name in found
    assert len({wide.name, twin.name} & set(found)) == 1
    assert new.name not in found


def test_nothing_goes_without_delete(store: ForecastStore, tmp_path: Path) -> None:
    path = write(store, 0, 5, age=30)
    code, text = invoke(tmp_path, "gc")
    assert code == 0
    assert "can be deleted with --delete" in text
    assert path.exists()
    code, text = invoke(tmp_path, "gc", "--delete")
    assert code == 0
    assert "1 files" in text
    assert not path.exists()
    assert (store.folder / "key.json").exists()


def test_damaged_files_go_and_what_a_run_holds_stays(store: ForecastStore, tmp_path: Path) -> None:
    held, damaged = write(store, 0, 5, age=30), write(store, 5, 5)
    hold(tmp_path, held)
    damaged.write_bytes(b"torn")
    aged(damaged, 1)
    assert set(why(tmp_path)) == {damaged.name}


def test_a_temporary_file_goes_only_when_its_writer_is_dead(store: ForecastStore, tmp_path: Path) -> None:
    path = store.folder / ".0-1.parquet.0123abcd.tmp"
    code = "import sys, fcntl; f = open(sys.argv[1], 'wb'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        aged(path, 1)
        assert why(tmp_path) == {}
        writer.kill()
        writer.wait()
    assert why(tmp_path) == {path.name: "left by a killed process"}
    aged(path, 0)
    assert why(tmp_path) == {}  # one that has just been made may not be locked yet


def test_a_half_written_run_goes_after_a_day(store: ForecastStore, tmp_path: Path) -> None:
    folder = tmp_path / "run" / ".digest.0123abcd.tmp"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    assert why(tmp_path) == {}
    aged(folder, 2)
    assert gc.delete(gc.garbage(LocalFolder(tmp_path), older_than_days=7)) == 2
    assert not folder.exists()


def test_a_folder_without_a_store_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store of forecasts there; give the experiments' store.root"):
        gc.list_keys(LocalFolder(tmp_path))
    assert invoke(tmp_path, "verify")[0] == 2


def test_refits_that_no_run_uses_may_go_when_they_are_old(store: ForecastStore, tmp_path: Path) -> None:
    used, unused, young = "a" * 64, "b" * 64, "c" * 64
    for key, days in ((used, 30.0), (unused, 30.0), (young, 1.0)):
        folder = tmp_path / "store" / "refits" / key
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        aged(folder, days)
    run = tmp_path / "run" / "digest"
    run.mkdir(parents=True)
    manifest = {"forecasters": {"random_walk": {}, "monthly": {"refits": [{"key": used}]}}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert why(tmp_path) == {unused: "no run uses this refit, and it is older than 7 days"}
    (run / "manifest.json").write_text("damaged")
    assert why(tmp_path) == {}
    (run / "manifest.json").write_text(json.dumps(manifest))
    gc.delete(gc.garbage(LocalFolder(tmp_path), older_than_days=7))
    assert sorted(path.name for path in (tmp_path / "store" / "refits").iterdir()) == [used, young]


def test_a_shard_that_cannot_be_read_now_is_named_and_kept(store: ForecastStore, tmp_path: Path) -> None:
    path = write(store, 0, 3, age=30)
    folder = LocalFolder(tmp_path)

    class Failing(LocalFolder):
        def child(self, name: str) -> LocalFolder:
            return Failing(self.path / name)

        def read(self, name: str) -> bytes:
            if name == path.name:
                raise StoreError(f"{name} cannot be read (Input/output error)")
            return super().read(name)

    failing = Failing(tmp_path)
    assert gc.garbage(failing, older_than_days=7.0) == []
    assert gc.list_keys(failing)[0].damaged == (f"{path.name} cannot be read (Input/output error)",)
    assert [item.name for item in gc.garbage(folder, older_than_days=7.0)] == [path.name]
