"""Options of the backbone."""

from __future__ import annotations

import importlib.util
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from vader import Options, sdk

HUB = "ali-vilab/text-to-video-ms-1.7b"


class _TextAdapter(Options):
    """Stands before the family's options, whose validation looks at it."""

    text_adapter: bool = Field(False, description="The text encoder carries the adapter too, and gradient reaches it.")


class ModelScopeOptions(sdk.FamilyOptions, _TextAdapter):
    """Options of :class:`vader_modelscope.backbone.ModelScope`."""

    weights: str = sdk.published_as(HUB, "a ModelScope text-to-video model")
    text_encoder_offload: Literal["keep", "cpu"] = Field(
        "keep", description="keep: the text encoder lives on the run's device. cpu: it lives and encodes on the CPU."
    )
    zero_terminal_snr: bool = Field(
        False, description="Rescale the noise schedule so that its last timestep is pure noise (arXiv 2305.08891)."
    )
    decode_slice: int = Field(1, ge=1, description="Frames that the VAE decodes at once.")
    vae_precision: Literal["float32", "run"] = Field("float32", description="float32, or run: the run's precision.")
    xformers: bool = Field(False, description="Attention by xformers rather than torch. Needs a CUDA device.")

    @field_validator("text_encoder_offload")
    @classmethod
    def _adapter_needs_the_device(cls, value: str, info: ValidationInfo) -> str:
        if value == "cpu" and info.data.get("text_adapter"):
            raise ValueError("expected keep, because with text_adapter the text encoder runs at every denoising step")
        return value

    @field_validator("xformers")
    @classmethod
    def _xformers_is_installed(cls, value: bool) -> bool:
        if value and importlib.util.find_spec("xformers") is None:
            command = sdk.install_command("vader-plugin-modelscope[xformers]")
            raise ValueError(f"expected false, because xformers is not installed (`{command}`)")
        return value
