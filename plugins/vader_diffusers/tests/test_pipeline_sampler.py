"""The checkpoint's own scheduler as a sampler: ``vader.generate`` makes the clips of the pipeline's ``__call__``."""

import json

import pytest
import torch
from plugins.vader_diffusers.tests.parity import Parity, loaded, pipeline_of

import vader
from vader import Video
from vader.diffusion.rollout import ClipNoise
from vader_diffusers.wan import Wan

PROMPTS, SEEDS, STEPS = ["a fox", "a boat"], (3, 4), 5
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000}


@pytest.fixture(params=["UniPC", "Euler"])
def shipped(request, copy):
    """A pipeline's folder with either scheduler."""
    if request.param == "Euler":
        (copy / "scheduler/scheduler_config.json").write_text(json.dumps(EULER))
        index = json.loads((copy / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", EULER["_class_name"]]
        (copy / "model_index.json").write_text(json.dumps(index))
    return copy


def spec(folder, **options):
    return {
        "backbone": {
            "name": "wan",
            "options": {"weights": str(folder), "negative_prompt": "dull", "max_sequence_length": 16},
        },
        "sampler": {"name": "pipeline", "steps": STEPS, "guidance_scale": 5.0, "options": options},
        "video": {"frames": 9, "height": 32, "width": 32},
        "prompts": {"name": "list", "options": {"prompts": PROMPTS}},
    }


def theirs(folder, scheduler=None):
    pipeline = pipeline_of("WanPipeline", folder, scheduler)
    noise = ClipNoise([SEEDS[0]] * 2, (16, 3, 4, 4), torch.device("cpu"), torch.float32).draw()
    given = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": STEPS, "max_sequence_length": 16}
    return pipeline(
        PROMPTS, negative_prompt=["dull"] * 2, guidance_scale=5.0, latents=noise, output_type="pt", **given
    ).frames


def test_generate_equals_the_pipeline(shipped):
    made = vader.generate(spec(shipped), PROMPTS, seeds=SEEDS[:1], batch_size=2)
    expected = theirs(shipped)
    torch.testing.assert_close(torch.stack([clip.frames for clip in made]), expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_the_shift_is_what_is_asked_for(shipped):
    scheduler = pipeline_of("WanPipeline", shipped).scheduler
    name = "flow_shift" if "flow_shift" in scheduler.config else "shift"
    other = type(scheduler).from_config(scheduler.config, **{name: 8.0})
    made = vader.generate(spec(shipped, flow_shift=8.0), PROMPTS, seeds=SEEDS[:1], batch_size=2)
    frames = torch.stack([clip.frames for clip in made])
    torch.testing.assert_close(frames, theirs(shipped, other), atol=1e-5, rtol=0)
    assert (frames - theirs(shipped)).abs().max() > 1e-3


def test_a_setting_of_the_scheduler(folder):
    scheduler = pipeline_of("WanPipeline", folder).scheduler
    first = type(scheduler).from_config(scheduler.config, solver_order=1)
    made = vader.generate(spec(folder, config={"solver_order": 1}), PROMPTS, seeds=SEEDS[:1], batch_size=2)
    expected = theirs(folder, first)
    torch.testing.assert_close(torch.stack([clip.frames for clip in made]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_latents_and_gradients_equal_the_pipeline(shipped, scale, tmp_path):
    """Through every step: a solver's memory carries gradient, so a pipeline's graph cannot be cut before a window."""
    pipeline, backbone = pipeline_of("WanPipeline", shipped), loaded(Wan, shipped, max_sequence_length=16)
    call = {"max_sequence_length": 16}
    parity = Parity(backbone, pipeline, Video(5, 32, 32), scale, STEPS, sampler="pipeline", call=call)
    parity.assert_same_clips()
    parity.assert_same_gradients(tmp_path / "adapter", k=STEPS)


def test_a_checkpoint_that_names_no_scheduler(copy):
    (copy / "scheduler/scheduler_config.json").write_text(json.dumps({"shift": 3.0}))
    with pytest.raises(vader.SpecError, match="names no scheduler"):
        vader.generate(spec(copy), ["a fox"])
