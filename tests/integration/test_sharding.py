"""Two processes that share out weights do what one does that holds them whole, with two micro-steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.golden_sets import GoldenSet
from tests.integration.harness import adapter, merged, python, records
from tests.integration.shard_runner import watched
from torch import Tensor

import vader
from vader_diffusers import tiny

VLM = GoldenSet.read("videoalign_a")
LAYERS, JUDGE = 5, 9
"""Blocks of an expert, and the most gatherings of the reward's blocks in an optimizer step."""
RUNS: dict[str, dict[str, Any]] = {
    "last": {"gradient": {"mode": "last"}},
    "tail-4": {"gradient": {"mode": "tail", "k": 4}},
    "tail-4-kept": {"gradient": {"mode": "tail", "k": 4, "recompute": False}},
    "tail-4-by-block": {"gradient": {"mode": "tail", "k": 4}, "train": {"gradient_checkpointing": True}},
}
"""Four steps, the first two of them the high expert's."""
pytestmark = pytest.mark.slow


def spec(output: Path, weights: Path, *changes: dict[str, Any]) -> dict[str, Any]:
    """Two experts, guidance, a vision-language model as reward, nothing clipped."""
    judge: dict[str, Any] = {"weights": str(VLM.folder("ckpt")), "base": str(VLM.folder("base"))}
    judge |= {"min_pixels": 3136, "max_pixels": 6272}
    made: dict[str, Any] = {
        "backbone": {"name": "wan22", "options": {"weights": str(weights)}, "adapter": {"rank": 2}},
        "prompts": {"name": "list", "options": {"prompts": ["a fox", "a boat"]}},
        "video": {"frames": 5, "height": 32, "width": 32, "fps": 8},
        "sampler": {"steps": 4, "guidance_scale": 3.0},
        "rewards": [{"name": "videoreward", "options": judge}],
        "frames": {"mode": "all"},
        "train": {"steps": 1, "device": "cpu", "learning_rate": 0.01, "max_grad_norm": 1e9},
        "validation": {"clips": 0},
        "output": str(output),
    }
    for change in changes:
        made = merged(made, change)
    return made


def sharded(strategy: str = "full") -> dict[str, Any]:
    return {"train": {"sharding": {"strategy": strategy, "rewards": True}}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("wan22") / "tiny", 0, "wan22", num_layers=LAYERS)


def launched(folder: Path, runs: list[dict[str, Any]]) -> Path:
    """Runs of two processes, in one start."""
    (folder / "runs.json").write_text(json.dumps(runs))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = python([*launcher, "-m", "tests.integration.shard_runner", str(folder / "runs.json"), str(folder)])
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """All runs of two processes."""
    folder = tmp_path_factory.mktemp("pair")
    runs = [
        {"name": name, "spec": spec(folder / name, weights, change, sharded()), "resume": False}
        for name, change in RUNS.items()
    ]
    runs.append({"name": "whole", "spec": spec(folder / "whole", weights, RUNS["last"]), "resume": False})
    other, two = folder / "other-way", {"train": {"steps": 2}}
    runs.append({"name": "begun", "spec": spec(other, weights, RUNS["last"]), "resume": False})
    runs.append({"name": "other-way", "spec": spec(other, weights, RUNS["last"], two, sharded()), "resume": True})
    validation = {"validation": {"clips": 3, "save_clips": 1, "batch_size": 1}}  # one more than the processes share
    hybrid = spec(folder / "hybrid", weights, RUNS["last"], sharded("hybrid"), validation)
    runs.append({"name": "hybrid", "spec": hybrid, "resume": False})
    return launched(folder, runs)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """By rank."""
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Relative to the whole gradient's norm."""
    first, second = (torch.cat([tensor.double().flatten() for tensor in tensors]) for tensors in (one, other))
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("name", RUNS)
def test_gradients_are_those_of_one_process(pair: Path, weights: Path, tmp_path: Path, name: str) -> None:
    first, second = read(pair, name)
    assert all(torch.equal(a, b) for a, b in zip(first["gradients"][0], second["gradients"][0], strict=True))
    alone = watched(spec(tmp_path / "one", weights, RUNS[name], {"train": {"gradient_accumulation": 2}}))
    assert alone["whole"] == alone["peak"] == first["whole"]
    assert distance(first["gradients"][0], alone["gradients"][0]) <= 1e-5
    assert first["gradients"][0]
    assert first["peak"] <= 0.6 * first["whole"], (first["peak"], first["whole"])
    for two, one in zip(records(pair / name), records(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_the_adapter_is_that_of_whole_weights(pair: Path) -> None:
    """The same names and numbers, for peft and for diffusers; so are hybrid sharding's, and its validation's clips."""
    for file in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        whole = load_file(pair / "whole" / "adapter" / file)
        for name in ("last", "hybrid"):
            found = load_file(pair / name / "adapter" / file)
            assert found.keys() == whole.keys()
            for key, tensor in whole.items():
                torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)
    assert read(pair, "whole")[0]["peak"] == read(pair, "whole")[0]["whole"]


def test_plain_diffusers_makes_the_clips_of_a_sharded_run(pair: Path, weights: Path) -> None:
    """Adapters of both experts, loaded by the pipeline's own ``load_lora_weights``."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    from vader.diffusion.rollout import ClipNoise
    from vader.runs.session import open_session

    run = pair / "tail-4"
    context = open_session(run, (), None, scored=False).context
    pipeline = WanPipeline.from_pretrained(weights)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=context.backbone.schedule.shift)
    noise = ClipNoise([7], context.backbone.latent_shape(context.video), torch.device("cpu"), torch.float32).draw()

    def theirs() -> Tensor:
        video = pipeline(
            "a fox", negative_prompt="", height=32, width=32, num_frames=5, num_inference_steps=4, guidance_scale=3.0,
            guidance_scale_2=3.0, latents=noise.clone(), output_type="pt",
        ).frames  # fmt: skip
        return torch.as_tensor(video)[0].cpu()

    base = theirs()
    names = {"pytorch_lora_weights.safetensors": False, "pytorch_lora_weights_2.safetensors": True}
    assert {path.name for path in (run / "adapter").glob("pytorch_lora_weights*")} == set(names)
    for name, second in names.items():
        pipeline.load_lora_weights(run / "adapter", weight_name=name, load_into_transformer_2=second)
    (ours,) = vader.generate(run, ["a fox"], seeds=[7])
    assert (theirs() - ours.frames).abs().max() <= 1e-5
    assert (ours.frames - base).abs().max() > 1e-3, "the adapter does nothing, so nothing was compared"


def test_either_resumes_the_other(pair: Path, weights: Path, tmp_path: Path) -> None:
    """What two processes with shares have written, one with whole weights takes up, and the other way round."""
    folder = shutil.copytree(pair / "last", tmp_path / "run")
    result = vader.train(spec(folder, weights, RUNS["last"], {"train": {"steps": 2}}), resume=True)
    assert result.step == 2
    one, other = records(folder), records(pair / "other-way")
    assert len(one) == len(other) == 2
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    assert one[0]["reward"] != one[1]["reward"]


def test_what_processes_send(pair: Path) -> None:
    """Gradients go once, all adapters in float32. The blocks of an expert are gathered once in a call without
    gradient, and three times in one that is made again in backward."""
    lines = [json.loads(line) for line in (pair / "last" / "metrics.jsonl").read_text().splitlines()]
    sizes = [tensor.numel() * 4 for tensor in adapter(pair / "whole" / "adapter").values()]
    assert lines[0]["communication/gradient_bytes"] == sum(sizes)
    judge = read(pair, "last")[0]["gathers"][0] - LAYERS * (3 + 3)
    assert 0 < judge <= JUDGE, "the reward's blocks, forward and backward"
    assert read(pair, "tail-4")[0]["gathers"][0] == LAYERS * 12 + judge
    assert read(pair, "whole")[0]["gathers"] == (0, 0)


def test_what_processes_send_for_a_call_that_is_kept(pair: Path) -> None:
    """The blocks are gathered twice."""
    assert LAYERS * 8 <= read(pair, "tail-4-kept")[0]["gathers"][0] <= LAYERS * 8 + JUDGE
