"""What ``vader estimate`` counts and says, on stand-ins that are quick to count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.integration import harness
from torch import nn
from torch.nn import functional

from vader.cli.estimate import _bytes
from vader.errors import SpecError, WeightsError
from vader.estimation import estimate, savings
from vader.estimation.estimate import dearest
from vader.estimation.fake_device import STAGE, Machine
from vader.estimation.memory_tracker import LiveBytes
from vader.estimation.suggestions import changes
from vader.resolve.validate import resolve

HERE = Path(__file__).parents[1]
CUDA = torch.device("cuda")


def spec(reward: str = "Small", **changes: Any) -> dict[str, Any]:
    return {
        "backbone": {"name": f"{HERE / 'fakes.py'}:FakeBackbone"},
        "sampler": {"steps": 3, "guidance_scale": 2.0},
        "prompts": {"name": "list", "options": {"prompts": ["a fox"]}},
        "rewards": [{"name": f"{HERE / 'memory_reward.py'}:{reward}", "label": "small"}],
        "train": {"batch_size": 2},
        "validation": {"clips": 0},
        **changes,
    }


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs ``vader estimate`` on a spec in this process: exit code, output, errors."""

    def run(content: dict[str, Any], *arguments: str) -> tuple[int, str, str]:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
        return harness.command(monkeypatch, capsys, "estimate", tmp_path / "run.yaml", *arguments)

    return run


class TestLiveBytes:
    def test_counts_a_storage_once_until_its_last_tensor_is_gone(self) -> None:
        with LiveBytes() as live:
            whole = torch.zeros(100)
            part = whole[10:]
            assert live.total == 400
            del whole
            assert live.total == 400
            del part
            assert live.total == 0
            assert live.account().peak.total == 400

    def test_rows_at_the_peak_add_up_and_each_remembers_its_most(self) -> None:
        with LiveBytes() as live:
            with live.running("a"):
                first = torch.zeros(30)
                torch.zeros(10)
            with live.running("b"):
                second = torch.zeros(20)
        account = live.account()
        assert account.peak.rows == {"a": 120, "b": 80}
        assert (account.peak.phase, account.peak.total, account.most) == ("b", 200, {"a": 160, "b": 80})
        del first, second

    def test_another_device_does_not_count(self) -> None:
        with LiveBytes() as live:
            kept = torch.zeros(30, device="meta")
        assert (live.total, kept.shape) == (0, (30,))


class TestMachine:
    @pytest.mark.parametrize("device", ["cuda", "cpu"])
    def test_a_gpu_keeps_no_attention_matrix(self, device: str) -> None:
        machine, live = Machine(torch.device(device)), LiveBytes()
        with machine.running(), live:
            q = torch.zeros(1, 2, 512, 8, device=device, dtype=torch.bfloat16, requires_grad=True)
            functional.scaled_dot_product_attention(q, q, q).sum().backward()
        assert q.device == STAGE
        assert live.account().peak.total < 2 * 512 * 512 * 2

    def test_dropout_of_a_gpu_keeps_a_byte_per_element(self) -> None:
        held = {}
        for device in ("cuda", "cpu"):
            with Machine(torch.device(device)).running(), LiveBytes() as live:
                x = torch.zeros(1000, requires_grad=True)
                y = functional.dropout(x, 0.5)
                held[device] = live.total
            del y
        assert held == {"cuda": 4000 + 4000 + 1000, "cpu": 4000 + 4000 + 4000}

    def test_leaves_torch_as_it_was(self) -> None:
        def now() -> tuple[object, ...]:
            attention, dropout = functional.scaled_dot_product_attention, functional.dropout
            return attention, dropout, torch.Tensor.__deepcopy__, nn.Module._apply

        before = now()
        with Machine(CUDA).running():
            assert functional.dropout is not before[1]
        assert before == now()

    def test_a_module_is_converted_again_after_a_backward_through_it(self) -> None:
        machine = Machine(CUDA)
        net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Linear(4, 4))
        machine.dress(net, CUDA)
        with machine.running(), LiveBytes():
            for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
                net.to(dtype)
                assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]
                assert {parameter.dtype for parameter in net.parameters()} == {dtype}
                x = torch.zeros(1, 2, 4, 4, dtype=dtype, requires_grad=True)
                net(x).sum().backward()


class TestWhatIsCounted:
    def test_a_batch_of_four_has_twice_the_activations_of_two(self) -> None:
        two, four = (estimate(spec(train={"batch_size": size})).training.most for size in (2, 4))
        assert four["gradient window"] == pytest.approx(2 * two["gradient window"], rel=0.05)
        assert four["adapter"] == two["adapter"]

    def test_the_optimizers_state_is_two_numbers_for_each_of_the_adapters(self) -> None:
        most = estimate(spec()).training.most
        assert most["optimizer state"] == pytest.approx(2 * most["adapter"], rel=0.02)
        assert most["adapter's gradient"] == most["adapter"]

    def test_a_moving_average_is_one_more_adapter(self) -> None:
        most = estimate(spec(train={"ema_decay": 0.9})).training.most
        assert most["adapter's moving average"] == most["adapter"]

    def test_with_accumulation_a_gradient_is_there_from_the_start(self) -> None:
        one, four = (
            estimate(spec(train={"gradient_accumulation": n}, gradient={"recompute": False})).training for n in (1, 4)
        )
        assert four.peak.rows["adapter's gradient"] == four.most["adapter"]
        assert one.peak.rows.get("adapter's gradient", 0) < four.most["adapter"]

    def test_random_choices_are_the_dearest(self) -> None:
        found = dearest(resolve(spec(gradient={"mode": "rand"}, frames={"mode": "random"})))
        frames = resolve(spec()).video.frames
        assert found == [
            "gradient.mode=specific", "gradient.from_step=0", "frames.mode=index", f"frames.index={frames - 1}"
        ]  # fmt: skip

    def test_validation_is_counted_too(self) -> None:
        found = estimate(spec(validation={"clips": 64, "batch_size": 64}, frames={"mode": "index", "index": 0}))
        assert found.validation is not None
        assert found.decisive is found.validation
        assert found.total > found.training.peak.total


class TestWhatIsNotCounted:
    def test_a_reward_that_cannot_be_built_is_named(self) -> None:
        found = estimate(spec("Unbuildable"))
        assert found.not_counted == {"reward small": "its weights are on another machine."}

    def test_activations_that_depend_on_numbers_are_named_and_the_weights_counted(self) -> None:
        held = [{"name": f"{HERE / 'memory_reward.py'}:Counting", "label": "counting"}]
        found = estimate(spec(validation={"clips": 1, "rewards": held}))
        assert list(found.not_counted) == ["activations of reward counting"]
        assert found.training.most["weights: reward counting"] == found.training.most["weights: reward small"]

    def test_a_backbone_that_cannot_be_built_is_an_error(self) -> None:
        unknown = {"name": "modelscope", "options": {"weights": "somebody/unknown"}}
        with pytest.raises(WeightsError, match=r"the backbone 'modelscope' cannot be estimated: .*somebody/unknown"):
            estimate(spec(backbone=unknown))


def test_savings_are_estimates_of_the_changed_spec() -> None:
    content = spec(gradient={"mode": "tail", "k": 3, "recompute": False})
    found = estimate(content)
    told: list[str] = []
    made = savings(found, content, progress=told.append)
    assert "gradient.recompute=true" in told
    assert [saving.total for saving in made] == sorted(saving.total for saving in made)
    for saving in made:
        assert saving.total == estimate(content, saving.changes).total < found.total


def test_ways_to_decode_are_offered_where_the_decoder_has_them() -> None:
    def offered(backbone: Any, **frames: Any) -> list[str]:
        plan = resolve(spec(backbone=backbone, frames={"mode": "index", "index": 0, **frames}))
        return [name for (name, *_) in changes(plan) if name.startswith("frames.decode")]

    three = ["frames.decode_tiles=2", "frames.decode_precision=bf16", "frames.decode_window=3"]
    assert offered("shapes") == three
    assert offered("shapes", decode_tiles=2, decode_precision="bf16", decode_window=2) == []
    assert offered("modelscope") == three[1:2]
    assert offered({"name": f"{HERE / 'fakes.py'}:FakeBackbone"}) == []


def test_memory_does_not_grow_with_the_window_of_steps() -> None:
    """The decoder's neither: exact, and cut."""
    for frames in ({}, {"decode_window": 1}):
        one, eight = (
            estimate(
                spec(
                    backbone="shapes",
                    sampler={"steps": 9},
                    gradient={"mode": "tail", "k": k, "recompute": True},
                    frames={"mode": "index", "index": 8, **frames},
                )
            ).total
            for k in (1, 8)
        )
        assert eight < 1.15 * one


@pytest.mark.parametrize(("text", "size"), [("16GB", 16e9), ("16 GiB", 16 * 2**30), ("0.5MB", 5e5), ("2MiB", 2**21)])
def test_budgets(text: str, size: float) -> None:
    assert _bytes(text) == size


@pytest.mark.parametrize("text", ["16", "GB", "16 gigabytes", "-1GB", ""])
def test_a_budget_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SpecError, match="--budget: expected a number with MB, GB, MiB or GiB, such as 16GB; found"):
        _bytes(text)


class TestCommand:
    def test_says_that_it_fits(self, command: Callable[..., Any]) -> None:
        code, out, err = command(spec(), "--budget", "1GB", "--no-knobs")
        assert code == 0
        assert "total" in out
        assert "fits" in out
        assert "Never counted: " in out
        assert err == "counting ...\n"

    def test_exit_code_1_when_it_does_not(self, command: Callable[..., Any]) -> None:
        code, out, _ = command(spec(), "--budget", "0.001MB", "--no-knobs")
        assert code == 1
        assert "does not fit" in out

    def test_names_what_it_cannot_count(self, command: Callable[..., Any]) -> None:
        out = command(spec("Unbuildable"), "--no-knobs")[1]
        assert "NOT COUNTED  reward small: its weights are on another machine." in out

    def test_json_has_the_same_bytes(self, command: Callable[..., Any]) -> None:
        data = json.loads(command(spec(), "--json", "--budget", "1GB")[1])
        training = data["accounts"]["training"]
        assert data["total"] == sum(training["at_peak"].values()) == estimate(spec()).total
        assert data["fits"] is True
        assert all(change["total"] < data["total"] for change in data["changes"])

    def test_an_unknown_device(self, command: Callable[..., Any]) -> None:
        code, _, err = command(spec(), "--device", "tpu")
        assert code == 2
        assert "--device: expected cuda or cpu; found 'tpu'." in err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_mask_selects_as_much_as_it_can(device: str) -> None:
    """Networks that pick tokens by a mask: all are picked, none by its negation, and gradient comes back whole."""
    with Machine(torch.device(device)).running():
        tokens = torch.zeros(5, 3, device=device, requires_grad=True)
        mask = torch.ones(5, device=device).bool()
        assert tokens[mask].shape == (5, 3)
        assert tokens[~mask].shape == (0, 3)
        assert tokens[~~mask].shape == (5, 3)
        assert torch.nonzero(mask.flatten(), as_tuple=False).flatten().shape == (5,)
        torch.cat([tokens[mask], tokens[~mask]]).sum().backward()  # type: ignore[no-untyped-call]
        assert tokens.grad is not None
        assert tokens.grad.shape == (5, 3)
