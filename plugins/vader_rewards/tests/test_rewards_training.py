"""Rewards inside a run: two of them train, both raw scores are logged; real names fail at the download alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vader
from vader.cli import app as cli

ROOT = Path(__file__).resolve().parents[3]


def steps(folder):
    """The log of each optimizer step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def train(monkeypatch, capsys):
    """``train(file, overrides...)`` is the command ``vader train``: exit code, output, errors."""
    pytest.importorskip("vader_shapes")
    monkeypatch.setenv("COLUMNS", "200")

    def call(file, *overrides):
        arguments = [argument for override in overrides for argument in ("--set", override)]
        monkeypatch.setattr(sys, "argv", ["vader", "train", str(file), *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def test_aesthetic_and_hps_train_the_shapes_model(tmp_path, options, train):
    """The example of aesthetic_hps on tiny weights: both raw scores are logged, and they make the loss.

    With every aesthetic score below its target of 10, the loss is 0.075 (10 - aesthetic) - 0.5 hps in the mean.
    """
    run = tmp_path / "run"
    code, out, err = train(
        ROOT / "examples" / "rewards_aesthetic_hps.yaml",
        *(f"rewards.0.options.{key}={value}" for key, value in options["aesthetic"].items()),
        *(f"rewards.1.options.{key}={value}" for key, value in options["hps"].items()),
        *("train.steps=3", "train.batch_size=2", "sampler.steps=3", "train.device=cpu", f"output={run}"),
        *("validation.clips=4", "validation.save_clips=0", "validation.batch_size=4"),
    )
    assert code == 0, err
    rows = steps(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        expected = 0.075 * (10 - row["score/aesthetic"]) - 0.5 * row["score/hps"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
        assert row["reward"] == pytest.approx(-expected, rel=1e-5)
        assert row["grad_norm"] > 0
    assert len({row["score/aesthetic"] for row in rows}) == 3
    table = [line.split() for line in out.splitlines() if "aesthetic" in line or "hps" in line]
    assert any("aesthetic" in line for line in table)
    assert any("hps" in line for line in table)


def test_real_names_fail_at_the_download_alone(tmp_path):
    """The spec with its real names, which test_examples_are_sound checks, without a connection."""
    pytest.importorskip("vader_shapes")
    example, run = str(ROOT / "examples" / "rewards_aesthetic_hps.yaml"), tmp_path / "run"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}

    command = [sys.executable, "-m", "vader", "train", example, f"--set=output={run}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert "hf download trl-lib/ddpo-aesthetic-predictor aesthetic-model.pth" in said
    assert "HF_HUB_OFFLINE" in said
    assert not list(run.rglob("*.safetensors"))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("rewards_*.yaml")), ids=lambda path: path.name)
def test_examples_are_sound(path):
    pytest.importorskip("vader_shapes")
    vader.check(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_examples_exist():
    assert {path.name for path in (ROOT / "examples").glob("rewards_*.yaml")} >= {
        "rewards_aesthetic_hps.yaml",
        "rewards_imagenet.yaml",
        "rewards_ocr_text.yaml",
    }
