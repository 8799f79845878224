"""Experiment files: what is read, and how a wrong one is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btcbt.config import (
    MAX_DEPTH,
    MAX_FILE_BYTES,
    EwmaVolatilityConfig,
    KronosConfig,
    RunConfig,
    interval_ms,
    load_config,
    time_ms,
    time_text,
)
from btcbt.config.frozen import FrozenList
from btcbt.config.known import known_keys
from btcbt.config.sweep import SweepConfig
from btcbt.errors import ConfigError

GOOD = """\
name: trial
candles:
  path: bundled:BTCUSD_1h
windows:
  start: 2019-06-01
  end: 2019-06-08
  context: 48
  horizon: 6
forecasters:
  random_walk: {kind: random_walk}
  smooth:
    kind: ewma_volatility
    decay: 0.9
strategies:
  mine:
    use: threshold
    params: {enter: 0.01, levels: [1, 2]}
    forecasters: [smooth]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(GOOD)
    return path


def refuse(file: Path, text: str) -> str:
    """The message about a text; it is one line and names the file."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(file))
    return message.removeprefix(str(file))


def test_a_good_file_is_read_with_defaults_filled_in(file: Path) -> None:
    config = load_config(file)
    assert config.windows.start == datetime(2019, 6, 1, tzinfo=UTC)
    assert config.windows.stride == 1
    smooth = config.forecasters["smooth"]
    assert isinstance(smooth, EwmaVolatilityConfig)
    assert (smooth.decay, smooth.n_paths) == (0.9, 300)
    assert config.strategies["mine"].params == {"enter": 0.01, "levels": [1, 2]}
    assert config.strategies["mine"].forecasters == ("smooth",)
    assert config.portfolio.max_short == 0


def test_params_are_builtin_types_whatever_the_notation(file: Path) -> None:
    file.write_text(GOOD.replace("enter: 0.01", "enter: 1e-2, hexadecimal: 0x1f, flag: true, text: 'a'"))
    params = load_config(file).strategies["mine"].params
    assert {key: type(value) for key, value in params.items()} == {
        "enter": float,
        "hexadecimal": int,
        "flag": bool,
        "text": str,
        "levels": FrozenList,
    }


def test_a_config_survives_its_own_json(file: Path) -> None:
    config = load_config(file)
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.digest() == config.digest()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  context: 48",
            "  contextt: 48",
            ":7: unknown key 'windows.contextt' (did you mean 'context'?), and 'context' is missing; ",
        ),
        (
            "    decay: 0.9",
            "    decoy: 0.9",
            ":13: unknown key 'forecasters.smooth.decoy' (did you mean 'decay'?); remove it or correct",
        ),
        ("name: trial\n", "", ":1: 'name' is missing"),
        ("  horizon: 6\n", "", ":4: 'windows.horizon' is missing"),
        ("context: 48", "context: '48'", ":7: 'windows.context': input should be a valid integer, got '48'"),
        ("context: 48", "context: 1", "greater than or equal to 2, got 1"),
        ("decay: 0.9", "decay: 1.5", ":13: 'forecasters.smooth.decay': input should be less than 1, got 1.5"),
        ("decay: 0.9", "decay: .nan", ":13: 'forecasters.smooth.decay': input should be a finite number"),
        ("start: 2019-06-01", "start: soon", ":5: 'windows.start': not a date; write it as 2019-06-01"),
        ("start: 2019-06-01", "start: 7", ":5: 'windows.start': input should be a valid datetime, got 7"),
        ("start: 2019-06-01", "start: 2019-06-09", ":4: 'windows': end 2019-06-08T00:00Z is not after start"),
        (
            "kind: random_walk",
            "kind: oracle",
            ":10: 'forecasters.random_walk': unknown kind 'oracle'; the kinds are kronos, ",
        ),
        (
            "kind: random_walk",
            "kind: random_wakl",
            "unknown kind 'random_wakl' (did you mean 'random_walk'?); the kinds",
        ),
        (
            "name: trial\n",
            "name: trial\nportfolio: {on_gap: sell}\n",
            "'portfolio.on_gap': input should be 'hold' or 'flat'",
        ),
        ("kind: random_walk", "kind: 5", "unknown kind '5'; the kinds are"),
        ("kind: random_walk", "kind: [drift]", "unknown kind '['drift']' (did you mean 'drift'?)"),
        ("{kind: random_walk}", "{kind: drift, use: 'a:B'}", "give either 'kind', one of kronos, "),
        (
            "{kind: random_walk}",
            "{use: 'a:B', decay: 0.5}",
            ":10: unknown key 'forecasters.random_walk.decay'; the keys here are n_paths, use, params; ",
        ),
        ("{kind: random_walk}", "{use: 'a:B', n_paths: 0}", ":10: 'forecasters.random_walk.n_paths': input should be"),
        (
            "{kind: random_walk}",
            "{use: 'a B'}",
            ":10: 'forecasters.random_walk.use': a built-in name such as threshold is expected",
        ),
        (
            "decay: 0.9",
            "decay: 0.9\n  own: {use: 'a:B', base: nobody}",
            "base 'nobody' is not one of ['random_walk', 'smooth']",
        ),
        (
            "{kind: random_walk}",
            "{use: 'a:B', base: smooth, n_paths: 3}",
            "unknown key 'forecasters.random_walk.n_pa",
        ),
        ("{kind: random_walk}", "{}", ":10: 'forecasters.random_walk': give either 'kind', one of kronos, "),
        ("{kind: random_walk}", "{kind: drift}", "named 'random_walk' is of kind 'drift'; rename it"),
        ("{kind: random_walk}", "{kind: random_walk, n_paths: 0}", "greater than or equal to 1, got 0"),
        ("{kind: random_walk}", "{kind: random_walk, batch_size: 0}", "batch_size 0 is below 1"),
        ("[smooth]", "[other]", "strategy 'mine' trades on ['other'], but the forecasters are"),
        (
            "threshold",
            "my strategy",
            ":16: 'strategies.mine.use': a built-in name such as threshold is expected",
        ),
        ("name: trial", "name: ../up", ":1: 'name': a name has 1 to 64 letters"),
        ("name: trial", "name: store", "the name 'store' is reserved for the folder of stored forecasts"),
        ("  smooth:", "  ../up:", ":11: 'forecasters.../up': a name has 1 to 64 letters"),
        ("bundled:BTCUSD_1h", '"a\\0b"', ":3: 'candles.path': a path of printable characters is expected"),
        ("path: bundled:BTCUSD_1h", "path: [a]", ":3: 'candles.path': input should be a valid string"),
        ("horizon: 6", "horizon: 1024\n  stride: 0", ":9: 'windows.stride': input should be greater"),
        (
            "BTCUSD_1h",
            "BTCUSD_1h\n  fill_gaps: -1",
            ":4: 'candles.fill_gaps': input should be greater than or equal to 0",
        ),
        ("BTCUSD_1h", "BTCUSD_1h\n  fill_gaps: 100", "'candles.fill_gaps': input should be less than or equal to 24"),
        ("BTCUSD_1h", "BTCUSD_1h\n  fill_gaps: 1.5", "'candles.fill_gaps': input should be a valid integer, got 1.5"),
        ("BTCUSD_1h", "BTCUSD_1h\n  fill_gaps: true", "'candles.fill_gaps': input should be a valid integer, got True"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_key(file: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert expected in refuse(file, GOOD.replace(old, new, 1))


def test_further_problems_are_counted(file: Path) -> None:
    text = GOOD.replace("context: 48", "context: 0").replace("horizon: 6", "horizon: 0")
    assert "(and 1 more)" in refuse(file, text)


def test_an_origin_that_would_fill_the_memory_is_refused(file: Path) -> None:
    text = GOOD.replace("{kind: random_walk}", "{kind: random_walk, n_paths: 100000}")
    text = text.replace("horizon: 6", "horizon: 1024")
    assert "n_paths 100000 x horizon 1024 makes 2,457,600,000 bytes an origin" in refuse(file, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: !!python/object:os.system x", ":1: YAML tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("name: !!python/object/apply:os.system ['touch owned']", ":1: YAML tag"),
        ("name: a\nseed: !secret 5", ":2: YAML tag '!secret'; remove it"),
        ("name: !!str a", ":1: YAML tag"),
        ("a: &x 1\nb: *x", ":1: YAML anchor or alias 'x'; write the value out"),
        ("name: a\nname: b", ':2: found duplicate key "name"'),
        ("name: [a", ":1: "),
        ("name: a\n\tseed: 1", ":2: "),
        ("- a\n- b", ":1: an experiment is a mapping of keys to values; got list"),
        ("", ":1: an experiment is a mapping of keys to values; got nothing"),
        ("just text", ":1: an experiment is a mapping of keys to values; got str"),
        ("a: 1\n---\nb: 2", ":2: but found another document"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f":1: more than {MAX_DEPTH} levels deep"),
        ("a: " + "[" * 20_000, f":1: more than {MAX_DEPTH} levels deep"),
        ("a: " + "9" * 5000, ": not readable as YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(file: Path, text: str, expected: str) -> None:
    assert refuse(file, text).startswith(expected)


def test_a_tag_is_refused_before_anything_is_built(file: Path, tmp_path: Path) -> None:
    refuse(file, f"name: !!python/object/apply:os.mkdir ['{tmp_path}/owned']")
    assert not (tmp_path / "owned").exists()


def test_aliases_cannot_grow_a_small_file(file: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "YAML anchor or alias 'a0'" in refuse(file, "\n".join(lines))


def test_a_file_that_cannot_be_read_is_told_so(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match="No such file"):
        load_config(missing)
    with pytest.raises(ConfigError, match="a folder"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(binary)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 262,144 bytes"):
        load_config(large)


@given(st.text(max_size=80))
def test_any_text_is_a_config_or_one_line_of_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "any.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)


def test_times_are_utc_unless_they_say_otherwise(file: Path) -> None:
    file.write_text(GOOD.replace("2019-06-01", "2019-06-01T02:30:00+02:00").replace("2019-06-08", '"2019-06-08"'))
    windows = load_config(file).windows
    assert time_text(windows.start) == "2019-06-01T00:30Z"
    assert time_text(windows.end) == "2019-06-08T00:00Z"
    assert time_ms(windows.start) == 1_559_349_000_000


def test_a_time_before_the_calendar_is_refused(file: Path) -> None:
    assert "a date out of range" in refuse(file, GOOD.replace("2019-06-01", "0001-01-01T00:00:00+05:00"))


def test_times_show_seconds_only_where_there_are_some() -> None:
    assert time_text(0) == "1970-01-01T00:00Z"
    assert time_text(1_500) == "1970-01-01T00:00:01.500000Z"
    assert time_text(-60_000) == "1969-12-31T23:59Z"
    assert (time_text(-(10**17)), time_text(10**400)) == ("before year 1", "after year 9999")


@given(st.datetimes(timezones=st.just(UTC)))
def test_milliseconds_are_exact(time: datetime) -> None:
    back = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms(time))
    assert timedelta(0) <= time - back < timedelta(milliseconds=1)


def test_intervals_have_their_length() -> None:
    assert [interval_ms(text) for text in ("1m", "1h", "4h", "1d")] == [
        60_000,
        3_600_000,
        14_400_000,
        86_400_000,
    ]


def test_the_digest_is_that_of_the_meaning(file: Path) -> None:
    before = load_config(file).digest()
    for old, new in (
        ("name: trial", "seed: 0\nname: trial"),  # a default written out
        ("candles:\n", "store: {root: elsewhere, shard_size: 9}\ncandles:\n"),  # place and speed
        ("decay: 0.9", "decay: 0.9\n    batch_size: 3"),
        ("  start: 2019-06-01", "  start: 2019-06-01T00:00:00Z"),
    ):
        file.write_text(GOOD.replace(old, new))
        assert load_config(file).digest() == before, new
    for old, new in (("decay: 0.9", "decay: 0.91"), ("name: trial", "seed: 1\nname: trial")):
        file.write_text(GOOD.replace(old, new))
        assert load_config(file).digest() != before, new


def test_a_config_is_frozen_and_closed() -> None:
    config = KronosConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.top_p = 0.5
    with pytest.raises(ValueError, match="extra"):
        KronosConfig(kind="kronos", top_q=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "text",
    [
        f"name: a\nname: {'x' * 9000}\n",
        f"{'k' * 9000}: 1\n",
        f"name: !{'t' * 9000} x\n",
        f"name: &{'a' * 9000} x\n",
        f"forecasters: {{a: {{kind: {'z' * 9000}}}}}\n",
    ],
    ids=["twice", "key", "tag", "anchor", "kind"],
)
def test_a_message_stays_short_whatever_it_repeats(tmp_path: Path, text: str) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert len(str(caught.value)) < 700


def test_the_values_of_a_key_that_is_there_twice_are_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("store:\n  root: s3://me:hunter2@bucket\n  root: s3://me:hunter2@other\n")
    with pytest.raises(ConfigError, match='duplicate key "root"') as caught:
        load_config(file)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("named", "accepted"), [(None, True), ("random_walk", True), ("garch", True), ("har", False)])
def test_the_opponent_is_one_of_the_forecasters_or_the_random_walk_that_is_added(
    named: str | None, accepted: bool
) -> None:
    tree = {
        "name": "m",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 48, "horizon": 6, "start": "2019-06-01", "end": "2019-06-08"},
        "forecasters": {"garch": {"kind": "garch"}},
        "opponent": named,
    }
    if accepted:
        assert RunConfig.model_validate(tree).opponent == named
    else:
        with pytest.raises(ValueError, match=r"opponent 'har' is not among the forecasters \['garch', 'random_walk'\]"):
            RunConfig.model_validate(tree)


@pytest.mark.parametrize(
    ("schema", "loc", "known"),
    [
        (RunConfig, ("seeed",), {"name", "candles", "seed"}),
        (RunConfig, ("forecasters", "x", "<built-in>", "kronos", "refit", "stepz"), {"steps", "every"}),
        (RunConfig, ("forecasters", "x", "<use on base>", "bse"), {"use", "base", "params"}),
        (RunConfig, ("hypotheses", "x", "account", "strat"), {"strategy", "benchmark"}),
        (SweepConfig, ("over", "key", "range", "frm"), {"from", "to", "log"}),
        (SweepConfig, ("search", "RandomConfig", "trails"), {"trials", "seed"}),
        (RunConfig, ("strategies", "x", "params", "any"), set()),
    ],
)
def test_the_keys_of_every_part_of_a_schema_are_known(schema: type, loc: tuple[str, ...], known: set[str]) -> None:
    assert known <= set(known_keys(schema, loc))
    assert bool(known_keys(schema, loc)) == bool(known)
