"""The comparison of a family with diffusers' own pipeline: latents after every step, frames, gradients of adapters.

The pipeline's own ``__call__`` runs on our latents. For gradients it is entered beneath its ``no_grad``, and its
``callback_on_step_end`` cuts the graph before the gradient window.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vader import Prompt, Runtime, SamplerContext, Video
from vader.diffusion.gradient import Window
from vader.diffusion.guidance import classifier_free
from vader.diffusion.rollout import rollout
from vader.methods.context import guidance_scale_at
from vader.plugins import registry
from vader.protocols import CombinesGuidance
from vader.spec import AdapterSpec
from vader.weights.lora import inject, save

CPU = torch.device("cpu")
PROMPTS = (Prompt("a fox"), Prompt("a boat in a storm"))
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def same(latents: torch.Tensor) -> torch.Tensor:
    """Latents that both sides lay out alike."""
    return latents


def loaded(kind: type, folder: Any, dtype: torch.dtype = torch.float32, video: Video | None = None, **options: Any):
    """A family's backbone on the CPU."""
    return kind(kind.Options(weights=str(folder), **options), Runtime(CPU, dtype), video)


def pipeline_of(name: str, folder: Any, scheduler: Any = None, **more: Any) -> Any:
    """diffusers' own pipeline of a folder, quiet; with another scheduler if one is given."""
    import diffusers

    pipeline = getattr(diffusers, name).from_pretrained(folder, local_files_only=True, **more)
    pipeline.scheduler = scheduler or pipeline.scheduler
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass(frozen=True)
class Parity:
    """A family's backbone and diffusers' pipeline of the same folder, on the same task.

    Args:
        backbone: ours, in float32 on the CPU.
        pipeline: diffusers', its scheduler the one that ``sampler`` is equal to.
        video: of the clip.
        scale: of guidance.
        steps: of the sampler.
        sampler: registered name; None for the backbone's own.
        prompts: those with an image are given to the pipeline one by one, as it takes one image.
        call: further arguments for the pipeline.
        pack: latents ``b c f h w`` as the pipeline takes them.
        unpack: the pipeline's as ``b c f h w``.
    """

    backbone: Any
    pipeline: Any
    video: Video
    scale: float = 1.0
    steps: int = 4
    sampler: str | None = None
    prompts: tuple[Prompt, ...] = PROMPTS
    call: Mapping[str, Any] = field(default_factory=dict)
    pack: Callable[[torch.Tensor], torch.Tensor] = same
    unpack: Callable[[torch.Tensor], torch.Tensor] = same

    def noise(self, seed: int = 0) -> torch.Tensor:
        """Where the clips start."""
        shape = (len(self.prompts), *self.backbone.latent_shape(self.video))
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def ours(self, start: torch.Tensor, window: Window) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Clean latents and those after every step, by the rollout."""
        backbone, seen = self.backbone, list[torch.Tensor]()
        kind = registry.load("sampler", self.sampler or backbone.default_sampler)
        sampler = kind(kind.Options(), SamplerContext(backbone.schedule, self.steps, 0.0, self.video, CPU))
        scales = [guidance_scale_at(backbone, self.scale, time, self.steps) for time in sampler.timesteps.tolist()]
        with torch.no_grad():
            conditioning = backbone.encode(self.prompts)
        clean = rollout(
            functools.partial(backbone.predict, backbone.denoiser),
            sampler,
            conditioning,
            _Given(start),
            window,
            guidance_scale=scales,
            recompute=False,
            combine=backbone.combine if isinstance(backbone, CombinesGuidance) else classifier_free,
            on_step=lambda i, before, output: seen.append(output.prev),
        )
        return clean, seen

    def theirs(self, start: torch.Tensor, window: Window) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Frames ``(b f 3 h w)`` and latents after every step, by the pipeline."""
        if all(prompt.image is None for prompt in self.prompts):
            return self._called(start, window, prompt=[prompt.text for prompt in self.prompts])
        from PIL import Image

        parts = []
        for prompt, row in zip(self.prompts, start, strict=True):
            with Image.open(prompt.image) as image:
                parts.append(self._called(row[None], window, image=image.convert("RGB"), prompt=[prompt.text]))
        steps = zip(*(seen for _, seen in parts), strict=True)
        return torch.cat([frames for frames, _ in parts]), [torch.cat(rows) for rows in steps]

    def _called(self, start: torch.Tensor, window: Window, **given: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        seen = list[torch.Tensor]()

        def keep(pipeline: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            seen.append(self.unpack(kwargs["latents"]))
            return {"latents": kwargs["latents"].detach()} if i < window.start else {}

        video = self.video
        given |= {"height": video.height, "width": video.width, "num_frames": video.frames, "output_type": "pt"}
        given |= {"guidance_scale": self.scale, "num_inference_steps": self.steps, **self.call}
        call = type(self.pipeline).__call__.__wrapped__
        made = call(self.pipeline, **given, latents=self.pack(start), callback_on_step_end=keep)
        return made.frames, seen

    @torch.no_grad()
    def assert_same_clips(self, held: int = 0) -> None:
        """Latents after every step and frames, all and some.

        Args:
            held: latent frames at the start that the pipeline lets drift and replaces at the end.
        """
        start, window = self.noise(), Window(self.steps, self.steps)
        frames, expected = self.theirs(start, window)
        clean, seen = self.ours(start, window)
        for found, wanted in zip(seen, expected, strict=True):
            torch.testing.assert_close(found[:, :, held:], wanted[:, :, held:], **TOLERANCE)
        torch.testing.assert_close(self.backbone.decode(clean), frames, **TOLERANCE)
        some = [self.video.frames - 1, 0, self.video.frames // 2]
        torch.testing.assert_close(self.backbone.decode(clean, some), frames[:, some], **TOLERANCE)
        assert frames.std() > 1e-3

    def assert_same_gradients(self, folder: Any, k: int = 2) -> None:
        """Of an adapter that both carry, through the last ``k`` steps and the decoder.

        Args:
            folder: empty; the adapter is saved there for the pipeline.
            k: steps with gradient.
        """
        mine, theirs = carried(self.backbone, copy.deepcopy(self.pipeline), folder)
        start, window = self.noise(), Window(self.steps - k, self.steps)
        clean, _ = self.ours(start, window)
        loss = self.backbone.decode(clean).square().mean()
        wanted = replace(self, pipeline=theirs).theirs(start, window)[0].square().mean()
        torch.testing.assert_close(loss, wanted, **TOLERANCE)
        found = torch.autograd.grad(loss, list(mine.values()), allow_unused=True)
        others = adapters_of(theirs, self.backbone)
        expected = torch.autograd.grad(wanted, [others[name] for name in mine], allow_unused=True)
        assert others.keys() == mine.keys()
        assert any(gradient is not None for gradient in expected)
        for gradient, other in zip(found, expected, strict=True):
            if other is None:  # an expert that has no part in the window
                assert gradient is None or not gradient.any()
                continue
            torch.testing.assert_close(gradient, other, **TOLERANCE)
            assert other.abs().max() > 0


class _Given:
    """Latents that clips start from, in the place of noise."""

    def __init__(self, start: torch.Tensor) -> None:
        self._start: torch.Tensor | None = start

    def draw(self) -> torch.Tensor:
        start, self._start = self._start, None
        return start if start is not None else torch.zeros(())


def carried(backbone: Any, pipeline: Any, folder: Any) -> tuple[dict[str, torch.nn.Parameter], Any]:
    """Put one random adapter on both, by way of the file that the backbone saves; ours by name, and the pipeline."""
    inject(backbone.denoiser, AdapterSpec(rank=3), backbone.lora_target_modules, 0, without=backbone.without_adapter())
    mine = _trained(backbone.denoiser)
    with torch.no_grad():
        for index, parameter in enumerate(mine.values()):
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(index))
    folder.mkdir(exist_ok=True)
    save(backbone.denoiser, folder, backbone.denoiser_name, backbone.experts)
    for file in sorted(folder.glob("pytorch_lora_weights*.safetensors")):
        second = {"load_into_transformer_2": True} if file.stem.endswith("_2") else {}
        pipeline.load_lora_weights(folder, adapter_name="default", weight_name=file.name, **second)
    return mine, pipeline


def adapters_of(pipeline: Any, backbone: Any) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters of a pipeline, by the backbone's names for them."""
    parts = {f"{name}.": part for name, part in backbone.family.experts.items()} or {"": backbone.denoiser_name}
    return {
        start + name: parameter
        for start, part in parts.items()
        for name, parameter in _trained(getattr(pipeline, part)).items()
    }


def _trained(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if ".lora_" in name}
