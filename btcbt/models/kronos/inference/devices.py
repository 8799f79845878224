"""The device that networks run on."""

from __future__ import annotations

import torch

from btcbt.errors import ConfigError


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Return the named device, or for None and ``auto`` the best one here.

    Raises
    ------
    ConfigError
        If the device is not available.
    """
    name = "auto" if device is None else str(device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        resolved = torch.device(name)
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        usable = available.get(resolved.type, False)
    except RuntimeError:
        usable = False
    if not usable:
        raise ConfigError(f"device '{name}' is not available here; use 'auto' or 'cpu'")
    return resolved
