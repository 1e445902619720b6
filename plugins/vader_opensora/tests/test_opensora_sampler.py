"""The rectified flow gives the reference's timesteps, clips and gradients."""

import functools
import math
import re

import pytest
import torch

from vader import NoiseSchedule, SamplerContext, Video
from vader.diffusion.gradient import Window
from vader.diffusion.guidance import guided
from vader.diffusion.rollout import rollout
from vader.protocols import Conditioning
from vader.spec import AdapterSpec
from vader.weights import lora as adapters
from vader_opensora import tiny
from vader_opensora.sampler import OpenSoraRFlow, OpenSoraRFlowOptions
from vader_opensora.stdit3 import STDiT3

SIZES = ("depth", "hidden_size", "num_heads", "caption_channels", "model_max_length")
TABLE = re.compile(r"S(\d+)_h(\d+)_w(\d+)_f(\d+)_(\w+)")


def sampler(steps, video, **options):
    context = SamplerContext(NoiseSchedule("flow"), steps, 0.0, video, torch.device("cpu"))
    return OpenSoraRFlow(OpenSoraRFlowOptions(**options), context)


@pytest.fixture(scope="module")
def data(golden):
    return golden("opensora_rflow_a")


@pytest.fixture
def backbone(data, load, folder, tmp_path):
    """The reference's denoiser, read from files, with its adapter."""
    sizes = {key: data.json["config"][key] for key in SIZES}
    network = STDiT3(**sizes)
    network.load_state_dict(data.under("sd."))
    tiny.save(network, tmp_path / "denoiser", {"model_type": "STDiT3", **sizes})
    video = Video(data.json["num_frames"], *data.json["hw"], 24.0)
    backbone = load(denoiser=str(tmp_path / "denoiser"), video=video)
    lora = AdapterSpec(rank=data.json["lora"]["r"], alpha=data.json["lora"]["lora_alpha"])
    adapters.inject(backbone.denoiser, lora, backbone.lora_target_modules, seed=0)
    state = {key.removeprefix("base_model.model."): tensor for key, tensor in data.under("lora.").items()}
    adapters.restore(backbone.denoiser, state, "golden")
    return backbone


class Start:
    """The recorded noise, in place of drawn noise."""

    def __init__(self, start):
        self.start = start

    def draw(self):
        start, self.start = self.start, torch.zeros_like(self.start)
        return start


def conditioned(backbone, data, **extras):
    empty = backbone.denoiser.y_embedder.y_embedding[None]
    shared = {"mask": data["mask"].bool(), **extras}
    return Conditioning(
        {"embeds": data["y"][:, 0], **shared}, {"embeds": empty.expand(len(data["y"]), -1, -1), **shared}
    )


def roll(backbone, data, window, **options):
    predict = functools.partial(backbone.predict, backbone.denoiser)
    flow = sampler(data.json["S"], backbone.video, **options)
    scale = data.json["guidance_scale"]
    return rollout(predict, flow, conditioned(backbone, data), Start(data["z"]), window, guidance_scale=scale)


def test_timesteps(data, close):
    """All the reference's tables, for two dtypes of size; where it has 0 / 0, we have numbers."""
    seen = 0
    for name, table in data.json["timestep_transform_tables"].items():
        steps, height, width, frames, dtype = TABLE.fullmatch(name).groups()
        found = sampler(int(steps), Video(int(frames), int(height), int(width)), size_dtype=dtype).timesteps
        if "NaN" in table["t"]:
            assert frames == "16"
            assert found.isfinite().all()
            assert (found.diff() < 0).all()
            continue
        close(found, torch.tensor(table["t"]), 1e-6)
        seen += 1
    assert seen == 54


def test_frames_of_a_clip_shorter_than_a_window():
    """16 frames are four latent frames."""
    found = sampler(2, Video(16, 512, 512)).timesteps
    assert found.tolist() == pytest.approx([1000, 1000 * 2 * 0.5 / (1 + 0.5)])


@torch.no_grad()
def test_clip(backbone, data, close):
    close(roll(backbone, data, Window(4, 4)), data["out.z_final"])
    close(roll(backbone, data, Window(4, 4)), data["out.z_final_mask_ones"])


@torch.no_grad()
def test_clip_without_the_transform(backbone, data, close):
    close(roll(backbone, data, Window(4, 4), transform=False), data["out.z_final_no_transform"])


@torch.no_grad()
def test_clip_with_given_frames(backbone, data, close):
    """The reference's editing of a clip, written with what the backbone offers: ``x_mask`` and the sampler's step."""
    flow, z = sampler(data.json["S"], backbone.video), data["z"]
    noised = data["mask_edit"] == 1
    for i, timestep in enumerate(flow.timesteps):
        before, sigma = z, timestep / 1000
        moving = data["mask_edit"] * 1000 >= timestep
        noisy = (1 - sigma) * before + sigma * data[f"mask_edit.noise.{i}"]
        z = torch.where((moving & ~noised)[:, None, :, None, None], noisy, before)
        noised, conditioning = moving, conditioned(backbone, data, x_mask=moving)
        predict = functools.partial(backbone.predict, backbone.denoiser)
        output = guided(predict, z, timestep[None], conditioning, data.json["guidance_scale"])
        z = torch.where(moving[:, None, :, None, None], flow.step(output, i, z, z).prev, before)
    close(z, data["out.z_final_mask_edit"])


@pytest.mark.parametrize(("name", "window"), [("last", Window(3, 4)), ("cut2", Window(2, 4))])
def test_gradients(backbone, data, close, name, window):
    loss = roll(backbone, data, window).square().mean()
    close(loss.detach(), data[f"train_{name}.loss"])
    loss.backward()
    found = {k.replace(".default", ""): p.grad for k, p in backbone.denoiser.named_parameters() if p.requires_grad}
    expected = data.under(f"train_{name}.grad.base_model.model.")
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        close(gradient, expected[key])


def test_step_is_exact_on_a_straight_flow():
    """From noise to data along a straight line, any number of steps arrives; every step predicts the end."""
    noise, clean = torch.randn(2, 1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    flow, latents = sampler(5, Video(51, 240, 426)), noise
    for i in range(5):
        output = flow.step(noise - clean, i, latents, torch.full_like(noise, math.nan))
        assert torch.equal(output.prev, output.mean)
        assert output.std == 0
        torch.testing.assert_close(output.pred_x0, clean, rtol=0, atol=1e-6)
        latents = output.prev
    torch.testing.assert_close(latents, clean, rtol=0, atol=1e-6)


def test_timesteps_follow_the_training_schedule():
    context = SamplerContext(
        NoiseSchedule("flow", train_timesteps=100), 4, 0.0, Video(1, 512, 512), torch.device("cpu")
    )
    assert OpenSoraRFlow(OpenSoraRFlowOptions(), context).timesteps.tolist() == [100, 75, 50, 25]
