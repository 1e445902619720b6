"""What ``vader estimate`` counts and says, on stand-ins that are quick to count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
import yaml
from tests.integration import harness
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

import vader
from vader.cli.estimate import _bytes
from vader.errors import SpecError, WeightsError
from vader.estimation import Estimate, Fit, estimate, fit_memory, fitting, savings
from vader.estimation.estimate import dearest
from vader.estimation.fake_device import STAGE, Machine
from vader.estimation.memory_tracker import Account, LiveBytes, Peak
from vader.estimation.suggestions import changes
from vader.protocols import MemoryOption
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
            return attention, dropout, torch.Tensor.__deepcopy__, nn.Module._apply, FakeTensor.numpy

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

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_in_eight_bits_the_state_is_a_quarter_where_parameters_are_large(self, device: str) -> None:
        wide = spec(backbone={"name": f"{HERE / 'fakes.py'}:FakeBackbone", "adapter": {"rank": 2048}})
        plain, small = (estimate(wide, [f"train.optimizer={name}"], device) for name in ("adamw", "adamw_8bit"))
        share = small.training.most["optimizer state"] / plain.training.most["optimizer state"]
        assert share == pytest.approx((1 + 4 / 256) / 4, rel=0.01)
        tiny = estimate(spec(), ["train.optimizer=adamw_8bit"], device).training.most
        assert tiny["optimizer state"] == 2 * tiny["adapter"]

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

    def test_what_shortcuts_of_the_rollout_keep_is_counted_or_named(self) -> None:
        guided = {"sampler": {"steps": 4, "guidance_scale": 2.0}, "gradient": {"mode": "last"}}
        exact, reused = estimate(spec(**guided)), estimate(spec(**guided, rollout={"guidance_every": 2}))
        assert "rollout" not in reused.not_counted
        sampling = [found.training.phases["denoising without gradient"] for found in (exact, reused)]
        assert sampling[0] < sampling[1], "the difference of the branches is kept"
        wan = {"backbone": {"name": "shapes"}, "rollout": {"cache": {"name": "FirstBlockCacheConfig"}}}
        cached = estimate(spec(**guided, **wan))
        assert "what it keeps" in cached.not_counted["rollout.cache"]

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
        return [str(change) for change in changes(plan) if str(change).startswith("frames.decode")]

    tiles, precision = ["frames.decode_tiles=2", "frames.decode_tiles=4"], ["frames.decode_precision=bf16"]
    assert offered("shapes") == [*tiles, *precision, "frames.decode_window=3", "frames.decode_window=1"]
    assert offered("shapes", decode_tiles=4, decode_precision="bf16", decode_window=1) == []
    assert offered("shapes", decode_tiles=2, decode_window=2) == [tiles[1], *precision, "frames.decode_window=1"]
    assert offered("modelscope") == precision
    assert offered({"name": f"{HERE / 'fakes.py'}:FakeBackbone"}) == []


def test_changes_are_offered_by_what_they_cost_and_of_an_option_only_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = resolve(spec(backbone="shapes", train={"batch_size": 2, "gradient_accumulation": 3}))
    options = (
        MemoryOption("text_encoder_offload=cpu", "gradient"),
        MemoryOption("attention=flash", "task"),
        MemoryOption("attention=sdpa", "rounding"),
    )
    monkeypatch.setattr(plan.backbone.component, "memory_options", options)
    found = [(str(change), change.costs) for change in changes(plan)]
    order = ["once", "time", "rounding", "gradient", "task"]
    assert [order.index(costs) for _, costs in found] == sorted(order.index(costs) for _, costs in found)
    assert ("train.batch_size=1, train.gradient_accumulation=6", "time") in found
    assert ("backbone.options.text_encoder_offload=cpu", "gradient") in found
    assert not any("attention" in change for change, _ in found)  # it has the last one already


class TestFit:
    """The search, on a made-up account: a phase for decoding and one for the window of steps, 100 bytes each."""

    SAVES: ClassVar[dict[str, tuple[int, int]]] = {
        "gradient.recompute=true": (0, 40),
        "train.batch_size=1": (0, 20),
        "frames.decode_tiles=2": (10, 0),
        "frames.decode_tiles=4": (20, 0),
        "frames.decode_precision=bf16": (10, 0),
        "frames.decode_window=3": (60, 0),
        "backbone.adapter.rank=4": (1, 1),
    }

    @pytest.fixture
    def tried(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """What was estimated."""
        seen: list[list[str]] = []

        def made_up(_: Any, overrides: list[str], device: str | None) -> Estimate:
            seen.append(overrides)
            if "train.gradient_checkpointing=true" in overrides:
                raise SpecError([])
            saved = [self.SAVES.get(override, (0, 0)) for override in overrides]
            decoding, window = 100 - sum(d for d, _ in saved), 100 - sum(w for _, w in saved)
            phases = {"decoding": decoding, "window": window}
            account = Account(Peak("decoding", {"all": max(phases.values())}), {}, phases)
            return Estimate(cast(Any, None), "cpu", account, None, {}, {})

        monkeypatch.setattr(fitting, "estimate", made_up)
        return seen

    def found(self, limit: int, told: list[Any] | None = None) -> Fit:
        content = spec(backbone="shapes", gradient={"mode": "tail", "k": 2})
        return fit_memory(content, limit, progress=lambda *said: (told if told is not None else []).append(said))

    def test_what_fits_is_left_as_it_is(self, tried: list[list[str]]) -> None:
        found = self.found(100)
        assert (found.fits, found.changes, found.before, tried) == (True, (), found.after, [[]])

    def test_takes_of_each_phase_what_costs_least(self, tried: list[list[str]]) -> None:
        told: list[Any] = []
        found = self.found(70, told)
        assert found.overrides == ["gradient.recompute=true", "frames.decode_tiles=4", "frames.decode_precision=bf16"]
        assert (found.fits, found.after.total, found.before.total) == (True, 70, 100)
        assert len(told) == len(tried)
        assert all(count <= most for count, most, _ in told)
        assert told[-1][0] == told[-1][1]

    def test_takes_back_what_a_later_change_made_needless(self, tried: list[list[str]]) -> None:
        found = self.found(40)
        batch = ["train.batch_size=1", "train.gradient_accumulation=2"]
        assert found.overrides == ["gradient.recompute=true", *batch, "frames.decode_window=3"]
        assert found.after.total == 40
        assert [change.costs for change in found.changes] == ["time", "time", "gradient"]

    def test_says_the_smallest_that_was_reached(self, tried: list[list[str]]) -> None:
        found = self.found(5)
        assert (found.fits, found.after.total) == (False, 39)
        assert found.overrides[-2:] == ["frames.decode_window=3", "backbone.adapter.rank=4"]

    def test_both_runs_are_estimated_as_they_would_be_alone(self) -> None:
        content = spec(gradient={"mode": "tail", "k": 3, "recompute": False})
        before = vader.estimate(content)
        found = vader.fit_memory(content, before.total - 1)
        assert found.fits
        assert found.before.total == before.total
        assert found.after.total == estimate(content, found.overrides).total < before.total


@pytest.mark.slow
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

    def test_fit_says_the_overrides_and_writes_the_spec(self, command: Callable[..., Any], tmp_path: Path) -> None:
        content = spec(gradient={"mode": "tail", "k": 3, "recompute": False})
        before, written = estimate(content).total, tmp_path / "fits.yaml"
        code, out, err = command(content, "--fit", f"{(before - 1000) / 1e6:.6f}MB", "--write", str(written))
        assert code == 0
        assert "fits with these changes of the spec" in out
        assert "  --set gradient.recompute=true   costs time" in out
        assert "variant 1 of at most" in err
        assert yaml.safe_load(written.read_text())["gradient"] == {"mode": "tail", "k": 3, "recompute": True}
        assert estimate(written, trust_code=True).total < before

    def test_fit_says_the_smallest_and_fails(self, command: Callable[..., Any], tmp_path: Path) -> None:
        code, out, _ = command(spec(), "--fit", "0.001MB", "--write", str(tmp_path / "none.yaml"))
        assert code == 1
        assert "Nothing that was tried fits. The smallest reached is" in out
        assert not (tmp_path / "none.yaml").exists()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--fit", "much"), "--fit: expected a number with MB, GB"),
            (("--fit", "1GB", "--budget", "1GB"), "--budget: --fit says it already"),
            (("--write", "x.yaml"), "--write: it writes what --fit finds; add --fit SIZE."),
            (("--fit", "1GB", "--write", __file__), "exists. Take another name for --write."),
        ],
    )
    def test_fit_refuses(self, command: Callable[..., Any], arguments: tuple[str, ...], said: str) -> None:
        code, _, err = command(spec(), *arguments)
        assert code in (1, 2)
        assert said in err

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
