"""Grounding DINO by the package groundingdino-py, as a detector. It works on transformers 4.57.6, not on 5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import groupby
from math import isqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vader import RegistryError, Runtime, WeightsError
from vader.sdk import first_line
from vader_rewards import weights
from vader_rewards.detectors import DETR_SIDES, Boxes, phrase, prepare, sides

HEADS = 8
UNUSED = ("label_enc.weight", "bert.embeddings.position_ids")
"""Names in the published files that the package's network does not have."""


class GroundingDinoPackage:
    """Grounding DINO (Liu et al. 2023, arXiv 2303.05499) as its authors wrote it: any object, named in words.

    The network is in float32 whatever the run's precision: the package computes part of it so.

    Args:
        name: path of a checkpoint, or ``owner/name:file``.
        text_encoder: hub id or folder of its BERT; only tokenizer and configuration are read.
        how: ``official`` or ``reference``, see :func:`vader_rewards.detectors.prepare`.
        size: shorter side of its images in pixels; None is 800.
        runtime: device.

    Raises:
        vader.RegistryError: if groundingdino-py is not installed, or cannot work with the transformers that is.
        vader.WeightsError: if the checkpoint cannot be loaded.
    """

    threshold: ClassVar[float] = 0.4

    def __init__(self, name: str, text_encoder: str, how: str, size: int | None, runtime: Runtime) -> None:
        _check_environment()
        path = weights.file(name, "weights")
        tensors = {key.removeprefix("module."): t.float() for key, t in weights.state(path).items()}
        tensors = {key: t for key, t in tensors.items() if key not in UNUSED}
        folder = weights.folder(text_encoder, None, option="text_encoder", small=True)
        network = _network(tensors, path, folder, text_encoder)
        weights.fill(network, tensors, path, "Grounding DINO")
        self._network = network.requires_grad_(False).eval().to(runtime.device)
        self._how, self._size = how, sides(DETR_SIDES, size)

    def check(self, name: str) -> None:
        """Any words will do."""

    def detect(self, images: Tensor, objects: Sequence[str], threshold: float) -> Boxes:
        """See :class:`vader_rewards.detectors.Detector`. The full stop that it was trained with is added here."""
        x = prepare(images, self._how, self._size, 1).float()
        order = sorted(range(len(objects)), key=lambda row: phrase(objects[row]))
        groups = groupby(order, key=lambda row: phrase(objects[row]))
        parts = [self._confidence(x[list(rows)], text) for text, rows in groups]
        confidence = torch.cat(parts)[torch.tensor(order, device=x.device).argsort()].to(images.dtype)
        return Boxes(confidence, confidence > threshold)

    def _confidence(self, x: Tensor, text: str) -> Tensor:
        """``(n q)`` for images of one text: the package gives the heads of a batch each other's text masks."""
        from groundingdino.util.misc import NestedTensor

        whole = torch.zeros_like(x[:, 0], dtype=torch.bool)
        logits: Tensor = self._network(NestedTensor(x, whole), captions=[text] * len(x))["pred_logits"]
        return logits.sigmoid().amax(-1)


def _check_environment() -> None:
    """The package is here, and a transformers that it works with."""
    page = "docs/how-to/environments.md says how to make an environment for it, and to reach it with `isolate`."
    if find_spec("groundingdino") is None:
        raise RegistryError(f"reward 'detection' with engine groundingdino needs groundingdino-py. {page}")
    from transformers import __version__ as version

    if not version.startswith("4."):
        raise RegistryError(f"groundingdino-py does not work with transformers {version}; expected 4.57.6. {page}")


def _network(tensors: Mapping[str, Tensor], path: Path, folder: Path, text_encoder: str) -> Any:
    """The package's network, its sizes read from the shapes of a checkpoint."""
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO
    from groundingdino.models.GroundingDINO.transformer import build_transformer

    try:
        settings = _settings(tensors)
        backbone = _backbone(tensors, settings)
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(
            f"{path} does not hold the weights of Grounding DINO: {first_line(error)} is missing. Expected a "
            "file such as groundingdino_swint_ogc.pth."
        ) from error
    with torch.random.fork_rng(devices=[]), _text_encoder(folder, text_encoder):  # its first weights are random
        return GroundingDINO(
            backbone,
            build_transformer(settings),
            num_queries=settings.num_queries,
            iter_update=True,
            query_dim=4,
            num_feature_levels=settings.num_feature_levels,
            nheads=HEADS,
            two_stage_type="standard",
            two_stage_bbox_embed_share=False,
            two_stage_class_embed_share=False,
            text_encoder_type=text_encoder,
        )


def _settings(tensors: Mapping[str, Tensor]) -> SimpleNamespace:
    """The package's published settings, with the sizes that a checkpoint has."""
    from groundingdino.config import GroundingDINO_SwinT_OGC as published

    shape = {name: tuple(t.shape) for name, t in tensors.items()}
    levels, width = shape["transformer.level_embed"]
    points = shape["transformer.encoder.layers.0.self_attn.attention_weights.bias"][0] // (HEADS * levels)
    found = {
        "num_feature_levels": levels,
        "hidden_dim": width,
        "num_queries": shape["transformer.tgt_embed.weight"][0],
        "dim_feedforward": shape["transformer.encoder.layers.0.linear1.bias"][0],
        "enc_layers": _count(shape, "transformer.encoder.layers."),
        "dec_layers": _count(shape, "transformer.decoder.layers."),
        "enc_n_points": points,
        "dec_n_points": points,
        "use_checkpoint": False,  # the package's way of it cannot be differentiated with respect to chosen inputs
        "use_transformer_ckpt": False,
    }
    known = {name: value for name, value in vars(published).items() if not name.startswith("_")}
    return SimpleNamespace(**(known | found))


def _backbone(tensors: Mapping[str, Tensor], settings: SimpleNamespace) -> Any:
    """The package's Swin transformer (Liu et al. 2021, arXiv 2103.14030) with position embeddings."""
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
    from groundingdino.models.GroundingDINO.backbone.position_encoding import build_position_encoding
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer

    prefix = "backbone.0.layers."
    stages = range(_count(tensors, prefix))
    biases = [tensors[f"{prefix}{stage}.blocks.0.attn.relative_position_bias_table"] for stage in stages]
    swin = SwinTransformer(
        embed_dim=tensors["backbone.0.patch_embed.proj.weight"].shape[0],
        depths=[_count(tensors, f"{prefix}{stage}.blocks.") for stage in stages],
        num_heads=[bias.shape[1] for bias in biases],
        window_size=(isqrt(biases[0].shape[0]) + 1) // 2,
        out_indices=tuple(settings.return_interm_indices),
    )
    backbone = Joiner(swin, build_position_encoding(settings))
    backbone.num_channels = swin.num_features[-len(settings.return_interm_indices) :]
    return backbone


def _count(names: Mapping[str, Any], prefix: str) -> int:
    """How many numbers follow a prefix."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})


@contextmanager
def _text_encoder(folder: Path, name: str) -> Iterator[None]:
    """While it lasts, the package takes its BERT from a folder without weights, which the checkpoint brings."""
    from groundingdino.util import get_tokenlizer as package
    from transformers import BertConfig, BertModel

    before = package.get_tokenlizer, package.get_pretrained_language_model
    package.get_tokenlizer = lambda _: weights.tokenizer(folder, name)
    package.get_pretrained_language_model = lambda _: BertModel(BertConfig.from_pretrained(folder))
    try:
        yield
    finally:
        package.get_tokenlizer, package.get_pretrained_language_model = before
