"""Image-to-video from the command line, on tiny Wans: judged, trained, resumed, generated, reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tests.integration.harness import HERE, assert_same_adapter, command, records, tiny

from vader_diffusers import tiny as tiny_models

PROMPTS = "- {text: a fox, image: fox.png}\n- {text: a boat, image: boat.png}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, pictures and a file of prompts."""
    folder = tmp_path_factory.mktemp("i2v")
    for name in ("wan22_i2v", "wan22_ti2v"):
        tiny_models.write(folder / name, 0, name)
    for name, colour in (("fox", "orange"), ("boat", "navy")):
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
    (folder / "prompts.yaml").write_text(PROMPTS)
    return folder


def spec(folder: Path, output: Path, name: str = "wan22_i2v", **changes: Any) -> dict[str, Any]:
    backbone = {"name": name, "options": {"weights": str(folder / name)}, "adapter": {"rank": 2, "dropout": 0.1}}
    prompts = {"name": "file", "options": {"path": str(folder / "prompts.yaml")}}
    made = tiny(output, video={"frames": 5, "height": 32, "width": 32}, sampler={"steps": 3, "guidance_scale": 2.0})
    made |= {"backbone": backbone, "prompts": prompts, "gradient": {"mode": "tail", "k": 3}, "frames": {"mode": "all"}}
    made["train"] |= {"steps": 2, "warmup_steps": 0, "checkpoint_every": 1}
    return {**made, "validation": {"clips": 2, "batch_size": 2}, **changes}


def write(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_run_trains_resumes_generates_and_shows_its_images(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    path = write(tmp_path / "spec.yaml", spec(folder, whole))
    code, _, wrong = command(monkeypatch, capsys, "train", path)
    assert code == 0, wrong
    for more in (["--set", "train.steps=1"], ["--resume"]):
        code, _, wrong = command(monkeypatch, capsys, "train", path, "--set", f"output={halved}", *more)
        assert code == 0, wrong
    assert_same_adapter(whole / "adapter", halved / "adapter")
    assert records(whole)[-1] == records(halved)[-1]
    assert {file.name for file in (whole / "adapter").glob("pytorch*")} == {
        "pytorch_lora_weights.safetensors",
        "pytorch_lora_weights_2.safetensors",
    }
    report = (whole / "report.html").read_text()
    assert report.count("Image given for: ") == 2
    given = ["-p", "a fox", "--image", folder / "fox.png", "-o", tmp_path / "clips", "--file-type", "png"]
    code, _, wrong = command(monkeypatch, capsys, "generate", whole, *given)
    assert code == 0, wrong
    assert (tmp_path / "clips" / "clip-000-seed-0.png").is_file()
    code, _, wrong = command(monkeypatch, capsys, "generate", whole, "-p", "a fox", "-o", tmp_path / "clips")
    assert code == 2
    assert "prompt 'a fox' has no image; the model makes clips that begin with one" in wrong


@pytest.mark.parametrize(
    ("name", "prompts", "message"),
    [
        ("wan22_i2v", ["a fox"], "backbone 'wan22_i2v': prompt 'a fox' has no image"),
        ("wan22_i2v", [{"text": "a", "image": "no.png"}], "prompts.0: the image 'no.png' cannot be read"),
        ("shapes", [{"text": "a", "image": HERE}], "cannot be read"),
    ],
)
def test_images_are_judged_before_weights_are_loaded(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    prompts: list[Any],
    message: str,
) -> None:
    listed = {"name": "list", "options": {"prompts": prompts}}
    data = spec(tmp_path, tmp_path / "run", name, prompts=listed)
    code, _, wrong = command(monkeypatch, capsys, "train", write(tmp_path / "spec.yaml", data), "--dry-run")
    assert code == 2
    assert message in wrong


def test_text_to_video_refuses_an_image(folder: Path, tmp_path: Path) -> None:
    import vader

    data = spec(folder, tmp_path, "wan", prompts={"name": "file", "options": {"path": str(folder / "prompts.yaml")}})
    with pytest.raises(vader.SpecError, match=r"backbone 'wan': prompt 'a fox' has the image .*And so 1 more"):
        vader.check(data)
    data["backbone"] |= {"name": "wan22_ti2v"}
    data["video"] = {"frames": 5, "height": 32, "width": 32}
    vader.check(data)
