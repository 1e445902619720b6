"""Engine `ultralytics` of `detection`, where that package is installed: run by the nox session `engines`."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vader import Prompt, Runtime, WeightsError
from vader.testing import RewardContract, Subject
from vader_rewards import pickled
from vader_rewards.detection import Detection
from vader_rewards.ultralytics_package import checkpoint, letterbox

pytestmark = pytest.mark.filterwarnings("default")  # what another package warns of is not ours to judge
KINDS = ("yolov8n.yaml", "yolo11n.yaml", "yolov10n.yaml", "yolo26n.yaml")  # the last two need no suppression
NAMES = {0: "person", 1: "dog", 2: "book", 3: "traffic light"}
BOOK = [Prompt("a book")]


def write(kind, path, names=NAMES, size=96):
    """A random network that is sure of something here and there, saved as the package saves its own."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    yolo = YOLO(kind)
    yolo.model.names = names
    if len(names) != yolo.model.model[-1].nc:
        yolo.model = type(yolo.model)(kind, nc=len(names), verbose=False)
        yolo.model.names = names
    network = yolo.model.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.6 * parameter[0].numel() ** -0.5)
        head = network.model[-1]
        raw = network(torch.rand(4, 3, 64, 96))[1]
        for branch, layers in (("one2many", head.cv3), ("one2one", getattr(head, "one2one_cv3", ()))):
            for layer in layers:
                layer[-1].weight /= raw.get(branch, raw)["scores"].std()
                layer[-1].bias.zero_()
    yolo.ckpt = {"train_args": {"imgsz": size}}
    yolo.save(path)
    return str(path)


@pytest.fixture(scope="module", params=KINDS)
def weights(request, tmp_path_factory):
    return write(request.param, tmp_path_factory.mktemp("yolo") / "tiny.pt")


def reward(weights, dtype=torch.float32, **options):
    chosen = {"engine": "ultralytics", "weights": weights, "object": "book", "goal": "favour", **options}
    return Detection(Detection.Options(**chosen), Runtime(torch.device("cpu"), dtype))


def image(seed=0, height=64, width=96):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def frames(array, dtype=torch.float32):
    return torch.from_numpy(array).permute(2, 0, 1)[None, None].to(dtype) / 255


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_scores_are_the_packages_own(weights, threshold):
    """`YOLO.predict` on the same image; frames go in as 8-bit images in BGR."""
    from ultralytics import YOLO

    predictor, ours = YOLO(weights), reward(weights, threshold=threshold, below="zero")
    compared = 0
    for seed in range(4):
        array = image(seed)
        bgr = np.ascontiguousarray(array[..., ::-1])
        (found,) = predictor.predict(bgr, imgsz=96, conf=threshold, iou=0.7, verbose=False, max_det=3000)
        sure = found.boxes.conf[found.boxes.cls == 2]
        expected = sure.mean().item() if len(sure) else 0.0
        compared += len(sure)
        assert ours.score(frames(array), BOOK).item() == pytest.approx(expected, abs=2e-4)
    assert compared > 0


@pytest.mark.parametrize("shape", [(40, 96), (96, 40), (100, 150), (31, 77), (64, 64), (1, 300)])
def test_letterbox_is_the_packages_own(shape):
    from ultralytics.data.augment import LetterBox

    array = image(1, *shape)
    theirs = LetterBox(96, auto=True, stride=32)(image=array)
    ours = letterbox(frames(array)[0], 96, 32)[0].permute(1, 2, 0)
    assert ours.shape == theirs.shape
    assert (ours * 255 - torch.from_numpy(theirs)).abs().max() < 1.01


def test_gradient_against_finite_differences(weights):
    """In float64, along a random direction, on frames that are resized and not square."""
    ours = reward(weights, torch.float64)
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(2, 2, 3, 40, 72, dtype=torch.float64, generator=generator).requires_grad_()
    (gradient,) = torch.autograd.grad(ours.score(start, BOOK * 2).sum(), start)
    assert (gradient.abs().amax((2, 3, 4)) > 0).all()
    direction = torch.randn(start.shape, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        ahead, behind = (ours.score(start + s * 1e-7 * direction, BOOK * 2).sum() for s in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / 2e-7, rtol=1e-4, atol=1e-9)


def test_a_gradient_when_nothing_is_found(weights):
    start = frames(image()).requires_grad_()
    assert reward(weights, threshold=0.999, below="zero").score(start, BOOK).item() == 0
    soft = reward(weights, threshold=0.999).score(start, BOOK)
    (gradient,) = torch.autograd.grad(soft.sum(), start)
    assert 0 < soft.item() < 1
    assert gradient.abs().max() > 0
    assert reward(weights, threshold=0.999, goal="remove").score(start, BOOK).item() == pytest.approx(1 - soft.item())


def test_ascent_raises_the_score(weights):
    ours = reward(weights)
    pixels = frames(image(2)).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.01)
    first = ours.score(pixels, BOOK).item()
    for _ in range(30):
        optimizer.zero_grad()
        (-ours.score(pixels, BOOK).sum()).backward()
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    assert ours.score(pixels, BOOK).item() > first + 0.05


def test_names_of_classes(weights):
    """They come from the checkpoint; near matches are listed; words around the name do not matter."""
    assert reward(weights, object="a Traffic Light")
    with pytest.raises(ValueError, match=r"'boook' names none of its 4 classes\. Nearest: 'book'"):
        reward(weights, object="boook")


def test_a_custom_file_of_the_working_directory_is_not_read(weights, tmp_path, monkeypatch):
    """The package would take ./yolov8n.yaml for its own, and evaluate its `activation` as code."""
    for kind in KINDS:
        (tmp_path / kind).write_text("activation: __import__('os').mkdir('evil')\n")
    monkeypatch.chdir(tmp_path)
    reward(weights)
    assert not (tmp_path / "evil").exists()


def altered(path, to, **state):
    """A checkpoint whose module says something else of itself."""
    found = torch.load(path, weights_only=False)  # our own file, of this test
    for name, value in state.items():
        setattr(found["model"], name, value)
    torch.save(found, to)
    return str(to)


def test_other_checkpoints(tmp_path):
    path = write("yolov8n.yaml", tmp_path / "good.pt")
    other = {"yaml": {"yaml_file": "yolov8m.yaml"}}
    with pytest.raises(WeightsError, match=r"weights of yolov8m\.yaml with 4 classes: .* is missing"):
        reward(altered(path, tmp_path / "a.pt", **other))
    with pytest.raises(WeightsError, match=r"'mine\.yaml', which is none of this version"):
        reward(altered(path, tmp_path / "b.pt", yaml={"yaml_file": "/home/me/mine.yaml"}))
    for kind in ("yolov8n-seg.yaml", "yolov8n-cls.yaml", "rtdetr-l.yaml", "yoloe-11s.yaml"):
        with pytest.raises(WeightsError, match=f"{kind} is no detector of boxes"):
            reward(altered(path, tmp_path / "c.pt", yaml={"yaml_file": kind}))
    with pytest.raises(WeightsError, match="is no checkpoint of an ultralytics detector"):
        reward(altered(path, tmp_path / "d.pt", names=None))
    short = tmp_path / "short.pt"
    short.write_bytes(Path(path).read_bytes()[:-5000])
    with pytest.raises(WeightsError, match="truncated"):
        reward(str(short))


def test_every_tensor_is_read(weights):
    found = checkpoint(Path(weights))
    theirs = torch.load(weights, weights_only=False)["model"].state_dict()  # our own file, of this test
    assert found.tensors.keys() == theirs.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in theirs.items())
    assert (found.names, found.size) == (list(NAMES.values()), 96)


def test_a_network_of_coco(tmp_path):
    """The package's own names, and its own default size."""
    from ultralytics import YOLO

    path = tmp_path / "coco.pt"
    yolo = YOLO("yolo11n.yaml")
    yolo.model.names = {index: f"thing {index}" for index in range(80)} | {73: "book"}
    yolo.save(path)
    found = checkpoint(path)
    assert (found.architecture, found.size, found.names[73]) == ("yolo11n.yaml", 640, "book")


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return (self.call, self.arguments)


def test_nothing_of_a_file_is_run(tmp_path):
    mark, path = tmp_path / "evil", tmp_path / "evil.pt"
    torch.save({"model": Evil(exec, f"import os; os.mkdir({str(mark)!r})")}, path)
    assert isinstance(pickled.read(path)["model"], pickled.Inert)
    with pytest.raises(WeightsError, match="is no checkpoint of an ultralytics detector"):
        checkpoint(path)
    for call in (Path.mkdir, os.mkdir):
        torch.save({"model": Evil(call, mark)}, path)
        with pytest.raises(WeightsError, match="is truncated, or not a file of") as raised:
            checkpoint(path)
        assert "weights_only" not in str(raised.value)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # our own file, of this test: it would have been
    assert mark.exists()


class TestContract(RewardContract):
    @pytest.fixture
    def reward(self, weights):
        named = [Prompt("x", {"object": name}) for name in ("book", "dog", "person")]
        options = {"engine": "ultralytics", "weights": weights, "threshold": 0.99}  # at one, boxes come and go
        return Subject("reward", "detection", options, size=(24, 36), prompts=named)
