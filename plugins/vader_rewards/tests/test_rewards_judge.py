"""Large networks as judges: their gradients, their memory, and where their weights are."""

from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

from vader import Prompt, Runtime
from vader.resolve.networks import networks
from vader_rewards import towers
from vader_rewards.holding import JudgeOptions, QuantisableOptions
from vader_rewards.judge import LARGE, Judge

CPU = torch.device("cpu")


class Net(nn.Module):
    """Two scores of a row, by a weight, a tied weight and a buffer; counts its calls."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(3, 3, dtype=torch.float64)
        self.tied = nn.Linear(3, 3, bias=False, dtype=torch.float64)
        self.tied.weight = self.first.weight
        self.register_buffer("shift", torch.randn(3, generator=generator, dtype=torch.float64))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.requires_grad_(False)
        self.seen = []

    def forward(self, rows):
        self.seen.append(len(rows))
        inner = self.tied(self.first(rows).tanh() + self.shift).sin()
        return torch.stack([inner.square().sum(1), inner.sum(1)], 1)


def rows(n=5):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_scores_and_gradients_are_those_of_the_network(at_once, away):
    network = Net()
    judge = Judge(network, CPU, away=away)
    upstream = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    plain, judged = rows(), rows()
    expected = network(plain)
    (expected[:, 0] * upstream).sum().backward()
    network.seen.clear()
    found = judge.score(lambda some, _: network(some), judged, at_once)
    torch.testing.assert_close(found, expected)
    (found[:, 0] * upstream).sum().backward()
    torch.testing.assert_close(judged.grad, plain.grad)
    assert sum(network.seen) == 5, "each row is seen once, backward included"
    assert max(network.seen) == min(at_once, 5)


def test_away_weights_are_copied_for_a_use_and_stay_where_they_were():
    network, places = Net(), []

    def columns(some, _):
        places.append(network.first.weight.data_ptr())
        assert network.tied.weight is network.first.weight
        return network(some)

    home = network.first.weight.data_ptr()
    judge = Judge(network, CPU, away=True)
    moved = judge.network.first.weight.clone()
    monkey = pytest.MonkeyPatch()
    monkey.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor.clone())  # as another device would
    try:
        judge.score(columns, rows(), 2).sum().backward()
    finally:
        monkey.undo()
    assert home not in places
    assert network.first.weight.data_ptr() == home
    assert torch.equal(network.first.weight, moved)


def test_rows_know_their_places():
    judge = Judge(Net(), CPU)
    seen = []

    def columns(some, which):
        seen.append(which)
        return judge.network(some)

    judge.score(columns, rows(), 2)
    assert seen == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_parts_carry_no_gradient():
    judge = Judge(Net(), CPU)
    found = judge.score(lambda some, _: judge.network(some), rows(), 2)
    leaf = rows()
    (gradient,) = torch.autograd.grad(
        judge.score(lambda some, _: judge.network(some), leaf, 2)[:, 1].sum(), leaf, allow_unused=True
    )
    assert gradient is None or not gradient.any()
    assert found.requires_grad


@pytest.mark.parametrize("frozen", [True, False])
def test_nothing_is_differentiated_for_nothing(frozen):
    """Without a gradient to be asked for, none is computed."""
    judge = Judge(Net(), CPU)
    graded = []

    def columns(some, _):
        graded.append(torch.is_grad_enabled())
        return judge.network(some)

    if frozen:
        judge.score(columns, rows().detach(), 9)
    else:
        with torch.no_grad():
            judge.score(columns, rows(), 9)
    assert graded == [False]


@pytest.mark.parametrize(
    ("asked", "size", "expected"), [(None, 1, 0), (None, LARGE, 1), (True, 1, 1), (False, LARGE, 0)]
)
def test_layers_are_recomputed_when_asked_for_or_large(monkeypatch, asked, size, expected):
    wrapped = []
    monkeypatch.setattr("vader_rewards.judge.recompute_layers", lambda network, _: wrapped.append(network))
    network = Net()
    network.numbers = nn.Parameter(torch.empty(size, device="meta"), requires_grad=False)
    judge = Judge(network, CPU)
    for _ in range(2):
        judge.hold(JudgeOptions(checkpointing=asked))
    assert len(wrapped) == expected, "once, however many rewards share it"


def test_rewards_share_a_judge():
    runtime, other = Runtime(CPU, torch.float32), Runtime(CPU, torch.bfloat16)
    one = towers.judge(("net", 1), Net, JudgeOptions(), runtime)
    assert towers.judge(("net", 1), Net, JudgeOptions(checkpointing=True), runtime) is one
    assert towers.judge(("net", 1), Net, JudgeOptions(), other) is not one
    assert towers.judge(("net", 2), Net, JudgeOptions(), runtime) is not one


def test_offload_and_quantisation_exclude_each_other():
    with pytest.raises(ValueError, match="offload and quantization exclude each other"):
        QuantisableOptions(offload=True, quantization={"load_in_4bit": True})


@pytest.mark.parametrize(
    ("name", "options", "frames", "row"),
    [
        (
            "videoreward",
            {"fps": 8.0},
            16,
            "| `videoreward`, `fps: 8` | 16 | yes, the default | {peak:.1f} GB | {kept:.1f} GB |",
        ),
        pytest.param(
            "videoreward",
            {"fps": 8.0, "checkpointing": False},
            16,
            "| `videoreward`, `fps: 8` | 16 | no | {peak:.1f} GB |",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "hpsv3",
            {"offload": True},
            8,
            "| `hpsv3` | 8 | yes, the default | {peak:.1f} GB | 15.5 GB | {kept:.0f} |",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_memory_at_real_size_is_what_the_page_says(request, monkeypatch, name, options, frames, row):
    """Counted without weights, as ``vader estimate`` does it."""
    monkeypatch.syspath_prepend(str(request.config.rootpath / "benchmarks"))
    from reward_memory import peak

    most, kept = peak(name, options, frames, (480, 832))
    page = (request.config.rootpath / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert row.format(peak=most, kept=kept) in page


@pytest.mark.parametrize("name", ["aesthetic", "hps", "clip_text", "pickscore", "temporal_consistency"])
def test_image_rewards_judge_frames_in_turns_wherever_their_network_is(name, options, exact):
    """Clips of three frames: the same scores and gradients by single frames, with weights that come for each use."""
    kind = next(entry.load() for entry in entry_points(group="vader.rewards") if entry.name == name)
    prompts = [Prompt("a red circle"), Prompt("a fox in the snow")]
    clips = torch.rand(2, 3, 3, 40, 56, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for chunk, away in ((9, False), (1, True)):
        reward = kind(kind.Options(**{**options[name], "chunk": chunk}), exact)
        judge = next(part for part in networks(reward).values() if isinstance(part, Judge))
        judge._away = away
        frames = clips.clone().requires_grad_()
        scores = reward.score(frames, prompts)
        (scores * torch.tensor([1.0, -2.0])).sum().backward()
        judge._away = False  # it is shared
        found.append((scores.detach(), frames.grad))
    assert found[0][1].abs().max() > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
