"""ModelScope text-to-video (Wang et al. 2023, arXiv 2308.06571)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vader import Video, sdk
from vader_modelscope.options import HUB, ModelScopeOptions

if TYPE_CHECKING:
    from torch import Tensor, nn


def _encode(pipeline: Any, texts: Sequence[str], options: ModelScopeOptions) -> dict[str, Tensor]:
    """Embeddings ``(b n d)``, n being the tokenizer's length; longer prompts are cut, shorter padded.

    With ``text_adapter`` token ids ``(b n 1)`` in their place: then the denoiser encodes them, with gradient where it
    has any. Source: ``TextToVideoSDPipeline.encode_prompt``, whose numbers these are.
    """
    encoder = pipeline.text_encoder
    length = min(pipeline.tokenizer.model_max_length, encoder.config.max_position_embeddings)
    given = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    ids = pipeline.tokenizer(list(texts), **given).input_ids.to(encoder.device)
    return {"encoder_hidden_states": ids[..., None] if options.text_adapter else encoder(ids).last_hidden_state}


def _predict(backbone: Any, unet: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    return unet(latents, timestep, **branch, return_dict=False)[0]


def _check(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    unet, vae, text = (configs[part] for part in ("unet", "vae", "text_encoder"))
    return {
        "pixels per latent cell": (2 ** (len(vae.block_out_channels) - 1), grid.cell),
        "channels into the UNet": (unet.in_channels, vae.latent_channels),
        "channels out of the UNet": (unet.out_channels, vae.latent_channels),
        "width of the text embeddings": (text.hidden_size, unet.cross_attention_dim),
    }


def _prepare(backbone: Any) -> None:
    from vader_modelscope.unet import attach_text_encoder, make_lean

    make_lean(backbone.denoiser)
    if backbone.options.text_adapter:
        attach_text_encoder(backbone.denoiser, backbone.text_encoder)
    if backbone.options.xformers:
        backbone.denoiser.enable_xformers_memory_efficient_attention()


def _recompute(unet: nn.Module) -> None:
    from vader_modelscope.unet import LAYERS

    sdk.recompute_layers(unet, LAYERS)


class ModelScope(sdk.FamilyBackbone):
    """ModelScope text-to-video: noise, velocity or clean latents, as the checkpoint predicts. Any number of frames."""

    Options = ModelScopeOptions
    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("epsilon", "v", "sample")
    default_sampler: ClassVar[str] = "ddim"
    lora_target_modules: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("q_proj", "k_proj", "v_proj", "out_proj"),  # the text encoder's, which is there with text_adapter alone
    )
    denoiser_name: ClassVar[str | None] = None  # UNet3DConditionModel has no load_lora_adapter: users load through peft
    family = sdk.Family(
        title="ModelScope text-to-video",
        pipeline="TextToVideoSDPipeline",
        hub=HUB,
        video=Video(16, 256, 256, 8.0),
        grid=sdk.Grid(space=8, cell=8),
        modules={
            "unet": "diffusers.UNet3DConditionModel",
            "text_encoder": "transformers.CLIPTextModel",
            "vae": "diffusers.AutoencoderKL",
        },
        denoiser="unet",
        tokenizers={"tokenizer": "CLIPTokenizer"},
        encode=_encode,
        text_tokens=77,
        decoder=sdk.PerFrame(),
        schedule=sdk.diffusion_schedule,
        channels=lambda configs: configs["vae"].latent_channels,
        predict=_predict,
        check=_check,
        prepare=_prepare,
        checkpointing=_recompute,
        published={HUB: Path(__file__).parent / "published"},
    )

    @classmethod
    def import_adapter(cls, options: ModelScopeOptions, path: Path) -> tuple[Any, Mapping[str, Tensor]] | None:
        """An adapter in the reference's format, for the UNet that ``options`` name; None for another kind of file."""
        from vader_modelscope import lora

        return lora.read(path, cls, options) if path.suffix.lower() in sdk.PICKLED else None

    @classmethod
    def export_adapter(
        cls, options: ModelScopeOptions, spec: sdk.AdapterSpec, state: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """What the reference loads. See :func:`vader_modelscope.lora.published`."""
        from vader_modelscope import lora

        return lora.published(spec, state, cls, options)
