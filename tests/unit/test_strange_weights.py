"""Pickles that hold code are refused in our words: no advice to run them, and nothing is run."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vader import WeightsError
from vader.weights.files import load_pickled, unreadable

ADVICE = ("weights_only", "Re-running", "add_safe_globals", "arbitrary code execution", "PyTorch 2")


class Calls:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


CODE: dict[str, tuple[Any, str]] = {
    "os.system": (Calls(os.system, "touch ran"), r"system"),
    "subprocess": (Calls(subprocess.Popen, ("touch", "ran")), "Popen"),
    "eval": (Calls(eval, "open('ran', 'w')"), "eval"),
    "getattr": (Calls(getattr, 1, "real"), "getattr"),
    "the hub": (Calls(torch.hub.load, "a", "b"), r"torch\.hub\.load"),
    "os.remove": (Calls(os.remove, "ran"), "remove"),
}


@pytest.mark.parametrize("name", CODE)
@pytest.mark.parametrize("old", [False, True])
def test_code_is_refused_in_our_words(name: str, old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value, named = CODE[name]
    torch.save({"x": value}, "w.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(WeightsError, match=rf"w\.pt holds more than tensors and plain values \(\S*{named}\)") as caught:
        load_pickled(Path("w.pt"), "w.pt", "Fetch it.")
    assert not any(word in str(caught.value) for word in ADVICE)
    assert not Path("ran").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="a TorchScript program") as caught:
        load_pickled(tmp_path / "w.pt", "w.pt", "Fetch it.")
    assert not any(word in str(caught.value) for word in ADVICE)


@pytest.mark.parametrize(
    "held",
    [
        b"",
        b"hello",
        b"\x80\x02cposix\nsystem\n(Vtrue\ntR.",
        pickle.dumps(Calls(os.system, "true")),
        b"PK\x03\x04",
        b"\x80",
    ],
)
def test_nonsense_is_refused_without_the_librarys_advice(held: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(held)
    with pytest.raises(WeightsError) as caught:
        load_pickled(tmp_path / "w.pt", "w.pt", "Fetch it.")
    assert not any(word in str(caught.value) for word in ADVICE)
    assert len(str(caught.value)) < 500


def test_whatever_a_library_advises_is_left_out() -> None:
    error = RuntimeError("please pass weights_only=False")
    assert "weights_only" not in str(unreadable(Path("w"), "w", "a file of torch.save", error))
