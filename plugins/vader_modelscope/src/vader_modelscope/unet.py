"""What diffusers' ``UNet3DConditionModel`` lacks: layers to recompute, a text encoder that carries adapters, and quick
convolutions over time."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn
from torch.nn import functional

from vader import WeightsError

TEXT = "text_encoder"
LAYERS = (ResnetBlock2D, TemporalConvLayer, Transformer2DModel, TransformerTemporalModel)
"""Every residual, temporal and attention layer of the UNet, whose own ``enable_gradient_checkpointing`` raises."""


class LeanTemporalConv(nn.Conv3d):
    """A convolution over frames alone, as one of two dimensions, for which there are quicker kernels.

    peft makes an adapter's layers of the class of the layer that carries it: the second one looks at one frame.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(b c f h w)`` -> ``(b c f h w)``."""
        out = functional.conv2d(x.flatten(3), self.weight[..., 0], self.bias, padding=(int(self.padding[0]), 0))
        return out.reshape(*out.shape[:3], *x.shape[3:])


def make_lean(unet: nn.Module) -> None:
    """Give the UNet's convolutions over time this forward; the numbers are the same but for rounding."""
    for layer in unet.modules():
        if isinstance(layer, TemporalConvLayer):
            for conv in layer.modules():
                if type(conv) is nn.Conv3d and (conv.kernel_size, conv.padding) == ((3, 1, 1), (1, 0, 0)):
                    conv.__class__ = LeanTemporalConv


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
