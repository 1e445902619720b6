"""Prompt files from strangers: each kind read as what it is, the rest refused by what it holds, and nothing unsaid."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vader import Prompt
from vader.prompts.file import FilePrompts, as_lines, read_lines, read_prompts, read_weighted
from vader.prompts.rows import read_rows
from vader.resolve.validate import resolve

QUICK = settings(
    max_examples=60,
    deadline=timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VBENCH = [
    {"prompt_en": "a person, swimming", "dimension": ["subject_consistency"]},
    {"prompt_en": "a bird", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
]
HELD = {
    "vbench.json": json.dumps(VBENCH),
    "nested.json": json.dumps([[VBENCH[0]], [[VBENCH[1]]]]),
    "by_name.json": json.dumps({"people": [VBENCH[0]], "animals": ["a bird"]}),
    "texts.json": '["a person, swimming", "a bird"]',
    "rows.jsonl": "".join(json.dumps(row) + "\n" for row in VBENCH),
    "rows.csv": 'id,prompt\n1,"a person, swimming"\n\n2,a bird\n',
    "windows.csv": '\ufeffcaption\r\n"a person, swimming"\r\na bird\r\n',
    "rows.tsv": "prompt_en\tsource\na person, swimming\tx\na bird\ty\n",
    "rows.yaml": "- prompt: a person, swimming\n  class: sport\n- a bird\n",
}


@pytest.mark.parametrize("name", HELD)
def test_every_form_of_file_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(HELD[name], encoding="utf-8", newline="")
    assert [prompt.text for prompt in read_rows(tmp_path / name).prompts] == ["a person, swimming", "a bird"]


def test_other_fields_are_metadata_and_a_column_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps(VBENCH))
    first, second = read_rows(tmp_path / "v.json").prompts
    assert first == Prompt("a person, swimming", {"dimension": ["subject_consistency"]})
    assert second.metadata["auxiliary_info"] == {"color": {"color": "red"}}
    (tmp_path / "c.csv").write_text("prompt,long,weight\na fox,a red fox runs,2\na boat,a boat sails,\n")
    source = FilePrompts(FilePrompts.Options(path=str(tmp_path / "c.csv"), column="long"))
    assert source.held() == (
        Prompt("a red fox runs", {"prompt": "a fox"}),
        Prompt("a boat sails", {"prompt": "a boat"}),
    )
    assert sorted(map(str, source.draw(3, random.Random(0)))) == ["a boat sails", "a red fox runs", "a red fox runs"]


@pytest.mark.parametrize("text", ['a\tb\n"Hello" said a fox\tx\n', 'a\tb\n"never closed\tx\ny\tz\n'])
def test_quotes_in_a_tsv_may_be_characters(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.tsv").write_text(text)
    assert read_rows(tmp_path / "t.tsv", "a").prompts[0].text == text.split("\n")[1].split("\t")[0]


WRONG = {
    "a.csv": ("a,b\n1,2\n", "has no field one of text, prompt, prompt_en, caption, only a, b. Name the one"),
    "b.csv": ("text,b\n1,2,3\n", "line 2 .* has 3 cells under 2 columns. Quote a text with commas"),
    "c.csv": ('text\n"never closed\n', "cannot be read: unexpected end of data"),
    "d.csv": ("text,text\na,b\n", "two columns called 'text'"),
    "e.csv": ("text,image\n,a.png\n", "line 2 .*text: String should have at least 1"),
    "f.csv": ("", "holds no prompt"),
    "g.csv": ("text\n", "holds no prompt"),
    "a.json": ("{", "is not JSON"),
    "b.json": ("[" * 100_000, "nested too deeply"),
    "c.json": ("3", "holds int; expected a list"),
    "d.json": ('{"a": 1}', "holds dict; expected a list"),
    "e.json": ('["a", 3]', "row 2 .*Input should be a valid dict"),
    "f.json": ('["a", null]', "row 2 "),
    "g.json": ('[{"text": "a", "weight": NaN}]', "weight"),
    "h.json": ('["\\ud800"]', "unable to parse raw data as a unicode"),
    "i.json": ('[" "]', "blank"),
    "j.json": ("9" * 5000, "is not JSON"),
    "k.json": ('[{"prompt": ["a"]}]', "text: Input should be a valid string"),
    "l.json": ('[{"text": "a", "weight": true}]', "not true or false"),
    "a.yaml": ("".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)).replace("*a0", "x"),
               "more than 1,000,000 values"),
    "b.yaml": ("- [[[[[[[[[[a]]]]]]]]]]", "holds list"),
    "c.yaml": ("- 2026-02-30\n- !!int x\n", "is not YAML"),
    "a.jsonl": ("a fox\n", "line 1 of .* is not JSON"),
    "a.txt": ('[{"prompt_en": "a"}]', "holds JSON, and its name should end in .json"),
    "b.txt": ('{"text": "a"}\n{"text": "b"}\n', "holds JSON lines, and its name should end in .jsonl"),
    "c.txt": ("id,prompt\n1,a fox\n2,a boat\n", "holds a table, and its name should end in .csv"),
    "d.txt": ("prompt\tid\na fox\t1\n", "holds a table, and its name should end in .tsv"),
    "e.txt": ("- a fox\n- a boat\n", "holds a YAML list, and its name should end in .yaml"),
    "f.txt": ("<!DOCTYPE html>\n<html>", "begins with '<!DOCTYPE html>', which is no prompt"),
    "g.txt": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Run 'git lfs pull'"),
    "h.txt": ("a fox\n\0\n", "is no text"),
    "i.txt": ('["a fox",\n "a boat"]', "holds JSON, and"),
    "j.txt": ("# only\n", "holds no prompt"),
    "k.txt": ("%PDF-1.4\n", "which is no prompt"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_one_error(tmp_path: Path, name: str) -> None:
    text, message = WRONG[name]
    (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(tmp_path / name)
    assert len(str(caught.value)) < 800
    assert "prompt file" in str(caught.value)


@pytest.mark.parametrize(
    "held", [b"\xff\xfea\x00", b"\x89PNG\r\n\x1a\n\0", b"\x1f\x8b\x08\x00", "a fox".encode("utf-16")]
)
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, held: bytes) -> None:
    (tmp_path / "p.txt").write_bytes(held)
    with pytest.raises(ValueError, match=r"the prompt file .*Expected UTF-8 text, one prompt a line"):
        read_rows(tmp_path / "p.txt")


def test_a_text_file_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a fox\n")
    with pytest.raises(ValueError, match="has no columns"):
        read_rows(tmp_path / "p.txt", "prompt")


def test_ordinary_text_is_not_taken_for_something_else(tmp_path: Path) -> None:
    lines = [
        "[3] a fox",
        "[cinematic] a dog, running",
        "{a boat}",
        "text, written on a wall",
        "a, b",
        "- dash",
        "10 men",
    ]
    (tmp_path / "p.txt").write_text("\n".join(lines))
    assert len(read_prompts(tmp_path / "p.txt")) == len(lines)
    (tmp_path / "w.txt").write_text("[3]a\n[2]b\n")
    assert read_weighted(tmp_path / "w.txt") == [("a", 3.0), ("b", 2.0)]


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    texts = ["a\u2028b", "a\x85b", "a\x0bb", "a\x0cb", "a\rb", "a\u2029b", "a\x1cb"[:1] + "c"]
    (tmp_path / "p.txt").write_text("\n".join(texts), encoding="utf-8", newline="")
    assert read_prompts(tmp_path / "p.txt") == texts
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts[:1]), "utf-8")
    assert [p.text for p in read_rows(tmp_path / "p.jsonl").prompts] == texts[:1]
    (tmp_path / "p.csv").write_text("text,weight\na\u2028b,2\n", encoding="utf-8")
    assert read_rows(tmp_path / "p.csv").prompts[0].text == "a\u2028b"


def test_comments_and_weights_are_said(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("# one\n#fox in snow\n[1995] Tokyo\na boat\n")
    comments, weights = read_lines(path).notices
    assert "2 lines that begin with # left out as a comment, the first '# one'" in comments
    assert "1 number in brackets is a weight; 'Tokyo' is drawn 1995 times as often" in weights
    assert "written [1] [1995] Tokyo" in weights
    path.write_text("[1] [1995] Tokyo\na boat\n")
    assert read_prompts(path)[0] == "[1995] Tokyo"
    path.write_text("a boat\n")
    assert read_lines(path).notices == ()
    path.write_text("# one\na boat\n")
    spec = {
        "backbone": "shapes",
        "prompts": {"name": "file", "options": {"path": str(path)}},
        "rewards": ["shapes_motion"],
    }
    plan = resolve(spec, download=False)
    assert "1 line that begins with # left out as a comment" in plan.notices[0]


@QUICK
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=5))
def test_printed_prompts_are_read_back(texts: list[str], tmp_path: Path) -> None:
    kept = [text for text in texts if text.strip()]
    wanted = [text.strip(" ") for text in kept]
    if not wanted or not all(wanted):
        return
    path = tmp_path / "p.txt"
    path.write_text("\n".join(as_lines(kept)), encoding="utf-8", newline="")
    try:
        found = read_prompts(path)
    except ValueError as error:
        if "its name should end in" not in str(error):
            raise
        return
    assert found == [text.removeprefix("\ufeff") if n == 0 else text for n, text in enumerate(wanted)]


@QUICK
@given(
    held=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))),
    end=st.sampled_from([".txt", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ""]),
)
def test_any_file_is_read_or_refused(held: bytes, end: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{end}"
    path.write_bytes(held)
    try:
        rows = read_rows(path)
    except ValueError as error:
        if "prompt file" not in str(error):
            raise
    else:
        assert all(isinstance(prompt.text, str) and prompt.text for prompt in rows.prompts)
