"""Importing this module registers Kronos with the Auto classes of transformers; `register` does the same by a call."""

from btcbt.models.kronos.hf import register

__all__ = ["register"]

register()
