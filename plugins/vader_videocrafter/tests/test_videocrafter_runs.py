"""Whole runs on the tiny checkpoint, and the recipes of the examples folder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import vader
from vader.resolve.components import ResolvedComponent
from vader.resolve.conversion import convert_adapter
from vader_videocrafter.backbone import VideoCrafter2, VideoCrafter2Options

ROOT = Path(__file__).resolve().parents[3]
FAKES = ROOT / "tests" / "fakes.py"
ADAPTER = "adapter/adapter_model.safetensors"


def part(weights):
    return ResolvedComponent("backbone", "videocrafter2", VideoCrafter2, VideoCrafter2Options(weights=str(weights)))


@pytest.fixture
def spec(tiny_file, tmp_path):
    """``spec(name, **train)``: an alignment of seconds, with all that the reference's settings have."""

    def spec(name, adapter=None, **train):
        return {
            "backbone": {
                "name": "videocrafter2",
                "options": {"weights": str(tiny_file())},
                "adapter": adapter or {"rank": 2, "alpha": 8, "dropout": 0.01},
            },
            "video": {"frames": 2, "height": 16, "width": 16},
            "sampler": {"steps": 2, "guidance_scale": 3.0, "eta": 1.0},
            "prompts": {"name": "list", "options": {"prompts": ["a red circle", "a blue square"]}},
            "rewards": [{"name": f"{FAKES}:Brightness"}],
            "gradient": {"mode": "last"},
            "frames": {"mode": "random"},
            "train": {"steps": 2, "device": "cpu", "checkpoint_every": 1, "learning_rate": 0.01, **train},
            "validation": {"clips": 0},
            "output": str(tmp_path / name),
        }

    return spec


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    own = ("time/", "memory/", "communication/", "cost/flops", "cost/energy_joules")
    return [{k: v for k, v in line.items() if not k.startswith(own)} for line in lines]


class Stop:
    """A signal after the first optimizer step."""

    @vader.hookimpl
    def vader_step_finished(self, step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_train_stop_and_resume_is_bit_equal(spec, tmp_path):
    assert vader.train(spec("whole")).step == 2
    assert vader.train(spec("parts"), listeners=[Stop()]).stopped == "SIGTERM"
    assert vader.train(spec("parts"), resume=True).step == 2
    whole, parts = (load_file(tmp_path / name / ADAPTER) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(tensor.abs().max() > 0 for name, tensor in whole.items() if "lora_B" in name), "nothing was learnt"
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_doubled_batch(spec, tmp_path):
    one = spec("one", adapter={"rank": 2, "alpha": 8}, batch_size=2, steps=1)
    two = spec("two", adapter={"rank": 2, "alpha": 8}, steps=1)
    for made in (one, two):
        made["frames"] = {"mode": "all"}
    vader.train(one)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two))
    launcher = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION")
    environment = {key: value for key, value in os.environ.items() if key not in launcher}
    command = [sys.executable, "-m", "vader", "train", str(tmp_path / "two.yaml"), "--trust-code", "--processes", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, pair = (load_file(tmp_path / name / ADAPTER) for name in ("one", "two"))
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    for name, tensor in alone.items():
        torch.testing.assert_close(pair[name], tensor, rtol=1e-3, atol=1e-4)
    assert records(tmp_path / "two")[0]["loss"] == pytest.approx(records(tmp_path / "one")[0]["loss"], rel=1e-5)


def test_one_step_in_bf16_is_within_two_percent(spec, tmp_path):
    for precision in ("no", "bf16"):
        vader.train(spec(precision, steps=1, mixed_precision=precision, gradient_checkpointing=True))
    exact, rounded = (records(tmp_path / name)[0] for name in ("no", "bf16"))
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.02)
    assert rounded["loss"] != exact["loss"]


@pytest.mark.slow
def test_generate_with_a_trained_and_an_imported_adapter(spec, tmp_path, tiny_file):
    vader.train(spec("run"))
    prompts = ["a fox", "a hen"]
    base = vader.generate(spec("x"), prompts)
    zero = vader.generate(tmp_path / "run", prompts, adapter_scale=0.0)
    full = vader.generate(tmp_path / "run", prompts, output=tmp_path / "clips", file_type="gif", grid=True)
    convert_adapter(part(tiny_file()), tmp_path / "run" / "adapter", tmp_path / "out.pt")
    convert_adapter(part(tiny_file()), tmp_path / "out.pt", tmp_path / "back")
    back = vader.generate(spec("x"), prompts, adapter=tmp_path / "back")
    published = vader.generate(spec("x"), prompts, adapter=tmp_path / "out.pt")
    for one, other, changed, again, direct in zip(base, zero, full, back, published, strict=True):
        assert torch.equal(one.frames, other.frames), "scale 0 is the base model"
        assert not torch.equal(one.frames, changed.frames)
        assert torch.equal(changed.frames, again.frames), "the format loses nothing"
        assert torch.equal(changed.frames, direct.frames), "a published file loads as it is"
        assert one.frames.shape == (2, 3, 16, 16)
    assert sorted(path.suffix for path in (tmp_path / "clips").iterdir()) == [".gif"] * 3


def test_training_goes_on_from_a_published_adapter(spec, tmp_path, tiny_file):
    vader.train(spec("first", steps=1))
    convert_adapter(part(tiny_file()), tmp_path / "first" / "adapter", tmp_path / "it.pt")
    adapter = {"rank": 2, "alpha": 8, "init": str(tmp_path / "it.pt")}
    vader.train(spec("second", adapter=adapter, steps=1, learning_rate=1e-9))
    first, second = (load_file(tmp_path / name / ADAPTER) for name in ("first", "second"))
    assert any(tensor.abs().max() > 1e-3 for name, tensor in first.items() if "lora_B" in name)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=1e-6)


# -- recipes

BROUGHT = ROOT / "plugins" / "vader_videocrafter" / "src" / "vader_videocrafter" / "recipes"
RECIPES = sorted([*BROUGHT.glob("*.yaml"), ROOT / "examples" / "videocrafter2_generate.yaml"])
TERMS = {
    "videocrafter2-aesthetic-hps-16gb.yaml": lambda a: (1.5 * 0.1 * abs(a["aesthetic"] - 10) + (1 - a["hps"])) / 2,
    "videocrafter2-pickscore-16gb.yaml": lambda a: abs(1 - a["pickscore"] / 100),
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_sound_spec(path):
    """Judged whole, with stand-ins for the rewards and prompts of another plugin."""
    data = list(yaml.safe_load_all(path.read_text()))[-1]
    named = [reward.pop("name") for reward in data["rewards"]]
    for reward, name in zip(data["rewards"], named, strict=True):
        reward.pop("options", None)
        reward.update(name=f"{FAKES}:Brightness", label=name)
    data["prompts"] = {"name": "list", "options": {"prompts": ["a fox"]}}
    spec = vader.check(data)
    sampler, video, adapter = spec.sampler, spec.video, spec.backbone.adapter
    assert (sampler.name, sampler.steps, sampler.eta, sampler.guidance_scale) == ("videocrafter_ddim", 25, 1.0, 12.0)
    assert (video.height, video.width, video.fps) == (320, 512, 24)
    assert (adapter.rank, adapter.alpha) == (16, 8)
    if path.parent == BROUGHT:
        train = spec.train
        assert (video.frames, spec.gradient.mode, spec.frames.mode, adapter.dropout) == (12, "last", "random", 0.01)
        assert (train.steps, train.batch_size, train.gradient_accumulation) == (450, 1, 8)
        assert (train.learning_rate, train.max_grad_norm) == (2e-4, 1.0)
    else:
        assert video.frames == spec.backbone.options["max_frames"] == 24


@pytest.mark.parametrize("name", TERMS)
def test_a_recipes_loss_is_the_references(name):
    """Up to a constant: the difference between two sets of scores is the same."""
    from vader.methods.objective import Objective, Term

    rewards = list(yaml.safe_load_all((BROUGHT / name).read_text()))[-1]["rewards"]
    objective = Objective([Term(r["name"], r.get("weight", 1.0), r.get("target")) for r in rewards])

    def ours(scores):
        return float(objective.loss({key: torch.tensor([value]) for key, value in scores.items()}))

    low, high = {"aesthetic": 4.5, "hps": 0.21, "pickscore": 18.0}, {"aesthetic": 6.0, "hps": 0.3, "pickscore": 22.5}
    difference = TERMS[name](low) - TERMS[name](high)
    assert ours(low) - ours(high) == pytest.approx(difference, rel=1e-5)
    assert difference > 0


def test_there_are_recipes():
    assert {path.name for path in RECIPES} == {*TERMS, "videocrafter2_generate.yaml"}
