"""Likeness of clips to texts (X-CLIP) and to the image that a prompt begins with."""

from dataclasses import replace

import pytest
import torch

from vader import Prompt, SpecError, WeightsError
from vader_rewards import image_towers
from vader_rewards.image_fidelity import ImageFidelity
from vader_rewards.video_text import VideoText

PROMPTS = [Prompt("a red fox"), Prompt("two blue birds over a lake"), Prompt("rain")]


def clips(b=3, f=4, side=32):
    return torch.rand(b, f, 3, side, side, generator=torch.Generator().manual_seed(b))


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_video_text_is_the_cosine_of_xclip(tiny, cpu, chunk):
    """Each clip with its own text, without the network's scale."""
    from transformers import AutoTokenizer, XCLIPModel

    folder = str(tiny / "xclip")
    reward = VideoText(VideoText.Options(weights=folder, chunk=chunk), cpu)
    network = XCLIPModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)([p.text for p in PROMPTS], padding=True, return_tensors="pt")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = network(**tokens, pixel_values=(clips() - mean) / std).logits_per_video
    expected = logits.diagonal() / network.logit_scale.exp()
    torch.testing.assert_close(reward.score(clips(), PROMPTS), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 3, 9])
def test_video_text_takes_any_number_of_frames(tiny, cpu, frames):
    reward = VideoText(VideoText.Options(weights=str(tiny / "xclip")), cpu)
    assert reward.score(clips(f=frames, side=40), PROMPTS).abs().max() <= 1


def test_a_whole_network_is_asked_for(tiny, cpu):
    with pytest.raises(WeightsError, match="XCLIPModel"):
        VideoText(VideoText.Options(weights=str(tiny / "vjepa")), cpu)


def fidelity(tiny, cpu, tower, **options):
    return ImageFidelity(ImageFidelity.Options(weights=str(tiny / tower), **options), cpu)


@pytest.mark.parametrize("tower", ["dinov2", "clip"])
def test_a_clip_of_its_own_image_is_like_it(tiny, cpu, picture, tower):
    """1 for frames that are the image; the first frame and all frames have scores of their own."""
    path = picture(3, (32, 32))
    image = image_towers.picture(path)
    still = image[None].expand(1, 4, -1, -1, -1)
    reward = fidelity(tiny, cpu, tower)
    same = reward.score(still, [Prompt("x", image=path)])
    for name in ("score", "first", "all"):
        torch.testing.assert_close(same[name], torch.ones(1), atol=1e-5, rtol=0)
    turned = torch.cat([still[:, :1], clips(1, 3)], 1)
    found = reward.score(turned, [Prompt("x", image=path)])
    torch.testing.assert_close(found["first"], torch.ones(1), atol=1e-5, rtol=0)
    assert found["all"].item() < 0.999
    torch.testing.assert_close(found["score"], (found["first"] + found["all"]) / 2)
    first = fidelity(tiny, cpu, tower, dimensions={"first": 2.0}).score(turned, [Prompt("x", image=path)])
    torch.testing.assert_close(first["score"], 2 * found["first"])


def test_images_of_any_size_each_with_its_own_clip(tiny, cpu, picture):
    prompts = [replace(p, image=picture(i, (30 + 7 * i, 50))) for i, p in enumerate(PROMPTS)]
    reward = fidelity(tiny, cpu, "dinov2")
    together = reward.score(clips(), prompts)["score"]
    alone = torch.cat([reward.score(clips()[i : i + 1], prompts[i : i + 1])["score"] for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_prompts_without_an_image_that_can_be_read(tiny, cpu, tmp_path):
    reward = fidelity(tiny, cpu, "dinov2")
    with pytest.raises(SpecError, match="prompt 'a red fox' has no image; image_fidelity compares"):
        reward.score(clips(1), PROMPTS[:1])
    path = tmp_path / "no.png"
    path.write_text("no image")
    with pytest.raises(SpecError, match=r"no.png is no image that can be read.*Expected a PNG"):
        reward.score(clips(1), [Prompt("x", image=path)])
    with pytest.raises(SpecError, match="is no image that can be read"):
        reward.score(clips(1), [Prompt("x", image=tmp_path / "absent.png")])


def test_another_tower(tiny, cpu):
    with pytest.raises(WeightsError, match=r"is a vjepa2; expected a dinov2 or a clip"):
        fidelity(tiny, cpu, "vjepa")
    with pytest.raises(ValueError, match="last is none of them; expected weights of some of first, all"):
        ImageFidelity.Options(dimensions={"last": 1.0})
