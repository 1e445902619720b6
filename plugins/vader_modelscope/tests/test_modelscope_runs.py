"""Whole runs on the tiny model: training, resuming, two processes, precision, and the adapter in plain diffusers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import vader
from vader import Prompt
from vader.diffusion.gradient import Window, no_gradient
from vader.diffusion.rollout import ClipNoise
from vader.diffusion.seeding import derive
from vader.runs.session import open_session
from vader_modelscope import lora

CPU = torch.device("cpu")
BRIGHTNESS = f"{Path(__file__).parents[3] / 'tests' / 'fakes.py'}:Brightness"
PROMPTS = ["a red fox", "a blue bird", "rain"]


def spec(folder, output, backbone=(), sampler=(), **train):
    return {
        "backbone": {
            "name": "modelscope",
            "options": {"weights": str(folder), **dict(backbone)},
            "adapter": {"rank": 2, "dropout": 0.1},
        },
        "video": {"frames": 2, "height": 16, "width": 16},
        "sampler": {"steps": 2, "guidance_scale": 3.0, **dict(sampler)},
        "prompts": {"name": "list", "options": {"prompts": PROMPTS}},
        "rewards": [{"name": BRIGHTNESS, "label": "brightness"}],
        "gradient": {"mode": "rand"},
        "frames": {"mode": "random"},
        "train": {"steps": 4, "learning_rate": 0.03, "device": "cpu", "checkpoint_every": 2, **train},
        "validation": {"clips": 0},
        "output": str(output),
    }


def metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    own = ("time/", "memory/", "communication/", "cost/flops", "cost/energy_joules")
    return [{k: v for k, v in line.items() if not k.startswith(own)} for line in lines]


def adapter(output):
    return load_file(output / "adapter" / "adapter_model.safetensors")


class Crash(vader.VaderError):
    pass


class CrashAt:
    def __init__(self, step):
        self._step = step

    @vader.hookimpl
    def vader_step_finished(self, step):
        if step == self._step:
            raise Crash


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run with an adapter on UNet and text encoder, never interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    vader.train(spec(folder, output, {"text_adapter": True}, gradient_checkpointing=True))
    return output


def test_resumes_bit_equal(folder, run, tmp_path):
    made = spec(folder, tmp_path / "run", {"text_adapter": True}, gradient_checkpointing=True)
    with pytest.raises(Crash):
        vader.train(made, listeners=[CrashAt(3)])
    vader.train(made, resume=True)
    assert metrics(tmp_path / "run") == metrics(run)
    found, expected = adapter(tmp_path / "run"), adapter(run)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_adapter_of_the_text_encoder_is_trained(run):
    halves = {name: tensor for name, tensor in adapter(run).items() if ".text_encoder." in name and "lora_B" in name}
    assert len(halves) == 2 * 4
    assert all(tensor.any() for tensor in halves.values())  # they start at zero


DPM = {"name": "diffusers", "options": {"scheduler": "DPMSolverMultistepScheduler"}}


@pytest.mark.parametrize("sampler", [{}, DPM], ids=["ddim", "dpm"])
def test_an_optimizer_step_raises_the_reward_by_what_the_gradient_says(folder, tmp_path, sampler):
    """AdamW's first step moves B, which begins at zero, along the sign of its gradient g, and A, whose gradient is
    zero, not at all: to the first order the reward of that clip rises by ``<g, step>``. Half the difference between
    that step and its opposite has no second order.
    """
    rate = 1e-3
    made = spec(
        folder, tmp_path / "run", sampler=sampler, steps=1, learning_rate=rate, schedule="constant", warmup_steps=0
    )
    made |= {"gradient": {"mode": "tail", "k": 2}, "frames": {"mode": "all"}}
    made["prompts"]["options"]["prompts"] = PROMPTS[:1]
    made["backbone"]["adapter"]["dropout"] = 0.0
    vader.train(made)
    session = open_session(made, (), tmp_path / "run" / "adapter", scored=True)
    steps = len(session.context.sampler.timesteps)

    def reward(window):
        latents = session.context.sample(session.encode(asked), [derive(0, "clip", 0, 0)], window)
        return session.context.score(session.context.decode(latents, None), asked)["brightness"].sum()

    asked = [Prompt(PROMPTS[0])]
    rewards = {}
    for scale in (-1.0, 0.0, 1.0):
        session.set_scale(scale)
        rewards[scale] = float(reward(no_gradient(steps)).double())
    assert rewards[0.0] == pytest.approx(metrics(tmp_path / "run")[0]["reward"], abs=1e-6), "the clip trained on"
    halves = [p for name, p in session.context.backbone.denoiser.named_parameters() if "lora_B" in name]
    moved = [half.detach().clone() for half in halves]
    assert max(float(step.abs().max()) for step in moved) == pytest.approx(rate, rel=0.01)
    with torch.no_grad():
        for half in halves:
            half.zero_()
    reward(Window(0, steps)).backward()
    slopes = [half.grad for half in halves]
    assert all(bool((slope * step >= -1e-12).all()) for slope, step in zip(slopes, moved, strict=True))
    expected = sum(float((slope * step).double().sum()) for slope, step in zip(slopes, moved, strict=True))
    assert (rewards[1.0] - rewards[-1.0]) / 2 == pytest.approx(expected, rel=0.02)
    assert rewards[1.0] > rewards[0.0]


def test_precision(folder, tmp_path):
    """One optimizer step in bf16 has the loss of float32 within 2 %."""
    losses = []
    for precision in ("no", "bf16"):
        output = tmp_path / precision
        vader.train(spec(folder, output, {"vae_precision": "run"}, steps=1, batch_size=2, mixed_precision=precision))
        losses.append(metrics(output)[0]["loss"])
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(folder, tmp_path):
    """Two processes with one clip each see what one with two clips sees, in UNet and text encoder."""
    made = spec(folder, tmp_path / "two", {"text_adapter": True}, steps=2, processes=2)
    made["backbone"]["adapter"]["dropout"] = 0.0
    made |= {"gradient": {"mode": "tail", "k": 2}, "frames": {"mode": "all"}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(made))
    command = [sys.executable, str(Path(__file__).with_name("forked_run.py")), str(tmp_path / "two.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    one = {**made, "output": str(tmp_path / "one"), "train": {**made["train"], "batch_size": 2, "processes": 1}}
    vader.train(one)
    found, expected = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert len(found) == 2
    for step in range(2):
        assert found[step]["loss"] == pytest.approx(expected[step]["loss"], rel=1e-4)
        assert found[step]["grad_norm"] == pytest.approx(expected[step]["grad_norm"], rel=1e-3)


def frames_of_diffusers(pipeline, seed):
    """The clip that plain diffusers makes from the noise that vader gives a seed."""
    noise = ClipNoise([seed], (4, 2, 2, 2), CPU, torch.float32).draw()
    size = {"height": 16, "width": 16, "num_frames": 2, "num_inference_steps": 2, "guidance_scale": 3.0}
    return pipeline(PROMPTS[0], latents=noise, output_type="pt", **size).frames[0]


def strengthened(output, adapter):
    """A copy of an adapter with B ten times as large, so that its effect is plain."""
    from safetensors.torch import save_file

    tensors = load_file(output / "adapter" / "adapter_model.safetensors")
    adapter.mkdir()
    tensors = {name: tensor * 10 if "lora_B" in name else tensor for name, tensor in tensors.items()}
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    (adapter / "adapter_config.json").write_text((output / "adapter" / "adapter_config.json").read_text())
    return adapter


def test_the_adapter_gives_the_same_clip_in_plain_diffusers(folder, pipeline, tmp_path):
    from peft import PeftModel

    made = spec(folder, tmp_path / "run", steps=1)
    vader.train(made)
    trained = strengthened(tmp_path / "run", tmp_path / "strong")
    (ours,) = vader.generate(made, PROMPTS[:1], seeds=(3,), adapter=trained)
    base = frames_of_diffusers(pipeline, 3)
    PeftModel.from_pretrained(pipeline.unet, trained)
    theirs = frames_of_diffusers(pipeline, 3)
    torch.testing.assert_close(ours.frames, theirs, atol=1e-5, rtol=0)
    assert (theirs - base).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers
def test_both_halves_of_an_adapter_in_plain_diffusers(folder, run, pipeline, tmp_path):
    from peft import PeftModel

    made = spec(folder, run, {"text_adapter": True})
    trained = strengthened(run, tmp_path / "strong")
    (ours,) = vader.generate(made, PROMPTS[:1], seeds=(3,), adapter=trained)
    parts = lora.split(trained, tmp_path / "parts")
    PeftModel.from_pretrained(pipeline.unet, parts["unet"])
    without = frames_of_diffusers(pipeline, 3)
    PeftModel.from_pretrained(pipeline.text_encoder, parts["text_encoder"])
    theirs = frames_of_diffusers(pipeline, 3)
    torch.testing.assert_close(ours.frames, theirs, atol=1e-5, rtol=0)
    assert (theirs - without).abs().max() > 1e-4


def test_scale_0_is_the_base_bit_for_bit(folder, run, tmp_path):
    made = spec(folder, run, {"text_adapter": True})
    (base,) = vader.generate(made, PROMPTS[:1])
    (off,) = vader.generate(run, PROMPTS[:1], adapter_scale=0.0, file_type="gif", output=tmp_path / "clips")
    assert torch.equal(base.frames, off.frames)
    assert off.file.stat().st_size > 0


def test_an_adapter_of_another_kind(folder, run, tmp_path):
    layers = r"\['k_proj', 'out_proj', 'q_proj', 'v_proj'\]"
    with pytest.raises(vader.WeightsError, match=rf"no layer matches target_modules {layers} of .*adapter"):
        vader.generate(spec(folder, tmp_path / "run"), PROMPTS[:1], adapter=run / "adapter")
