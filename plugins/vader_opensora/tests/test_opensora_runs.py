"""Whole runs on the tiny model: gradient windows, resuming, two processes, precision."""

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

ROOT = Path(__file__).resolve().parents[3]
PROMPTS = ["a red fox", "a blue bird", "rain"]
SLOW = pytest.mark.slow
"""A window of one step is also what the other plugins' runs have."""
LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def spec(folder, output, k=1, **train):
    """Clips of 5 frames in 4 steps, of which the last ``k`` carry gradient."""
    options = {"weights": str(folder), "resolution": "144p", "aspect_ratio": "1:1", "length": 5}
    return {
        "backbone": {"name": "opensora", "options": options, "adapter": {"rank": 2, "dropout": 0.1}},
        "sampler": {"steps": 4, "guidance_scale": 7.0},
        "prompts": {"name": "list", "options": {"prompts": PROMPTS}},
        "rewards": [{"name": f"{ROOT / 'tests' / 'fakes.py'}:Brightness", "label": "brightness"}],
        "gradient": {"mode": "tail", "k": k},
        "frames": {"mode": "random"},
        "train": {
            "steps": 3,
            "learning_rate": 0.03,
            "device": "cpu",
            "checkpoint_every": 1,
            "gradient_checkpointing": True,
            **train,
        },
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


class CrashAtStep2:
    @vader.hookimpl
    def vader_step_finished(self, step):
        if step == 2:
            raise Crash


@pytest.fixture(scope="module", params=[pytest.param(1, marks=SLOW), 4], ids=["k1", "k4"])
def run(request, folder, tmp_path_factory):
    """K and the folder of a run that was never interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    vader.train(spec(folder, output, request.param))
    return request.param, output


def test_trains(run):
    k, output = run
    lines = metrics(output)
    assert [line["gradient/k"] for line in lines] == [k] * 3
    assert all(line["grad_norm"] > 0 and not line["skipped"] for line in lines)
    assert all(tensor.any() for name, tensor in adapter(output).items() if "lora_B" in name)


def test_resumes_bit_equal(folder, run, tmp_path):
    k, output = run
    made = spec(folder, tmp_path / "run", k)
    with pytest.raises(Crash):
        vader.train(made, listeners=[CrashAtStep2()])
    vader.train(made, resume=True)
    assert metrics(tmp_path / "run") == metrics(output)
    found, expected = adapter(tmp_path / "run"), adapter(output)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 4])
def test_two_processes_do_what_one_does(folder, tmp_path, k):
    """Two processes with one clip each, through the command line, and one process with a batch of both."""
    written = tmp_path / "two.yaml"
    written.write_text(yaml.safe_dump(plain(spec(folder, tmp_path / "two", k, steps=2))), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHED}
    command = [sys.executable, "-m", "vader", "train", str(written), "--trust-code", "--processes", "2"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    vader.train(plain(spec(folder, tmp_path / "one", k, steps=2, batch_size=2)))
    found, expected = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    theirs = adapter(tmp_path / "one")
    for name, tensor in adapter(tmp_path / "two").items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=3e-4)  # 1 % of what a step moves a weight


def plain(made):
    """Without what each process draws for itself."""
    made["backbone"]["adapter"]["dropout"] = 0.0
    made["frames"] = {"mode": "index", "index": 2}
    return made


def test_training_raises_the_reward(folder, tmp_path):
    made = plain(spec(folder, tmp_path / "run", steps=6, learning_rate=0.1))
    made["prompts"]["options"]["prompts"] = PROMPTS[:1]
    before = brightness(made, None)
    vader.train(made)
    assert brightness(made, tmp_path / "run" / "adapter") > before + 0.003


def brightness(made, adapter):
    clips = vader.generate(made, PROMPTS[:1], seeds=(0, 1), adapter=adapter)
    return float(torch.stack([clip.frames[2] for clip in clips]).mean())


def test_precision(folder, tmp_path):
    """One optimizer step in bf16 has the loss of float32 within 2 %, and the norm of its gradient within 5 %."""
    lines = []
    for precision in ("no", "bf16"):
        output = tmp_path / precision
        vader.train(plain(spec(folder, output, steps=1, batch_size=2, mixed_precision=precision)))
        lines += metrics(output)
    for key, tolerance in (("loss", 0.02), ("grad_norm", 0.05)):
        assert lines[1][key] != lines[0][key]
        assert lines[1][key] == pytest.approx(lines[0][key], rel=tolerance), key


def test_a_bad_clip_is_said_before_weights_are_read(tmp_path):
    made = spec(tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(vader.SpecError, match="video: height 250 is set alone"):
        vader.check({**made, "video": {"height": 250}})
