"""Experiments: closed, frozen models read from YAML, and their digest.

An experiment file is data. Unknown keys, duplicate keys, YAML tags, aliases and wrong types are
errors that name the file, the line and the key.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, overload
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from btcbt.errors import ConfigError

MAX_FILE_BYTES = 1 << 18
MAX_DEPTH = 32
MAX_FORECAST_BYTES = 1 << 28
MAX_BATCH = 1 << 16
"""Most windows of a step of a fit."""
STORE_FOLDER = "store"
REFITS_FOLDER = "refits"
LEDGER_FILE = "trials.jsonl"
RANDOM_WALK = "random_walk"
CALIBRATED = "calibrated"
URL_OPTIONS = {"s3": ("region", "scheme", "endpoint_override"), "gs": ("scheme", "endpoint_override"), "hdfs": ()}
"""Where a store may lie besides a folder, and what may follow a ``?`` there."""
_DURATION = re.compile(r"0[mhd]|[1-9]\d{0,6}[mhd]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _parse_name(value: str) -> str:
    """Names become folder names, so they cannot climb out of a folder."""
    if not _NAME.fullmatch(value):
        raise ValueError("a name has 1 to 64 letters, digits, '_', '-' or '.', the first a letter or digit")
    return value


def _parse_time(value: object) -> object:
    """Read a date or a time, UTC unless it says otherwise."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("not a date; write it as 2019-06-01 or 2019-06-01T13:00:00Z") from None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        try:
            value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        except OverflowError:
            raise ValueError("a date outside the calendar; write it as 2019-06-01") from None
    return value


def _parse_duration(value: str) -> str:
    """A number of minutes, hours or days, a century at most."""
    if not _DURATION.fullmatch(value):
        raise ValueError("a length of time such as 720h or 30d is expected")
    if interval_ms(value) > _CENTURY_MS:
        raise ValueError("a length of time of at most 100 years (36525d) is expected")
    return value


def _parse_place(value: str) -> str:
    """Files and folders are handed to the operating system, which knows no control characters."""
    if not value.isprintable():
        raise ValueError("a path of printable characters is expected")
    return value


def is_url(place: str) -> bool:
    """Whether a place is the URL of a service; anything else is a path of this machine."""
    return "://" in place


def _parse_root(value: str) -> str:
    """A folder, or a URL that says where and never who: it is written into every manifest.

    What is wrong with a URL is said without repeating it, for messages end in logs.
    """
    if not is_url(value):
        return value
    try:
        parts = urlsplit(value)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        parts.port  # noqa: B018 - it is read when it is asked for
    except ValueError:
        raise PydanticCustomError("url", "not a URL; write it as s3://BUCKET/PREFIX") from None
    known = URL_OPTIONS.get(parts.scheme)
    if known is None:
        raise PydanticCustomError("url", "a folder, or a URL that starts with s3://, gs:// or hdfs:// is expected")
    if "@" in parts.netloc or {name for name, _ in options} - set(known) or parts.fragment:
        allowed = f", and nothing but {', '.join(known)} after '?'" if known else ""
        raise PydanticCustomError(
            "url",
            "a URL without user, password or key is expected{allowed}; credentials are taken from the environment "
            "or a profile, as {scheme} tools do",
            {"allowed": allowed, "scheme": parts.scheme},
        )
    if not parts.netloc or ".." in parts.path.split("/"):
        raise PydanticCustomError("url", "a URL such as s3://BUCKET/PREFIX, without '..', is expected")
    if dict(options).get("scheme", "https") not in ("http", "https"):
        raise PydanticCustomError("url", "scheme=http or scheme=https is expected after '?'")
    return value


Name = Annotated[str, AfterValidator(_parse_name)]
Place = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_parse_place)]
Time = Annotated[datetime, BeforeValidator(_parse_time)]
Duration = Annotated[str, AfterValidator(_parse_duration)]
Interval = Literal["1m", "5m", "15m", "30m", "1h", "2h", "4h", "12h", "1d"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_CENTURY_MS = 36_525 * _UNIT_MS["d"]


def interval_ms(interval: str) -> int:
    """Length of an interval or a duration such as ``1h`` in milliseconds."""
    return int(interval[:-1]) * _UNIT_MS[interval[-1]]


def time_ms(time: datetime) -> int:
    """Milliseconds since the epoch, UTC."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def time_text(time: datetime | int) -> str:
    """A time (or milliseconds since the epoch) as messages show it: ``2019-06-01T13:00Z``.

    What lies outside of the calendar is shown as before its first or after its last year.
    """
    if not isinstance(time, datetime):
        milliseconds = int(time)
        try:
            time = _EPOCH + timedelta(milliseconds=milliseconds)
        except OverflowError:
            return "before year 1" if milliseconds < 0 else "after year 9999"
    exact = "auto" if time.second or time.microsecond else "minutes"
    text = time.astimezone(UTC).isoformat(timespec=exact)
    return text.replace("+00:00", "Z")


class Section(BaseModel):
    """Base of every part of an experiment: closed and frozen, and finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


class CandlesConfig(Section):
    """Which history to walk over.

    `path` is a Parquet file (relative to the working directory) or ``bundled:NAME``, a sample that ships with
    the package.
    """

    path: Place
    interval: Interval = "1h"


class WindowsConfig(Section):
    """Where forecasts are made: an origin at every `stride`-th candle close in [start, end)."""

    context: int = Field(ge=2, le=100_000)
    horizon: int = Field(ge=1, le=1024)
    start: Time
    end: Time
    stride: int = Field(1, ge=1, le=100_000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {time_text(self.end)} is not after start {time_text(self.start)}")
        return self


class PathForecasterConfig(Section):
    """What every forecaster that samples paths has."""

    n_paths: int = Field(30, ge=1, le=100_000)
    batch_size: int | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _batch(self) -> Self:
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} is below 1; give a positive number or 'auto'")
        return self


class RefitConfig(Section):
    """Fine-tune a checkpoint inside the walk-forward, again and again, on candles before the origins that it serves.

    The first fit serves the first origin of the range and those after it, until `every` is over and the next one does;
    without `every` there is one, which is frozen from then on. Each is fitted on `train_window`, and the best of its
    weights are chosen on the `select_window` after that; both end `embargo` before the first origin that is served,
    and as much lies between them. An epoch is as many batches as there are training windows over `batch_size`.
    """

    every: Duration | None = None
    train_window: Duration = "8760h"
    select_window: Duration = "720h"
    embargo: Duration | None = None
    """Context and horizon together, if left out."""
    cumulative: bool = False
    """Whether each fit goes on from the weights of the one before; all begin with the checkpoint's if not."""
    steps: int | None = Field(None, ge=1, le=10_000_000)
    epochs: float | None = Field(None, gt=0, le=10_000)
    tokenizer_steps: int = Field(0, ge=0, le=10_000_000)
    """Steps of the tokenizer before those of the model; 0 keeps it as it is."""
    select_every: int | None = Field(None, ge=1)
    """Steps between looks at the selection range; an eighth of all if left out."""
    batch_size: int = Field(16, ge=1, le=MAX_BATCH)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    mirror: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either 'steps' or 'epochs', so that it is said how long to fit")
        return self


class KronosConfig(PathForecasterConfig):
    """Kronos, the transformer that samples candles.

    `checkpoint` is ``kronos-nano`` (shipped), a folder with ``model/`` and ``tokenizer/``, or a hub id; in
    the latter case `tokenizer` names the folder or hub id of the tokenizer, or of a pair that holds it.
    """

    kind: Literal["kronos"] = "kronos"
    checkpoint: Place = "kronos-nano"
    tokenizer: Place | None = None
    temperature: float = Field(1.0, gt=0, le=100)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    clip: float = Field(5.0, gt=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    sampling: Literal["independent", "systematic"] = "independent"
    overflow: Literal["recompute", "refuse"] = "recompute"
    max_context: int | None = Field(None, ge=2, le=1 << 16)
    """Tokens that the model attends to; that of the published size of its shape (512 for others) if left out."""
    refit: RefitConfig | None = None


class AnchoredKronosConfig(KronosConfig):
    """Kronos with one scaling for all hours of a block, a different and cheaper forecast.

    The scaling is fitted on the `context` candles before the block's first origin, and the context grows from there to
    context + block - 1 candles. Blocks lie on the grid of `block` intervals since the epoch (days, for 24 hours).
    """

    kind: Literal["kronos_anchored"]  # type: ignore[assignment]
    block: int = Field(24, ge=1, le=1024)


class RandomWalkConfig(PathForecasterConfig):
    """No drift; hourly returns (with their whole candle) drawn from the context with replacement."""

    kind: Literal["random_walk"]


class DriftConfig(PathForecasterConfig):
    """The random walk plus the context's mean return."""

    kind: Literal["drift"]


class EwmaVolatilityConfig(PathForecasterConfig):
    """Gaussian steps whose variance is an exponential mean of squared returns (RiskMetrics, 1996)."""

    kind: Literal["ewma_volatility"]
    decay: float = Field(0.97, gt=0, lt=1)


class GarchConfig(PathForecasterConfig):
    """GARCH(1,1) with Student t innovations, fitted on each window (Bollerslev, 1987)."""

    kind: Literal["garch"]


class CalibratedConfig(Section):
    """The forecaster named `base`, its paths widened, narrowed and shifted by what became of its earlier ones.

    A log scale moves by at least one of `rates` for each independent outcome outside of an interval; which of them
    is learned.
    """

    kind: Literal["calibrated"]
    base: Name
    rates: tuple[Annotated[float, Field(ge=0, le=0.1)], ...] = Field((0.005, 0.01, 0.02), min_length=1, strict=False)


ForecasterConfig = Annotated[
    KronosConfig
    | AnchoredKronosConfig
    | RandomWalkConfig
    | DriftConfig
    | EwmaVolatilityConfig
    | GarchConfig
    | CalibratedConfig,
    Field(discriminator="kind"),
]
KINDS = tuple(
    str(get_args(part.model_fields["kind"].annotation)[0]) for part in get_args(get_args(ForecasterConfig)[0])
)
"""What a forecaster can be."""


class StrategyConfig(Section):
    """A strategy class, ``module:Class`` (say ``strategies.threshold:Threshold``), and its parameters.

    `forecasters` names those that it trades on; all of them if left out.
    """

    use: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    params: dict[str, Any] = Field(default_factory=dict)
    forecasters: tuple[str, ...] | None = Field(None, strict=False)


class PortfolioConfig(Section):
    """How targets become trades. Rates in basis points (1e-4)."""

    initial_cash: float = Field(10_000.0, ge=0.01, le=1e15)
    """Quote units. Bounded, for vectorbt takes sums below some 1e-9 for nothing, and skips orders of tiny accounts."""
    fee_bps: float = Field(10.0, ge=0, lt=10_000)
    slippage_bps: float = Field(2.0, ge=0, lt=10_000)
    funding_bps_per_hour: float = Field(0.0, gt=-10_000, lt=10_000)
    """Paid each hour by longs on the value held, earned by shorts (perpetual funding); < 0 reverses it."""
    borrow_bps_per_hour: float = Field(0.0, ge=0, lt=10_000)
    """Paid each hour by shorts on the value held."""
    max_long: float = Field(1.0, ge=0, le=1)
    max_short: float = Field(0.0, ge=0, le=1)


class StoreConfig(Section):
    """Where runs and forecasts are kept; `shard_size` origins are written, resumed and shared as one unit.

    `root` is a folder, or the URL of one: ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX``, ``hdfs://HOST:PORT/PATH``.
    At a URL lie forecasts alone, for machines to share; runs, the ledger of trials, and a copy of the forecasts in use
    lie in the folder `local`, ``runs`` if left out.
    """

    root: Annotated[Place, AfterValidator(_parse_root)] = "runs"
    local: Place | None = None
    shard_size: int = Field(168, ge=1, le=100_000)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.local is not None and (not is_url(self.root) or is_url(self.local)):
            raise ValueError("local is a folder beside a root that is a URL; remove it")
        return self

    @property
    def folder(self) -> Path:
        """The folder of this machine that runs lie in."""
        return Path((self.local or "runs") if is_url(self.root) else self.root)

    @property
    def url(self) -> str | None:
        """Where forecasts are kept besides, if anywhere."""
        return self.root if is_url(self.root) else None


def store_root(place: str) -> str:
    """A folder or URL of a store that did not come from an experiment file.

    Raises
    ------
    ConfigError
        If `StoreConfig` would not take it.
    """
    try:
        return StoreConfig(root=place).root
    except ValidationError as error:
        raise ConfigError(f"the store's root: {error.errors(include_url=False)[0]['msg']}") from None


class ExecutorConfig(Section):
    """What computes forecasts; nothing but speed depends on it.

    ``local`` is this process, with processes beside it for forecasters that do best on one core. The others share
    out shards: ``joblib`` on processes of this machine, ``dask`` and ``ray`` on the cluster at `address`, or on one
    that they start here. `workers` is the number of processes of those started here; one for each core if left out.
    """

    kind: Literal["local", "joblib", "dask", "ray"] = "local"
    workers: int | None = Field(None, ge=1, le=1024)
    address: Place | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.address is not None and self.kind not in ("dask", "ray"):
            raise ValueError(f"address is that of a cluster, and '{self.kind}' has none; remove it")
        if self.address is not None and self.kind == "dask" and self.workers is not None:
            raise ValueError("workers are those of the cluster at address; remove one of the two")
        return self


class RunConfig(Section):
    """One experiment: each strategy trades on each forecaster, over the same origins.

    A random walk is always scored beside the forecasters; it is added if none is named.
    """

    name: Name
    candles: CandlesConfig
    windows: WindowsConfig
    forecasters: dict[Name, ForecasterConfig] = Field(default_factory=dict)
    strategies: dict[Name, StrategyConfig] = Field(default_factory=dict)
    portfolio: PortfolioConfig = PortfolioConfig()
    store: StoreConfig = StoreConfig()
    executor: ExecutorConfig = ExecutorConfig()
    placebos: int = Field(0, ge=0, le=100_000)
    """Placebo runs of each strategy on each forecaster (`btcbt.placebo`); 200 or more tell something, 0 is none."""
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name == STORE_FOLDER:
            raise ValueError(f"the name '{STORE_FOLDER}' is the folder of stored forecasts; choose another")
        if self.name == LEDGER_FILE:
            raise ValueError(f"the name '{LEDGER_FILE}' is the ledger of trials; choose another")
        walk = self.forecasters.get(RANDOM_WALK)
        if walk is not None and walk.kind != RANDOM_WALK:
            raise ValueError(f"the forecaster named '{RANDOM_WALK}' is of kind '{walk.kind}'; rename it")
        for name, strategy in self.strategies.items():
            unknown = set(strategy.forecasters or ()) - set(self.forecasters)
            if unknown:
                raise ValueError(
                    f"strategy '{name}' trades on {sorted(unknown)}, but the forecasters are {sorted(self.forecasters)}"
                )
        for name, forecaster in self.forecasters.items():
            if isinstance(forecaster, CalibratedConfig):
                self._check_base(name, forecaster.base)
                continue
            if isinstance(forecaster, KronosConfig) and forecaster.refit is not None:
                self._check_refit(name, forecaster.refit)
            size = forecaster.n_paths * self.windows.horizon * 24  # six float32 a candle
            if size > MAX_FORECAST_BYTES:
                raise ValueError(
                    f"forecaster '{name}': n_paths {forecaster.n_paths} x horizon {self.windows.horizon} "
                    f"makes {size:,} bytes an origin, more than {MAX_FORECAST_BYTES:,}; lower one of them"
                )
        return self

    def _check_refit(self, name: str, refit: RefitConfig) -> None:
        candle = interval_ms(self.candles.interval)
        for key in ("every", "train_window", "select_window", "embargo"):
            value = getattr(refit, key)
            shortest = 0 if key == "embargo" else candle
            if value is not None and (interval_ms(value) % candle or interval_ms(value) < shortest):
                raise ValueError(
                    f"forecaster '{name}': refit.{key} {value} is not a whole number of {self.candles.interval} candles"
                )

    def _check_base(self, name: str, base: str) -> None:
        known = sorted(key for key, value in self.forecasters.items() if not isinstance(value, CalibratedConfig))
        if base not in known:
            raise ValueError(f"forecaster '{name}': its base '{base}' is none of {known}; name one of them")

    def digest(self) -> str:
        """SHA-256 (hex) of the meaning of the experiment: defaults filled in, keys sorted.

        What changes speed and place alone (`store`, `executor`, batch sizes) is left out.
        """
        tree = self.model_dump(mode="json", exclude={"store", "executor"})
        for forecaster in tree["forecasters"].values():
            forecaster.pop("batch_size", None)
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@overload
def load_config(path: str | Path) -> RunConfig: ...
@overload
def load_config(path: str | Path, kind: type[SectionT]) -> SectionT: ...
def load_config(path: str | Path, kind: type[Section] | None = None) -> Section:
    """Read an experiment file, or one of another kind.

    Raises
    ------
    ConfigError
        Names the file, the line and the key, what was found and what was expected.
    """
    path = Path(path)
    tree = read_yaml(path)
    try:
        return (kind or RunConfig).model_validate(_plain(tree))
    except ValidationError as error:
        raise ConfigError(_explain(path, tree, error)) from None


def read_yaml(path: Path) -> CommentedMap:
    """Read a YAML mapping whose keys know their lines; tags, aliases and oversized files are refused.

    Raises
    ------
    ConfigError
        If the file is missing, too large, not UTF-8, not YAML, or not a mapping.
    """
    text = _read_text(path)
    try:
        _refuse_features(path, text)
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        # Of a key that is there twice, the values are not repeated: they may be long, or secret.
        problem = _excerpt((error.problem or "not YAML").partition(" with value")[0])
        raise ConfigError(f"{path}:{line}: {problem}; correct the YAML there") from None
    except (YAMLError, ValueError, OverflowError) as error:
        problem = _excerpt(str(error))
        raise ConfigError(f"{path}: not readable as YAML ({problem}); correct it") from None
    if not isinstance(tree, CommentedMap):
        got = "nothing" if tree is None else type(_plain(tree)).__name__
        raise ConfigError(f"{path}:1: an experiment is a mapping of keys to values; got {got}")
    return tree


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: a folder; give the path of an experiment file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: {size:,} bytes; an experiment file has at most {MAX_FILE_BYTES:,}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an experiment file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _refuse_features(path: Path, text: str) -> None:
    """Refuse what can make a small file name a type, grow without bound, or exhaust the stack."""
    depth = 0
    for event in YAML(typ="rt").parse(text):
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"{path}:{line}: YAML tag '{_excerpt(str(event.tag))}'; remove it, tags are not read")
        if getattr(event, "anchor", None) is not None:
            anchor = _excerpt(str(event.anchor))
            raise ConfigError(f"{path}:{line}: YAML anchor or alias '{anchor}'; write the value out")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{path}:{line}: more than {MAX_DEPTH} levels deep; an experiment needs fewer")


def _plain(node: Any) -> Any:
    """The same tree in builtin types: ruamel's own remember how a number was written."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for builtin in (bool, int, float, str):
        if isinstance(node, builtin):
            return builtin(node)
    return node


def _explain(path: Path, tree: CommentedMap, error: ValidationError) -> str:
    """One line for the first problem: file, line, key, what was found, what to do."""
    problems = error.errors(include_url=False)
    # A wrong key is the likeliest cause of a missing one, so it is reported first.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where, line, node = _locate(tree, first["loc"], missing=first["type"] == "missing")
    key = _excerpt(".".join(where))
    place = f"{path}:{line}" if where else f"{path}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key '{key}'; remove it or correct its spelling{more}"
    if first["type"] == "missing":
        return f"{place}: '{key}' is missing; add it{more}"
    if first["type"] == "union_tag_not_found":
        return f"{place}: '{key}.kind' is missing; give one of {', '.join(KINDS)}{more}"
    message = _excerpt(first["msg"].removeprefix("Value error, "))
    secret = isinstance(node, str) and is_url(node)  # may hold a password
    shown = isinstance(node, str | int | float | date | None) and not secret
    got = f", got {_short(node)}" if shown else ""
    key = f"'{key}': " if key else ""
    return f"{place}: {key}{message[0].lower() + message[1:]}{got}{more}"


def _locate(tree: CommentedMap, loc: tuple[int | str, ...], *, missing: bool) -> tuple[list[str], int, Any]:
    """The keys of a location that the file has (or lacks), the line, and the value found there."""
    node: Any = tree
    line, where = 1, []
    for key in loc:
        if isinstance(node, CommentedMap) and key in node:
            line = node.lc.key(key)[0] + 1
            node = node[key]
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0] + 1
            node = node[key]
        elif not missing or key in KINDS:
            continue  # the branch of a union: part of pydantic's location, not of the file
        where.append(str(key))
    return where, line, node


def _excerpt(text: str) -> str:
    """A line of a message, whatever a file holds that it repeats: printable and not long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return text if len(text) <= 300 else text[:297] + "..."


def _short(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
