"""Kronos for transformers: what `AutoConfig`, `AutoTokenizer` and `AutoModelForCausalLM` load from a checkpoint.

A checkpoint folder is one of

- a model's or a tokenizer's own folder (``config.json`` and ``model.safetensors``),
- a pair with ``model/``, ``tokenizer/`` and the model's ``config.json``, as `btcbt finetune` writes it,
- a model's folder with ``tokenizer/`` in it, as transformers' `Trainer` writes it.

Both Auto classes load from the latter two. The files have upstream's layout either way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from btcbt.errors import CheckpointError
from btcbt.models.kronos.checkpoints.files import (
    CONFIG_FILE,
    TOKENIZER_FOLDER,
    read_json,
    write_network,
)
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.shapes import MODELS, TOKENIZERS, ModelConfig, TokenizerConfig
from btcbt.models.kronos.training.kernels import use_training_kernels

IGNORED = -100
"""Label of a token that the loss ignores, as everywhere in transformers."""


class _ShapedConfig(PretrainedConfig):
    """A network's shape as a configuration of transformers: the same keys, as attributes."""

    shape_class: ClassVar[type[Any]]
    defaults: ClassVar[ModelConfig | TokenizerConfig]

    def __init__(self, **values: Any) -> None:
        for field in dataclasses.fields(self.shape_class):
            setattr(self, field.name, values.pop(field.name, getattr(self.defaults, field.name)))
        super().__init__(**values)

    @property
    def shape(self) -> Any:
        """The shape that the networks are built from."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self.shape_class)}
        return self.shape_class.from_dict(values, CONFIG_FILE)


class KronosHFConfig(_ShapedConfig):
    """Shape of a model, by default nano's; attributes are those of `ModelConfig`."""

    model_type = Kronos.model_type
    shape_class = ModelConfig
    defaults = MODELS["nano"]


class KronosTokenizerHFConfig(_ShapedConfig):
    """Shape of a tokenizer, by default nano's; attributes are those of `TokenizerConfig`."""

    model_type = KronosTokenizer.model_type
    shape_class = TokenizerConfig
    defaults = TOKENIZERS["nano"]


class KronosAutoTokenizer(KronosTokenizer):
    """What `AutoTokenizer` loads: a `KronosTokenizer` that accepts transformers' arguments."""

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path, *, revision: str | None = None, **_: Any) -> Self:
        """As `KronosTokenizer.from_pretrained`; other arguments of transformers are ignored.

        Raises
        ------
        CheckpointError
            If there is no tokenizer, or it is broken.
        """
        return super().from_pretrained(path_or_hub_id, revision=revision)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the tokenizer; into ``tokenizer/`` if `folder` holds a model, which it would otherwise overwrite."""
        folder = Path(folder)
        config = folder / CONFIG_FILE
        holds_model = config.is_file() and read_json(config).get("model_type") == Kronos.model_type
        super().save_pretrained(folder / TOKENIZER_FOLDER if holds_model else folder)


@dataclass
class KronosOutput(ModelOutput):
    """Loss in nats (if there are labels), and the logits of the tokens after each position but the last."""

    loss: Tensor | None = None
    s1_logits: Tensor | None = None
    s2_logits: Tensor | None = None


class KronosForCausalLM(PreTrainedModel):
    """What `AutoModelForCausalLM` loads: the layers of a `Kronos` under the same names, trainable by `Trainer`.

    Parameters
    ----------
    config : KronosHFConfig
        Shape of the network.

    Attributes
    ----------
    network : Kronos
        The same layers as a `Kronos`, for forecasting.
    """

    config_class = KronosHFConfig
    main_input_name = "s1"
    network: Kronos
    _tokenizer: KronosTokenizer | None

    def __init__(self, config: KronosHFConfig) -> None:
        super().__init__(config)
        network = use_training_kernels(Kronos(config.shape))
        for name, layer in network.named_children():
            self.add_module(name, layer)
        # Not registered as a child, so that parameters keep upstream's names and appear once.
        self.__dict__["network"] = network
        self.__dict__["_tokenizer"] = None
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Do nothing: the network has initialised itself."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path_or_hub_id: str | Path,
        *,
        config: KronosHFConfig | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        **_: Any,
    ) -> Self:
        """Load from a model's folder, a pair's, or a hub id.

        Parameters
        ----------
        path_or_hub_id : str or Path
        config : KronosHFConfig, optional
            The file's if left out; another one may change the dropouts, not the shape.
        revision : str, optional
            Branch, tag or commit on the hub.
        dtype : torch.dtype or str, optional
            float32 if left out or ``auto``. Other arguments of transformers are ignored.

        Raises
        ------
        CheckpointError
            If a file is missing or broken, or a key is missing, foreign or of another shape.
        """
        network = Kronos.from_pretrained(path_or_hub_id, revision=revision)
        model = cls(config or KronosHFConfig(**network.config.to_dict()))
        model.config.name_or_path = model.name_or_path = str(path_or_hub_id)
        try:
            model.load_state_dict(network.state_dict())
        except RuntimeError as error:
            raise CheckpointError(f"{path_or_hub_id}: the configuration given has another shape ({error})") from None
        if dtype is not None and dtype != "auto":
            torch.nn.Module.to(model, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        model.eval()
        return model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        **_: Any,
    ) -> None:
        """Write ``config.json`` and ``model.safetensors``, each whole or not at all; upstream's classes read them."""
        if is_main_process:
            state = self.state_dict() if state_dict is None else state_dict
            write_network(Path(save_directory), state, self.config.shape, Kronos.model_type)

    @property
    def tokenizer(self) -> KronosTokenizer:
        """The tokenizer beside this model's files, or the one known to belong to its published name.

        Raises
        ------
        CheckpointError
            If there is no such tokenizer.
        """
        found = self._tokenizer
        if found is None:
            if not self.config.name_or_path:
                raise CheckpointError("this model was not loaded from files, so its tokenizer is unknown; pass one")
            found = KronosTokenizer.from_pretrained(self.config.name_or_path)
            self.__dict__["_tokenizer"] = found  # not registered as a child either
        return found

    def forward(self, s1: Tensor, s2: Tensor, stamp: Tensor, labels: Tensor | None = None) -> KronosOutput:
        """Teacher-forced logits, and the loss against labels; causal in every layer.

        Parameters
        ----------
        s1, s2 : int64 (B, W)
            Sub-token ids of whole windows.
        stamp : int64 (B, W, 5)
            Calendar of each token.
        labels : int64 (B, W, 2), optional
            The ids again, `IGNORED` where no loss is taken. They are shifted inside, as transformers does.

        Returns
        -------
        KronosOutput
            `loss`: mean cross-entropy of both sub-tokens. Logits (B, W - 1 - first, V) of the tokens after each
            position from the first that has a label on (from 0 without labels).
        """
        first = 0
        if labels is not None:
            counted = (labels[:, 1:] != IGNORED).any(dim=-1).any(dim=0)
            first = int(counted.int().argmax())
        logits = self.network(s1[:, :-1], s2[:, :-1], stamp[:, :-1], s1[:, 1:], first=first)
        loss = None
        if labels is not None:
            wanted = labels[:, 1 + first :]
            parts = [
                F.cross_entropy(part.flatten(0, 1).float(), wanted[..., lane].flatten(), ignore_index=IGNORED)
                for lane, part in enumerate(logits)
            ]
            loss = (parts[0] + parts[1]) / 2
        return KronosOutput(loss, *logits)

    def decode_s1(self, s1: Tensor, s2: Tensor, stamp: Tensor) -> tuple[Tensor, Tensor]:
        """As `Kronos.decode_s1`."""
        return self.network.decode_s1(s1, s2, stamp)

    def decode_s2(self, hidden: Tensor, s1_next: Tensor) -> Tensor:
        """As `Kronos.decode_s2`."""
        return self.network.decode_s2(hidden, s1_next)
