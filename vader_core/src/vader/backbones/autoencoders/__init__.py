"""The decoders of diffusers' causal autoencoders, as chains of stages (:mod:`vader.backbones.streaming`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vader.backbones.autoencoders import cogvideox, hunyuan15, wan
from vader.backbones.autoencoders.stages import Image as Image
from vader.backbones.streaming import Stage

CHAINS: Mapping[str, Callable[[Any], list[Stage]]] = {
    "AutoencoderKLWan": wan.chain,
    "AutoencoderKLCogVideoX": cogvideox.chain,
    "AutoencoderKLHunyuanVideo15": hunyuan15.chain,
}
"""Class of diffusers -> the stages of its decoder."""
TILED = frozenset({"AutoencoderKLWan", "AutoencoderKLHunyuanVideo15"})
"""Those whose layers, from the first upsampling on, see no more than their neighbourhood."""
