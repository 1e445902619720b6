"""Adapters of two experts: saved for diffusers, fused when frozen, trained by several processes."""

import pytest
import torch
import yaml
from plugins.vader_diffusers.tests.experts import VIDEO, adapted, clean
from plugins.vader_diffusers.tests.parity import CPU, PROMPTS, Parity, carried, loaded, pipeline_of
from safetensors.torch import load_file
from tests.integration.harness import BRIGHTNESS, python

from vader.diffusion.gradient import Window
from vader.weights.lora import set_scale
from vader_diffusers import tiny
from vader_diffusers.wan22 import Wan22


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("wan22") / "tiny", 0, "wan22")


@pytest.mark.parametrize("experts", [("high", "low"), ("high",), ("low",)])
def test_adapters_on_either_expert_reload_in_diffusers(folder, tmp_path, experts):
    """The clip with adapters is the pipeline's, and the adapter is where the option says and nowhere else."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    backbone = loaded(Wan22, folder, video=VIDEO, experts=experts)
    theirs = pipeline_of("WanPipeline", folder, FlowMatchEulerDiscreteScheduler(shift=3.0))
    mine, theirs = carried(backbone, theirs, tmp_path / "adapter")
    assert {name.partition(".")[0] for name in mine} == set(experts)
    assert len(list((tmp_path / "adapter").glob("pytorch_lora_weights*"))) == len(experts)
    task = Parity(backbone, theirs, VIDEO, 4.0)
    task.assert_same_clips()
    with torch.no_grad():
        with_it = task.ours(task.noise(), Window(4, 4))[0]
        set_scale(backbone.denoiser, 0.0)
        assert (task.ours(task.noise(), Window(4, 4))[0] - with_it).abs().max() > 1e-3


@pytest.mark.parametrize("offload", ["keep", "cpu"])
def test_a_frozen_adapter_is_fused_into_its_expert(folder, tmp_path, offload):
    """A file as the pipeline's ``load_lora_weights`` reads it, into one expert; the other stays as it was."""
    import vader
    from vader.resolve.build import assemble_backbone
    from vader.resolve.validate import resolve
    from vader.weights.lora import save

    one, _ = adapted(folder, experts=("low",))
    (tmp_path / "adapter").mkdir()
    save(one.denoiser, tmp_path / "adapter", "transformer", ("low",))
    frozen = {"init": str(tmp_path / "adapter" / "pytorch_lora_weights.safetensors"), "expert": "low"}
    options = {"weights": str(folder), "expert_offload": offload}
    spec = {"backbone": {"name": "wan22", "options": options, "frozen_adapters": [frozen]}, "prompts": "shapes"}
    video = {"frames": 5, "height": 32, "width": 32}
    fused = assemble_backbone(resolve({**spec, "video": video}, training=False), CPU, torch.float32)
    with torch.no_grad():
        conditioning = one.encode(PROMPTS)
        torch.testing.assert_close(clean(fused, conditioning)[0], clean(one, conditioning)[0], atol=1e-5, rtol=0)
    del frozen["expert"]
    with pytest.raises(vader.SpecError, match="cannot fuse an adapter into None; expected 'high' or 'low'"):
        resolve({**spec, "video": video}, training=False)


@pytest.mark.slow
def test_two_processes_train_as_one_across_the_boundary(folder, tmp_path):
    spec = {
        "backbone": {"name": "wan22", "options": {"weights": str(folder)}, "adapter": {"rank": 2}},
        "prompts": {"name": "list", "options": {"prompts": ["a fox", "a boat"]}},
        "video": {"frames": 5, "height": 32, "width": 32},
        "sampler": {"steps": 4, "guidance_scale": 3.0},
        "gradient": {"mode": "tail", "k": 4},
        "rewards": [{"name": BRIGHTNESS}],
        "frames": {"mode": "index", "index": 0},
        "train": {"steps": 1, "device": "cpu", "learning_rate": 0.01},
        "validation": {"clips": 0},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    found = []
    for name, more in (("two", ["--processes=2"]), ("one", ["--set=train.batch_size=2"])):
        done = python(
            [
                "-m",
                "vader",
                "train",
                str(tmp_path / "spec.yaml"),
                "--trust-code",
                f"--set=output={tmp_path / name}",
                *more,
            ]
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))
    two, one = found
    assert all(tensor.any() for tensor in one.values())
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=0)
