"""Our preprocessing against each model's own processor, on the same image."""

import json

import pytest
import torch

from vader import WeightsError
from vader_rewards import detectors, pixels
from vader_rewards.detectors import prepare
from vader_rewards.towers import ClipVision

SIZES = [(240, 320), (333, 250), (96, 64), (40, 64), (224, 224), (301, 500)]


def smooth(height, width):
    """A picture without sharp edges: what is left of a difference is not that of rounding overshoots to 8 bits."""
    y, x = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 5, width), indexing="ij")
    return torch.stack([0.5 + 0.4 * torch.sin(a * x + b * y + c) for a, b, c in ((1, 2, 0), (2, 1, 1), (1, -1, 2))])


def processed(processor, image):
    """What a processor of transformers makes of a float image in [0, 1]."""
    return processor(images=[image], do_rescale=False, input_data_format="channels_first", return_tensors="pt")


class _Judge:
    """Only what `ClipVision` asks of a network before it is called."""

    class network:
        class config:
            image_size = 224
            projection_dim = 8


@pytest.mark.parametrize("size", SIZES)
def test_clip(size):
    from transformers import CLIPImageProcessor

    image = smooth(*size)
    ours = ClipVision(_Judge).prepare(image[None], "official")
    theirs = processed(CLIPImageProcessor(), image).pixel_values
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("height", [60, 133])
def test_clip_on_a_photograph(request, height):
    """8 bits in, 8 bits after each pass of the processor's resizing; ours never rounds: about a level apart."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor
    from transformers import CLIPImageProcessor

    photo = Image.open(request.config.rootpath / "tests" / "golden" / "rewards_photo_cat.jpg").crop((0, 0, 200, height))
    ours = ClipVision(_Judge).prepare(pil_to_tensor(photo)[None] / 255, "official")
    theirs = CLIPImageProcessor()(images=[photo], return_tensors="pt").pixel_values
    difference = (ours - theirs).abs() * torch.tensor(pixels.CLIP_STD).view(3, 1, 1)
    assert difference.mean() < 1.5e-3
    assert difference.max() < 3 / 255


@pytest.mark.parametrize("size", SIZES)
def test_clip_of_the_reference_squeezes(size):
    from torchvision.transforms import Normalize, Resize

    image = smooth(*size)[None]
    ours = ClipVision(_Judge).prepare(image, "reference")
    theirs = Normalize(pixels.CLIP_MEAN, pixels.CLIP_STD)(Resize((224, 224))(image))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_pickscore_is_the_reference_and_the_processor(size):
    """`PickScore` has no option: the two agree where nothing overshoots."""
    from transformers import CLIPImageProcessor

    image = smooth(*size)
    ours = pixels.center_crop(pixels.short_side(image[None], 224, "bicubic"), 224)
    ours = pixels.normalise(ours, pixels.CLIP_MEAN, pixels.CLIP_STD)
    assert (ours - processed(CLIPImageProcessor(), image).pixel_values).abs().max() < 1e-3


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_open_clip(size, resize_mode):
    from open_clip.transform import image_transform
    from torchvision.transforms import ToPILImage

    from vader_rewards.towers import OpenClip

    image = smooth(*size).mul(255).round().div(255)
    transform = image_transform(224, is_train=False, resize_mode=resize_mode, interpolation="bicubic")
    theirs = image
    if resize_mode == "longest":  # this one step takes 8-bit pictures alone
        theirs = transform(ToPILImage()(image))
    else:
        for step in transform.transforms:  # without the conversions from and to 8-bit pictures
            theirs = step(theirs) if isinstance(step, torch.nn.Module) else theirs
    tower = object.__new__(OpenClip)
    tower.preprocess = {
        "size": 224,
        "mean": pixels.CLIP_MEAN,
        "std": pixels.CLIP_STD,
        "resize_mode": resize_mode,
        "interpolation": "bicubic",
    }
    ours = tower.official(image[None])[0]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < (0.03 if resize_mode == "longest" else 1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_hps_fits_inside(size):
    """hpsv2's ``ResizeMaxSize``: longer side to 224, sides rounded, black bars. Written out: hpsv2 pins too much."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import pad, resize

    image = smooth(*size)
    new = [round(side * 224 / max(size)) for side in size]
    theirs = resize(image, new, InterpolationMode.BICUBIC)
    down, across = 224 - new[0], 224 - new[1]
    theirs = pad(theirs, [across // 2, down // 2, across - across // 2, down - down // 2], fill=0)
    torch.testing.assert_close(pixels.fit_inside(image[None], 224, "bicubic")[0], theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["yolos", "grounding_dino"])
@pytest.mark.parametrize("size", [(240, 320), (333, 250), (96, 64), (300, 900)])
def test_detectors(size, kind):
    from transformers import GroundingDinoImageProcessor, YolosImageProcessor

    sizes = {"shortest_edge": 200, "longest_edge": 333}
    image = smooth(*size)
    processor = (YolosImageProcessor if kind == "yolos" else GroundingDinoImageProcessor)(size=sizes, do_pad=False)
    theirs = processed(processor, image).pixel_values
    ours = prepare(image[None], "official", sizes, 16 if kind == "yolos" else 1)
    assert ours.shape == torch.stack(list(theirs)).shape
    assert (ours - torch.stack(list(theirs))).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"size": 512, "max_size": 864}, (512, 864)),
        ({"size": 512}, (512, 1333)),
        ({"size": {"shortest_edge": 512, "longest_edge": 864}}, (512, 864)),
        ({"size": {"shortest_edge": 512}}, (512, 10**6)),
        ({}, (800, 1333)),
    ],
)
@pytest.mark.parametrize("asked", [None, 256])
def test_the_sizes_of_a_detectors_processor(tmp_path, said, wanted, asked):
    """As transformers reads them, old and new; another shorter side keeps the proportion."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    found = detectors._size(tmp_path, "mine", asked)
    shortest = asked or wanted[0]
    assert found == {"shortest_edge": shortest, "longest_edge": shortest * wanted[1] // wanted[0]}


@pytest.mark.parametrize("size", [(240, 320), (300, 900)])
def test_an_old_detectors_pictures_are_those_of_transformers(tmp_path, size):
    from transformers import YolosImageProcessor

    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": 128, "max_size": 216, "do_pad": False, "image_processor_type": "YolosImageProcessor"})
    )
    image = smooth(*size)
    theirs = torch.stack(list(processed(YolosImageProcessor.from_pretrained(tmp_path), image).pixel_values))
    ours = prepare(image[None], "official", detectors._size(tmp_path, "mine", None), 16)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize(
    "said", [{"height": 512, "width": 512}, "512", {"shortest_edge": 0}, {"shortest_edge": "x"}, -3]
)
def test_sizes_that_are_none_are_refused(tmp_path, said):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": said}))
    with pytest.raises(WeightsError, match=r"mine: preprocessor_config\.json says size: "):
        detectors._size(tmp_path, "mine", None)


@pytest.mark.parametrize("size", SIZES)
def test_videomae(size):
    from transformers import VideoMAEImageProcessor

    image = smooth(*size)
    theirs = VideoMAEImageProcessor(image_mean=pixels.IMAGENET_MEAN, image_std=pixels.IMAGENET_STD)(
        [list(image[None])], do_rescale=False, input_data_format="channels_first", return_tensors="pt"
    ).pixel_values[0]
    ours = pixels.crop_of_short_side(image[None], 224, "bilinear")
    ours = pixels.normalise(ours, pixels.IMAGENET_MEAN, pixels.IMAGENET_STD)
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_vjepa(size):
    from transformers import VJEPA2VideoProcessor

    image = smooth(*size)
    theirs = VJEPA2VideoProcessor()(image[None], do_rescale=False, return_tensors="pt").pixel_values_videos[0]
    ours = pixels.center_crop(pixels.short_side(image[None], int(256 * 256 / 224), "bilinear"), 256)
    ours = pixels.normalise(ours, pixels.IMAGENET_MEAN, pixels.IMAGENET_STD)
    assert (ours - theirs).abs().max() < 1e-3


def test_evenly():
    clip = torch.arange(5.0).view(1, 5, 1, 1, 1)
    assert pixels.evenly(clip, 3).flatten().tolist() == [0, 2, 4]
    assert pixels.evenly(clip, 5) is clip
    assert pixels.evenly(clip[:, :1], 4).flatten().tolist() == [0, 0, 0, 0]
    assert pixels.evenly(clip[:, :2], 4).flatten().tolist() == [0, 0, 1, 1]


def test_videomae_takes_the_mean_of_its_checkpoint(tiny, tmp_path, cpu):
    """Checkpoints of VideoMAE differ in it; the one of the golden numbers says nothing, which means ImageNet's."""
    import json
    import shutil

    from vader import Prompt
    from vader_rewards.action import Action

    folder = shutil.copytree(tiny / "videomae", tmp_path / "videomae")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pixels.IMAGENET_MEAN, pixels.IMAGENET_STD))
    clip = (mean + 0.25 * (smooth(32, 32) - 0.5))[None, None]

    def score(image):
        options = Action.Options(weights=str(folder), action="jogging")
        return Action(options, cpu).score(image, [Prompt("x")])

    plain = score(clip)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert abs(score(clip) - plain) > 1e-3
    torch.testing.assert_close(score((clip - mean) / std * 0.5 + 0.5), plain, atol=1e-4, rtol=0)
