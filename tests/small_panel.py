"""A run on three coins that takes seconds."""

from pathlib import Path

from btcbt.config import PanelConfig

SYMBOLS = {"BTC": "bundled:BTCUSD_1h", "ETH": "bundled:ETHUSD_1h", "LTC": "bundled:LTCUSD_1h"}
TREE = {
    "name": "panel",
    "candles": {"symbols": SYMBOLS, "interval": "1h"},
    "windows": {"start": "2019-06-01", "end": "2019-06-08", "context": 48, "horizon": 6, "stride": 2},
    "forecasters": {
        "random_walk": {"kind": "random_walk", "n_paths": 20},
        "ewma": {"kind": "ewma_volatility", "n_paths": 20},
    },
    "strategies": {
        "threshold": {"use": "threshold", "forecasters": ["ewma"]},
        "top_k": {"use": "top_k", "forecasters": ["ewma"]},
        "equal_weight": {"use": "equal_weight"},
    },
    "seed": 3,
}


def panel_config(root: Path, **changes: object) -> PanelConfig:
    """The experiment, stored in a folder."""
    return PanelConfig.model_validate({**TREE, "store": {"root": str(root)}, **changes})
