"""Prompts with images: from YAML, JSON lines, CSV and the spec; and what conditioning keeps of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vader import Conditioning, Prompt
from vader.diffusion.conditioning import ConditioningCache
from vader.prompts.file import FilePrompts
from vader.prompts.listed import ListPrompts
from vader.prompts.rows import Rows, read_rows

FILES = {
    "rows.yaml": "- a fox\n- {text: a boat, image: pictures/boat.png, weight: 2, metadata: {object: boat}}\n",
    "rows.jsonl": '"a fox"\n\n{"text": "a boat", "image": "pictures/boat.png", "weight": 2, "metadata": '
    '{"object": "boat"}}\n',
    "rows.csv": "text,image,weight\na fox,,\na boat,pictures/boat.png,2\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 6), "red").save(tmp_path / "pictures" / "boat.png")
    (tmp_path / "pictures" / "torn.png").write_bytes((tmp_path / "pictures" / "boat.png").read_bytes()[:40])
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_rows_of_every_kind_of_file(folder: Path, name: str) -> None:
    path = folder / name
    path.write_text(FILES[name], encoding="utf-8")
    metadata = {} if name.endswith("csv") else {"object": "boat"}
    boat = Prompt("a boat", metadata, folder / "pictures" / "boat.png")
    assert read_rows(path) == Rows((Prompt("a fox"), boat), (1.0, 2.0))
    source = FilePrompts(FilePrompts.Options(path=str(path)))
    assert [prompt.text for prompt in source.held()] == ["a fox", "a boat"]
    assert sorted(map(str, source.draw(3, random.Random(0)))) == ["a boat", "a boat", "a fox"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.yaml", "- a fox\n- {text: a, image: no.png}", r"row 2 of .*r\.yaml.*no\.png' cannot be read: No such file"),
        ("r.yaml", "- {text: a, image: pictures/torn.png}", r"row 1 .*torn\.png' cannot be read"),
        ("r.yaml", "- {text: a, imgae: b}", r"row 1 .*imgae: Extra inputs.*text, image, weight, metadata"),
        ("r.yaml", "text: a", "holds dict; expected a list of prompts"),
        ("r.yaml", "- {image: a", "is not YAML"),
        ("r.yaml", "", "holds no prompt"),
        ("r.jsonl", '"a"\n{"text": ', "line 2 of the prompt file .* is not JSON"),
        ("r.jsonl", '{"text": "a", "weight": 0}', "line 1 .*weight: Input should be greater than 0"),
        ("r.csv", "text,image\na,no.png\n", "line 2 .*cannot be read"),
        ("r.csv", "words\na\n", "line 2 .*has no field one of text, prompt, prompt_en, caption, only words"),
    ],
)
def test_a_wrong_row_is_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(folder / name)


def test_a_list_takes_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rows: Any = ["a fox", {"text": "a boat", "image": "pictures/boat.png"}]
    source = ListPrompts(ListPrompts.Options(prompts=rows))
    assert source.held() == [Prompt("a fox"), Prompt("a boat", image=Path("pictures/boat.png"))]
    with pytest.raises(ValueError, match=r"prompts\.0: the image 'no\.png' cannot be read"):
        ListPrompts(ListPrompts.Options(prompts=({"text": "a", "image": "no.png"},)))  # type: ignore[arg-type]


class Encoder:
    """Gives what an image holds in both branches, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def conditioning_key(self) -> str:
        return "encoder"

    def encode(self, prompts: list[Prompt]) -> Conditioning:
        self.calls += 1
        seen = torch.tensor([[float(len(p.image.read_bytes())) if p.image else 0.0] for p in prompts])
        text = torch.tensor([[float(len(prompt.text))] for prompt in prompts])
        return Conditioning({"text": text, "image": seen}, {"text": torch.zeros(len(prompts), 1), "image": seen})


def test_conditioning_is_kept_by_the_bytes_of_the_image(folder: Path) -> None:
    encoder, copy = Encoder(), folder / "copy.png"
    cache = ConditioningCache(encoder, torch.device("cpu"), home=folder)  # type: ignore[arg-type]
    copy.write_bytes((folder / "pictures" / "boat.png").read_bytes())
    first, same = (Prompt("a boat", image=path) for path in (folder / "pictures" / "boat.png", copy))
    found = cache([first, same, Prompt("a boat"), Prompt("a fox", image=copy)])
    assert encoder.calls == 3
    copy.write_bytes(b"another")
    later = ConditioningCache(encoder, torch.device("cpu"), home=folder)  # type: ignore[arg-type]
    assert later([first]).positive["image"].item() == found.positive["image"][0].item()
    assert encoder.calls == 3
    assert later([same]).positive["image"].item() == 7
    assert encoder.calls == 4
    again = ConditioningCache(encoder, torch.device("cpu"), home=folder)([first, Prompt("a boat")])  # type: ignore[arg-type]
    assert encoder.calls == 4
    assert again.negative is not None
    assert torch.equal(again.negative["image"], again.positive["image"])
    assert len(list(folder.glob("conditioning/encoder/negative-*"))) == 1
