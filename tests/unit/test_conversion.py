"""Foreign weights become safetensors: exact, one tensor at a time, and all or nothing."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vader import WeightsError
from vader.errors import RegistryError
from vader.resolve.components import ResolvedComponent
from vader.resolve.conversion import conversion_of, convert_adapter
from vader.spec import AdapterSpec
from vader.weights import conversion, lora
from vader.weights.conversion import Conversion, write

STATE = {
    "half": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "single": torch.linspace(-3, 3, 7),
    "brain": torch.ones(2, 2, dtype=torch.bfloat16),
    "number": torch.tensor(4.5),
    "counts": torch.tensor([1, -2], dtype=torch.int64),
    "mask": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 3),
}


def of(state: dict[str, Tensor], dtype: torch.dtype | None = None) -> Conversion:
    dtypes = {name: dtype if dtype and tensor.is_floating_point() else tensor.dtype for name, tensor in state.items()}
    return Conversion({name: tuple(tensor.shape) for name, tensor in state.items()}, dtypes, state.__getitem__)


def quiet(what: str, done: int, total: int) -> None:
    pass


def test_every_kind_of_tensor_comes_back(tmp_path: Path) -> None:
    size = write(of(STATE), tmp_path / "out.safetensors", quiet)
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert size == (tmp_path / "out.safetensors").stat().st_size
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_conversion_rounds_as_torch_does(tmp_path: Path) -> None:
    write(of(STATE, torch.bfloat16), tmp_path / "out.safetensors", quiet)
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["single"], STATE["single"].bfloat16())
    assert torch.equal(found["counts"], STATE["counts"])


def test_progress_counts_every_byte_twice(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    write(of(STATE), tmp_path / "out.safetensors", lambda *step: told.append(step))
    total = sum(tensor.nbytes for tensor in STATE.values())
    for what in ("writing", "checking"):
        done = [step[1] for step in told if step[0] == what]
        assert done == sorted(done)
        assert len(done) == len(STATE)
        assert done[-1] == total
    assert {step[2] for step in told} == {total}


def test_a_value_too_large_is_not_made_infinite(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"big holds 70000, which float16 cannot. Convert to bfloat16"):
        write(of({"big": torch.tensor([1.0, 7e4])}, torch.float16), tmp_path / "out.safetensors", quiet)
    assert list(tmp_path.iterdir()) == []
    write(of({"odd": torch.tensor([1.0, torch.inf])}, torch.float16), tmp_path / "odd.safetensors", quiet)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_text("mine")
    with pytest.raises(WeightsError, match="exists and is not overwritten"):
        write(of(STATE), target, quiet)
    assert target.read_text() == "mine"


def test_nor_what_appears_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match="exists and is not overwritten"):
        write(of(STATE), target, lambda *_: target.write_text("mine"))
    assert target.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_another_ending(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'.*out.ckpt'; expected a name that ends in .safetensors"):
        write(of(STATE), tmp_path / "out.ckpt", quiet)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.__setitem__(-1, data[-1] ^ 1), "single in .* is not what was written"),
        (lambda data: data.__delitem__(slice(-2, None)), "cannot be read back"),
    ],
)
def test_what_the_disk_changes_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[bytearray], Any], message: str
) -> None:
    """The file is read back: one bit that flips, or two bytes that get lost, are an error, and no file is left."""

    def damaging(file: Any) -> None:
        file.flush()
        data = bytearray(Path(file.name).read_bytes())
        edit(data)
        Path(file.name).write_bytes(data)

    monkeypatch.setattr(conversion.storage, "sync", damaging)
    with pytest.raises(WeightsError, match=message):
        write(of({"half": STATE["half"], "single": STATE["single"]}), tmp_path / "out.safetensors", quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(conversion.storage, "sync", full)
    with pytest.raises(WeightsError, match=r"cannot write .*No space left on device"):
        write(of(STATE), tmp_path / "out.safetensors", quiet)
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = conversion.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage)
    told: list[Any] = []
    with pytest.raises(WeightsError, match=r"no room for .* 10 are free"):
        write(of(STATE), tmp_path / "out.safetensors", lambda *step: told.append(step))
    assert not told


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(of(STATE), tmp_path / "out.safetensors", interrupted)
    assert list(tmp_path.iterdir()) == []


# -- adapters


class Plain:
    """A backbone without formats of its own."""

    denoiser_name: ClassVar[str | None] = "transformer"


PLAIN = ResolvedComponent("backbone", "plain", Plain)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An adapter in peft's layout, alpha not its rank."""
    state = {"a.to_q.lora_A.weight": torch.randn(2, 4), "a.to_q.lora_B.weight": torch.randn(6, 2)}
    folder = tmp_path / "adapter"
    folder.mkdir()
    lora.write(folder, state, AdapterSpec(rank=2, alpha=6, target_modules=("to_q",)))
    return folder


def test_peft_to_diffusers(saved: Path, tmp_path: Path) -> None:
    spec = convert_adapter(PLAIN, saved, tmp_path / "both")
    assert (spec.rank, spec.alpha) == (2, 6)
    state = lora.read(saved).state
    for file in (lora.PEFT_FILE, lora.DIFFUSERS_FILE):
        found = lora.read(tmp_path / "both" / file)
        assert found.state.keys() == state.keys()
        assert all(torch.equal(found.state[name], state[name]) for name in state)
        assert (found.spec.rank, found.spec.alpha, found.spec.target_modules) == (2, 6, ("to_q",))
    names = load_file(tmp_path / "both" / lora.DIFFUSERS_FILE)
    assert set(names) == {"transformer.a.to_q.lora_A.weight", "transformer.a.to_q.lora_B.weight"}
    assert json.loads((saved / lora.PEFT_CONFIG).read_text())["lora_alpha"] == 6


def test_a_backbone_without_a_format_of_its_own(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'plain' has no adapter format of its own"):
        convert_adapter(PLAIN, saved, tmp_path / "out.pt")
    with pytest.raises(WeightsError, match="whose format must be named"):
        convert_adapter(PLAIN, saved, tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="exists and is not overwritten"):
        convert_adapter(PLAIN, saved, saved)
    with pytest.raises(RegistryError, match="'plain' converts no weights"):
        conversion_of(PLAIN, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
