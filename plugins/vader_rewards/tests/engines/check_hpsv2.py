"""The package hpsv2 against our HPSv2, in the package's own environment: run by the nox session `engines`."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vader import Prompt, RegistryError, Runtime, WeightsError
from vader.testing import RewardContract, Subject
from vader_rewards import hps_package
from vader_rewards.hps_package import HpsPackage
from vader_rewards.image_text import Hps

pytestmark = pytest.mark.filterwarnings("default")  # what another package warns of is not ours to judge
CPU = Runtime(torch.device("cpu"), torch.float32)
PROMPTS = [Prompt("a raccoon, playing guitar"), Prompt("Snow on a HILL at dusk")]
PACKAGE = Path(find_spec("hpsv2").submodule_search_locations[0])
VOCABULARY = PACKAGE.joinpath(*hps_package.VOCABULARY)


@pytest.fixture(scope="module", autouse=True)
def vocabulary():
    """The file that the package lacks, as the documentation says."""
    subprocess.run([sys.executable, "-m", "vader_rewards.hps_package"], check=True)
    yield
    VOCABULARY.unlink()


def eight_bit(height, width, clips=2, count=2, seed=0):
    """Frames that 8-bit images can hold."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (clips, count, 3, height, width), generator=generator) / 255


def test_without_the_vocabulary(tiny):
    """The trap: the published wheel cannot even be imported. We say which file, and where it is to be had."""
    away = VOCABULARY.with_name("away")
    VOCABULARY.rename(away)
    try:
        code = "import hpsv2.src.open_clip"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
        assert f"No such file or directory: '{VOCABULARY}'" in done.stderr
        with pytest.raises(
            RegistryError,
            match=r"comes without its vocabulary bpe_simple_vocab_16e6\.txt\.gz\. Run: python -m vader_re",
        ):
            HpsPackage(HpsPackage.Options(weights=str(tiny / "open_clip")), CPU)
    finally:
        away.rename(VOCABULARY)


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (90, 33), (20, 28), (224, 160)])
def test_scores_are_ours(tiny, size):
    """On the same weights and 8-bit frames, larger and smaller than the network's 32 and not square."""
    folder = str(tiny / "open_clip")
    frames = eight_bit(*size)
    theirs = HpsPackage(HpsPackage.Options(weights=folder), CPU).score(frames, PROMPTS)
    ours = Hps(Hps.Options(weights=folder), CPU).score(frames, PROMPTS)
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rounding_to_8_bits_is_what_remains(tiny):
    """Frames between the 256 steps: the package rounds them, and we do not."""
    folder = str(tiny / "open_clip")
    frames = (eight_bit(48, 80) * 0.99 + 0.0049).clamp(0, 1)
    theirs = HpsPackage(HpsPackage.Options(weights=folder), CPU).score(frames, PROMPTS)
    reward = Hps(Hps.Options(weights=folder), CPU)
    ours, rounded = reward.score(frames, PROMPTS), reward.score((frames * 255).round() / 255, PROMPTS)
    print(f"scores differ by {(ours - theirs).abs().max():.1e}, rounded by {(rounded - theirs).abs().max():.1e}")
    torch.testing.assert_close(rounded, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)
    assert not torch.equal(ours, theirs)


def test_it_is_what_the_package_says_itself(tiny, tmp_path, monkeypatch):
    """`hpsv2.score` of a file, with the tiny network in place of ViT-H-14, which it has by name alone."""
    import hpsv2
    from hpsv2 import img_score
    from hpsv2.src.open_clip import factory

    tensors = load_file(tiny / "open_clip" / "open_clip_model.safetensors")
    checkpoint = tmp_path / "tiny.pt"
    torch.save({"state_dict": tensors}, checkpoint)
    reward = HpsPackage(HpsPackage.Options(weights=str(tiny / "open_clip")), CPU)
    tiny_one = reward._network

    def create(name, pretrained, **options):
        assert (name, pretrained) == ("ViT-H-14", "laion2B-s32B-b79K")
        assert (options["light_augmentation"], options["output_dict"], options["force_quick_gelu"]) == (
            True,
            True,
            False,
        )
        theirs = factory.image_transform(
            tiny_one.visual.image_size, is_train=False, mean=None, std=None, resize_longest_max=True
        )
        tiny_one.output_dict = True
        return tiny_one, theirs, theirs

    monkeypatch.setattr(img_score, "create_model_and_transforms", create)
    monkeypatch.setattr(img_score.huggingface_hub, "hf_hub_download", lambda *_: str(checkpoint))
    monkeypatch.setattr(img_score, "root_path", str(tmp_path))
    frames = eight_bit(48, 80, clips=1, count=1)
    array = (frames[0, 0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(np.ascontiguousarray(array)).save(tmp_path / "frame.png")
    (said,) = hpsv2.score(str(tmp_path / "frame.png"), PROMPTS[0].text, hps_version="v2.1")
    assert reward.score(frames, PROMPTS[:1]).item() == pytest.approx(float(said), rel=1e-6)


def test_tokens_are_ours(tiny):
    import open_clip
    from hpsv2.src.open_clip import tokenize

    texts = ["", "A  cat &amp; a dog's bone", "naïve café — 東京", "word " * 100]
    assert torch.equal(tokenize(texts), open_clip.get_tokenizer("ViT-H-14")(texts))


def test_the_layout_of_the_published_weights(tiny):
    """Names and shapes of ViT-H-14 are open_clip's, so that one file serves both."""
    import open_clip
    from hpsv2.src.open_clip import CLIP, get_model_config

    with torch.device("meta"):
        theirs = CLIP(**get_model_config("ViT-H-14")).state_dict()
        ours = open_clip.create_model("ViT-H-14", pretrained=None, device="meta").state_dict()
    assert {name: t.shape for name, t in theirs.items()} == {name: t.shape for name, t in ours.items()}
    assert len(theirs) == 686


def test_a_run_is_refused_before_weights_are_loaded(tmp_path):
    """It has no gradient: as a reward to train on it is refused; in validation it is welcome."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "backbone: shapes\nprompts: shapes\nrewards: [{name: hps_package, options: {weights: /nowhere}}]\noutput: out\n"
    )
    command = [sys.executable, "-W", "ignore", "-m", "vader", "train", str(spec), "--trust-code"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "COLUMNS": "300"})
    assert done.returncode != 0
    assert "'hps_package' is not differentiable" in done.stderr + done.stdout


def test_bad_weights(tiny, tmp_path):
    with pytest.raises(WeightsError, match=r"expected open_clip_config\.json"):
        HpsPackage(HpsPackage.Options(weights=str(tmp_path)), CPU)
    with pytest.raises(WeightsError, match="does not hold the weights of hpsv2's network"):
        HpsPackage(HpsPackage.Options(weights=str(tiny / "head.safetensors")), CPU)


class TestContract(RewardContract):
    @pytest.fixture
    def reward(self, tiny):
        return Subject("reward", "hps_package", {"weights": str(tiny / "open_clip")}, size=(24, 36))


def test_what_is_lost_of_a_long_prompt_changes_no_token(tiny):
    reward = HpsPackage(HpsPackage.Options(weights=str(tiny / "open_clip")), CPU)
    text = " ".join(["fox"] * 75)
    assert reward.cut_off(text) == ""
    assert reward.cut_off(text + " in the deep snow") == "in the deep snow"
    assert torch.equal(reward._tokenize([text]), reward._tokenize([text + " in the deep snow"]))
