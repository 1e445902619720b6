"""Engine `groundingdino` of `detection`, in the environment of groundingdino-py and transformers 4.57.6.

Run by the nox session `engines`. The transformers there has the same network, so that the two engines can be compared.
"""

import pytest
import torch
from plugins.vader_rewards.tests.engines.tiny_dino import write
from safetensors.torch import save_file

from vader import Prompt, Runtime, WeightsError
from vader_rewards.detection import Detection

pytestmark = pytest.mark.filterwarnings("default")  # what another package warns of is not ours to judge


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One random network in both layouts."""
    root = tmp_path_factory.mktemp("dino")
    write(root)
    return root


def package(both, **options):
    chosen = {
        "engine": "groundingdino",
        "weights": str(both / "original.pth"),
        "text_encoder": str(both / "bert"),
        "size": 96,
    }
    return Detection(Detection.Options(**chosen, **options), Runtime(torch.device("cpu"), torch.float32))


def ours(both, **options):
    chosen = {"engine": "grounding_dino", "weights": str(both / "folder"), "size": 96, **options}
    return Detection(Detection.Options(**chosen), Runtime(torch.device("cpu"), torch.float32))


def frames(height=64, width=96, clips=2, count=1):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(clips, count, 3, height, width, generator=generator)


WORDS = [Prompt("x", {"object": "a Book"}), Prompt("y", {"object": "traffic light."})]


@pytest.mark.parametrize("threshold", [0.2, 0.4])
@pytest.mark.parametrize("size", [(96, 144), (64, 96), (50, 120), (120, 50)])
def test_scores_and_gradients_are_those_of_transformers(both, size, threshold):
    """The two implementations on the same weights; names of two lengths in one batch, on frames of several shapes."""
    results = []
    for make in (package, ours):
        start = frames(*size).requires_grad_()
        scores = make(both, threshold=threshold).score(start, WORDS)
        (gradient,) = torch.autograd.grad(scores.sum(), start)
        results.append((scores, gradient))
    (scores, gradient), (expected, reference) = results
    assert 0.1 < expected.min() < expected.max() < 0.95
    assert expected.std() > 1e-3

    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)
    assert (gradient - reference).abs().max() < 1e-4 * reference.abs().max()


def test_the_objects_matter(both):
    start = frames(clips=1)
    found = [package(both, object=name).score(start, [Prompt("x")]).item() for name in ("book", "cat", "zebra")]
    assert len(set(found)) == 3
    assert package(both, object=" Book. ").score(start, [Prompt("x")]).item() == found[0]


def test_gradient_against_finite_differences(both):
    """Where the slope stands out of float32; with boxes that stay: it detaches where they are, as in its training."""
    reward = package(both, goal="favour", object="book", threshold=0.01)
    network = reward._detector._network
    with torch.no_grad():
        for parameter in (*network.bbox_embed.parameters(), *network.transformer.enc_out_bbox_embed.parameters()):
            parameter.zero_()
    start = frames(clips=1, count=2).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(start, WORDS[:1]).sum(), start)
    assert (gradient.abs().amax((2, 3, 4)) > 0).all()
    direction = gradient / gradient.norm()
    slopes = []
    with torch.no_grad():
        for step in (1e-3, 3e-4):
            ahead, behind = (reward.score(start + s * step * direction, WORDS[:1]).item() for s in (1, -1))
            slopes.append((ahead - behind) / (2 * step))
    assert max(abs(slope / gradient.norm().item() - 1) for slope in slopes) < 0.02


def test_it_is_in_float32_whatever_the_run(both):
    options = Detection.Options(
        engine="groundingdino",
        weights=str(both / "original.pth"),
        text_encoder=str(both / "bert"),
        object="book",
        size=96,
    )
    reward = Detection(options, Runtime(torch.device("cpu"), torch.bfloat16))
    start = frames().bfloat16()
    expected = package(both, object="book").score(start.float(), WORDS)
    torch.testing.assert_close(reward.score(start, WORDS), expected)


def test_other_files(both, tmp_path):
    tensors = torch.load(both / "original.pth", weights_only=True)["model"]
    for missing in ("transformer.level_embed", "transformer.decoder.norm.bias"):
        path = tmp_path / "less.safetensors"
        save_file({key: t.contiguous().clone() for key, t in tensors.items() if missing not in key}, path)
        with pytest.raises(WeightsError, match=rf"does not hold the weights .*{missing}.* is missing"):
            Detection(
                Detection.Options(engine="groundingdino", weights=str(path), text_encoder=str(both / "bert")),
                Runtime(torch.device("cpu"), torch.float32),
            )
