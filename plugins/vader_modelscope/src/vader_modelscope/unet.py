"""What diffusers' ``UNet3DConditionModel`` lacks: layers to recompute, and a text encoder that carries adapters."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import nn

from vader import WeightsError

TEXT = "text_encoder"
LAYERS = (ResnetBlock2D, TemporalConvLayer, Transformer2DModel, TransformerTemporalModel)
"""Every residual, temporal and attention layer of the UNet, whose own ``enable_gradient_checkpointing`` raises."""


def attach_text_encoder(unet: nn.Module, text_encoder: nn.Module) -> None:
    """Make the text encoder a part of the denoiser, which then is conditioned on token ids.

    Every call of the UNet first encodes its prompts, so a gradient window reaches adapters of the text encoder in each
    of its steps, recomputation and the synchronisation of processes cover them, and they are saved with the UNet's
    under names that begin with ``text_encoder.``.

    Args:
        unet: then takes ``encoder_hidden_states`` of token ids ``(b n 1)``, as a keyword.
        text_encoder: a CLIP text model.
    """
    unet.add_module(TEXT, text_encoder)
    unet.register_forward_pre_hook(_encode, with_kwargs=True)


def _encode(unet: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    trained = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    if torch.is_grad_enabled() and trained and not any(name.startswith(f"{TEXT}.") for name in trained):
        raise WeightsError(
            "text_adapter is on, but no layer of the text encoder carries an adapter. Name some in "
            "backbone.adapter.target_modules (q_proj, k_proj, v_proj, out_proj), or leave that out."
        )
    text_encoder = unet.get_submodule(TEXT)
    hidden = text_encoder(kwargs["encoder_hidden_states"][..., 0]).last_hidden_state
    return args, {**kwargs, "encoder_hidden_states": hidden}
