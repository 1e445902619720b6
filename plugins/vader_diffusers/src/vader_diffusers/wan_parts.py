"""What the models of the Wan family share: their parts, how these fit each other, and which pipeline is whose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field

from vader import sdk

MODULES = {
    "transformer": "diffusers.WanTransformer3DModel",
    "text_encoder": "transformers.UMT5EncoderModel",
    "vae": "diffusers.AutoencoderKLWan",
}
TWO = MODULES | {"transformer_2": "diffusers.WanTransformer3DModel"}
"""Parts of a Wan with an expert for high noise and one for low."""
MEMORY = (*sdk.FamilyBackbone.memory_options, sdk.MemoryOption("expert_offload=cpu"))
EXPERTS = {"high": "transformer", "low": "transformer_2"}
KINDS = {"2.1": ("Wan 2.1", "wan"), "A14B": ("Wan 2.2 A14B", "wan22"), "TI2V": ("Wan 2.2 TI2V-5B", "wan22_ti2v")}
"""Kind of a pipeline -> what it is, and the backbone for it."""


class WanOptions(sdk.FamilyOptions, sdk.RewardDecoderOptions):
    """Options that every Wan has. A model sets the default of ``weights``."""

    max_sequence_length: int = Field(512, ge=1, description="Tokens of a prompt; longer ones are cut, shorter padded.")


class TwoExpertsOptions(WanOptions, sdk.ExpertOptions):
    """Options of a Wan with two experts."""

    guidance_scale_2: float | None = Field(
        None, ge=0, description="Guidance scale of the low-noise expert. Null: sampler.guidance_scale, as the other's."
    )


def only(wanted: Literal["2.1", "A14B", "TI2V"]) -> Callable[[Mapping[str, Any]], str | None]:
    """What a pipeline is if it is not of a kind, judged by the signs in its index."""

    def other(index: Mapping[str, Any]) -> str | None:
        signs = {
            "transformer_2": any(index.get("transformer_2") or ()),
            "boundary_ratio": index.get("boundary_ratio") is not None,
            "expand_timesteps": bool(index.get("expand_timesteps")),
        }
        found = [sign for sign, present in signs.items() if present]
        kind = "TI2V" if signs["expand_timesteps"] else "A14B" if found else "2.1"
        if kind == wanted:
            return None
        title, name = KINDS[kind]
        image = index.get("_class_name") == "WanImageToVideoPipeline" and kind != "TI2V"
        backbone = {"wan": "wan_i2v", "wan22": "wan22_i2v"}[name] if image else name
        return f"a {title} pipeline ({', '.join(found) or 'one transformer'} in model_index.json): take {backbone!r}"

    return other


def fits(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    """Parts of a Wan, and what each says beside what it should."""
    vae = configs["vae"]
    cell = 2 ** (len(vae.dim_mult) - 1) * int(vae.patch_size or 1)
    found: dict[str, tuple[Any, Any]] = {
        "frames per latent frame": (2 ** sum(map(bool, vae.temperal_downsample)), grid.time)
    }
    for part in EXPERTS.values():
        if part not in configs:
            continue
        net, of = configs[part], "" if part == "transformer" else f" of {part}"
        found |= {
            f"latent frames per patch{of}": (net.patch_size[0], 1),
            f"pixels per patch in height{of}": (cell * net.patch_size[1], grid.space),
            f"pixels per patch in width{of}": (cell * net.patch_size[2], grid.space),
            f"channels into the transformer{of}": (net.in_channels, vae.z_dim),
            f"channels out of the transformer{of}": (net.out_channels or net.in_channels, vae.z_dim),
            f"width of the text embeddings{of}": (net.text_dim, configs["text_encoder"].d_model),
            f"width of the image embeddings{of}": (net.image_dim, None),
        }
    return found


def image_fits(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    """As :func:`fits`, for a transformer that is given image latents and a mask beside the latents."""
    found, vae = fits(configs, grid), configs["vae"]
    width = configs["image_encoder"].hidden_size if "image_encoder" in configs else None
    for what, (seen, expected) in found.items():
        if what.startswith("channels into"):
            found[what] = seen, 2 * expected + 2 ** sum(map(bool, vae.temperal_downsample))
        if what.startswith("width of the image"):
            found[what] = seen, width
    return found


class GuidesExperts:
    """The guidance scale of each expert, as diffusers' pipelines have it."""

    options: TwoExpertsOptions
    denoiser: Any

    def guidance_scale_at(self, scale: float, timestep: float, steps: int) -> float:
        """The scale of one step; 1, which is no guidance, holds for both experts."""
        low = self.options.guidance_scale_2
        return scale if low is None or scale == 1.0 or timestep >= self.denoiser.boundary else low
