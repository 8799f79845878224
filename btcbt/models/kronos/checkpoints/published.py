"""What is publicly known of published checkpoints: their tokenizers, and the candles they were fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from btcbt.records import DataRange

_TOKENIZERS: Mapping[str, str] = MappingProxyType(
    {
        "NeoQuasar/Kronos-mini": "NeoQuasar/Kronos-Tokenizer-2k",
        "NeoQuasar/Kronos-small": "NeoQuasar/Kronos-Tokenizer-base",
        "NeoQuasar/Kronos-base": "NeoQuasar/Kronos-Tokenizer-base",
        "lc2004/kronos_base_model_BTCUSDT_1h_finetune": "lc2004/kronos_tokenizer_base_BTCUSDT_1h_finetune",
        "lc2004/kronos_base_model_BTCUSDT_4h_finetune": "lc2004/kronos_tokenizer_base_BTCUSDT_4h_finetune",
    }
)


def _ms(*time: int) -> int:
    return round(datetime(*time, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc,arg-type]


# The fine-tune's own log gives its ranges; the pretraining data of the base model were never published.
_RANGES: Mapping[str, tuple[DataRange, ...]] = MappingProxyType(
    {
        "lc2004/kronos_base_model_BTCUSDT_1h_finetune": (
            DataRange("unknown", 0, 0),
            DataRange("finetuning", _ms(2023, 10, 19), _ms(2025, 8, 7)),
            DataRange("selection", _ms(2025, 8, 7), _ms(2025, 10, 18, 14)),
        ),
    }
)


def known_tokenizer(hub_id: str) -> str | None:
    """Hub id of the tokenizer that a published model was trained with; None if unknown."""
    return _TOKENIZERS.get(hub_id)


def known_ranges(hub_id: str) -> Sequence[DataRange] | None:
    """Declared ranges of a published model; None where upstream published none."""
    return _RANGES.get(hub_id)
