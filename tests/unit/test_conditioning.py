"""Conditioning is encoded once, kept in bounded memory and on disk, and never another's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from vader.diffusion import conditioning
from vader.diffusion.conditioning import ConditioningCache
from vader.protocols import Conditioning, Prompt

CPU = torch.device("cpu")


class Encoder:
    """Counts what it is asked; ``positive`` depends on the text, ``negative`` does not."""

    def __init__(self, key: str = "a", negative: bool = True) -> None:
        self.key, self.negative, self.asked = key, negative, list[str]()

    def conditioning_key(self) -> str:
        return self.key

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        self.asked += [prompt.text for prompt in prompts]
        rows = torch.tensor([[float(len(p.text)), float(sum(p.text.encode()))] for p in prompts])
        positive = {"embeds": rows[:, None], "mask": rows[:, :1] > 3}
        if not self.negative:
            return Conditioning(positive)
        return Conditioning(positive, {"embeds": torch.ones(len(prompts), 1, 2), "mask": rows[:, :1] < 0})


def texts(*found: str) -> list[Prompt]:
    return [Prompt(text) for text in found]


def same(one: Conditioning, other: Conditioning) -> bool:
    pairs = [(one.positive, other.positive), (one.negative or {}, other.negative or {})]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


@pytest.mark.parametrize("negative", [True, False])
def test_rows_come_in_order_and_are_encoded_once(negative: bool) -> None:
    encoder = Encoder(negative=negative)
    cache = ConditioningCache(encoder, CPU)  # type: ignore[arg-type]
    found = cache(texts("red", "blue", "red"))
    assert same(found, Encoder(negative=negative).encode(texts("red", "blue", "red")))
    assert encoder.asked == ["red", "blue"]
    assert (found.negative is None) == (not negative)


def test_the_negative_is_kept_once_and_not_copied() -> None:
    cache = ConditioningCache(Encoder(), CPU)  # type: ignore[arg-type]
    found = cache(texts("red", "blue", "green"))
    assert found.negative is not None
    assert found.negative["embeds"].untyped_storage().nbytes() == 8  # two floats, for all rows
    assert len({row.negative["embeds"].data_ptr() for row in cache._rows.values() if row.negative}) == 1


def test_memory_is_bounded_and_what_was_used_last_stays() -> None:
    encoder = Encoder()
    cache = ConditioningCache(encoder, CPU, limit=2 * 9)  # two rows: two floats and a bool each
    for text in ("a", "b", "a", "c", "a", "b"):
        cache(texts(text))
    assert encoder.asked == ["a", "b", "c", "b"]


def test_a_second_run_encodes_nothing(tmp_path: Path) -> None:
    first, second, other = Encoder(), Encoder(), Encoder("b")
    before = ConditioningCache(first, CPU, home=tmp_path)(texts("red", "blue"))  # type: ignore[arg-type]
    after = ConditioningCache(second, CPU, home=tmp_path)(texts("blue", "red"))  # type: ignore[arg-type]
    assert second.asked == []
    assert same(before, after[[1, 0]])
    ConditioningCache(other, CPU, home=tmp_path)(texts("red"))  # type: ignore[arg-type]
    assert other.asked == ["red"], "another model's numbers are not taken"
    assert len(list(tmp_path.glob("conditioning/a/negative-*"))) == 1


def test_an_image_is_part_of_a_prompt(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"one")
    for expected, data in ((["x"], b"one"), ([], b"one"), (["x"], b"two")):
        image.write_bytes(data)
        encoder = Encoder()
        ConditioningCache(encoder, CPU, home=tmp_path)([Prompt("x", image=image)])  # type: ignore[arg-type]
        assert encoder.asked == expected


@pytest.mark.parametrize("damage", ["truncated", "empty", "no negative"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    ConditioningCache(Encoder(), CPU, home=tmp_path)(texts("red"))  # type: ignore[arg-type]
    kind = "negative" if damage == "no negative" else "prompt"
    (file,) = (tmp_path / "conditioning" / "a").glob(f"{kind}-*")
    file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else 20])
    if damage == "no negative":
        file.unlink()
    again = Encoder()
    found = ConditioningCache(again, CPU, home=tmp_path)(texts("red"))  # type: ignore[arg-type]
    assert again.asked == ["red"]
    assert same(found, Encoder().encode(texts("red")))


def test_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditioning, "DISK_BYTES", 1500)
    cache = ConditioningCache(Encoder(), CPU, home=tmp_path)  # type: ignore[arg-type]
    for number in range(20):
        cache(texts(f"prompt {number}"))
    files = list((tmp_path / "conditioning" / "a").iterdir())
    assert sum(file.stat().st_size for file in files) <= 1500
    assert len(files) > 2


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "conditioning").write_text("a file in the way")
    encoder = Encoder()
    ConditioningCache(encoder, CPU, home=tmp_path)(texts("red"))  # type: ignore[arg-type]
    assert encoder.asked == ["red"]
