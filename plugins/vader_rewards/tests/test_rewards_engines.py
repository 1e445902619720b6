"""Engines of `detection`, and hps_package, without their packages; what needs those is in engines/."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import vader
from vader import Prompt, RegistryError, SpecError, WeightsError
from vader.testing import RewardContract, Subject
from vader_rewards import detectors, pickled
from vader_rewards.detection import Detection
from vader_rewards.hps_package import HpsPackage


def absent(monkeypatch, *modules):
    """As if these packages were not installed."""
    from importlib.util import find_spec

    for place in ("extras", "groundingdino_package", "hps_package"):
        monkeypatch.setattr(
            f"vader_rewards.{place}.find_spec", lambda name: None if name in modules else find_spec(name)
        )


def test_a_missing_package_is_named(cpu, monkeypatch):
    """Before a weight is looked for."""
    absent(monkeypatch, "ultralytics", "groundingdino", "hpsv2")
    with pytest.raises(RegistryError, match=r"needs ultralytics.*pip install .*rewards\[ultralytics\]"):
        Detection(Detection.Options(engine="ultralytics", weights="/nowhere.pt"), cpu)
    with pytest.raises(RegistryError, match=r"needs groundingdino-py\. docs/how-to/environments\.md"):
        Detection(Detection.Options(engine="groundingdino", weights="/nowhere.pth"), cpu)
    with pytest.raises(RegistryError, match=r"needs the package hpsv2.*docs/how-to/environments\.md"):
        HpsPackage(HpsPackage.Options(weights="/nowhere.pt"), cpu)


def test_groundingdino_refuses_this_transformers(cpu, monkeypatch):
    from importlib.util import find_spec

    import transformers

    monkeypatch.setattr("vader_rewards.groundingdino_package.find_spec", lambda _: find_spec("torch"))
    with pytest.raises(RegistryError, match=rf"does not work with transformers {transformers.__version__}; .*4\.57\.6"):
        Detection(Detection.Options(engine="groundingdino", weights="/nowhere.pth"), cpu)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "ultralytics", "revision": "main"}, "those of ultralytics are a file"),
        ({"engine": "groundingdino", "revision": "main"}, "those of groundingdino are a file"),
        ({"engine": "ultralytics", "preprocess": "reference"}, "which has no ultralytics. Expected 'official'"),
        ({"engine": "yolos", "text_encoder": "bert"}, "text_encoder is for engine groundingdino; found yolos"),
        ({"preprocess": "reference", "size": 64}, "size 64 has no effect on preprocess 'reference'"),
        ({"engine": "yolo"}, "'yolos', 'grounding_dino', 'ultralytics' or 'groundingdino'"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValidationError) as raised:
        Detection.Options(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize(("size", "height", "width"), [(None, 64, 96), (32, 32, 48), (48, 48, 64)])
def test_size(tiny, cpu, monkeypatch, size, height, width):
    """The shorter side, the longer one's limit in proportion (96 / 64), both in steps of 16."""
    seen = []

    def prepare(images, *rest):
        seen.append(tuple(original(images, *rest).shape[-2:]))
        return original(images, *rest)

    original = detectors.prepare
    monkeypatch.setattr(detectors, "prepare", prepare)
    reward = Detection(Detection.Options(weights=str(tiny / "yolos"), object="book", size=size), cpu)
    assert reward.score(torch.rand(1, 1, 3, 40, 60), [Prompt("x")]).isfinite().all()
    assert seen == [(height, width)]


def test_hps_package_is_judged_before_anything_is_loaded(tmp_path):
    """It declares that it has no gradient: no package and no file is needed to refuse it."""
    spec = {
        "backbone": "shapes",
        "prompts": "shapes",
        "rewards": [{"name": "hps_package", "options": {"weights": "/nowhere.pt"}}],
        "output": str(tmp_path / "run"),
    }
    with pytest.raises(SpecError, match="'hps_package' is not differentiable"):
        vader.train(spec)


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return (self.call, self.arguments)


def test_a_pickled_module_is_read_without_running_it(tmp_path):
    """The tensors of its state dict, in order; code that it names stays asleep."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.SiLU())
    network.register_buffer("passing", torch.ones(1), persistent=False)
    mark = tmp_path / "evil"
    network.note = Evil(exec, f"import os; os.mkdir({str(mark)!r})")
    torch.save({"model": network, "epoch": 3}, tmp_path / "file.pt")
    found = pickled.read(tmp_path / "file.pt")
    assert found["epoch"] == 3
    assert isinstance(found["model"].state["note"], pickled.Inert)
    tensors = pickled.tensors(found["model"])
    expected = network.state_dict()
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["short", "text", "function", "pickle"])
def test_files_that_are_no_checkpoint(tmp_path, damage):
    path = tmp_path / "file.pt"
    torch.save({"model": torch.nn.Linear(2, 2) if damage != "function" else Evil(Path.mkdir, tmp_path / "evil")}, path)
    if damage == "short":
        path.write_bytes(path.read_bytes()[:-300])
    if damage == "text":
        path.write_text("<html>not found</html>")
    if damage == "pickle":
        torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"bytes\) is truncated, or not a file of torch\.save") as raised:
        pickled.read(path)
    assert "weights_only" not in str(raised.value)
    assert not (tmp_path / "evil").exists()


def test_what_is_no_module(tmp_path):
    torch.save({"model": Evil(print, "x"), "other": torch.nn.Linear(2, 2)}, tmp_path / "file.pt")
    with pytest.raises(TypeError, match="expected a module"):
        pickled.tensors(pickled.read(tmp_path / "file.pt")["model"])


class TestGroundingDino(RewardContract):
    """The engine of this environment that test_rewards_contract.py does not choose."""

    @pytest.fixture
    def reward(self, tiny):
        named = [Prompt("x", {"object": name}) for name in ("book", "dog", "person")]
        options = {"engine": "grounding_dino", "weights": str(tiny / "grounding_dino"), "threshold": 0.99}
        return Subject("reward", "detection", options, size=(24, 36), prompts=named)
