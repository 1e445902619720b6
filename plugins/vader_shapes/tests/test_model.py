from __future__ import annotations

from pathlib import Path

import torch

from vader_shapes import WEIGHTS, model, world
from vader_shapes.pretrain.data import prompts_of
from vader_shapes.scenes import splits


def call(pipeline: object, prompts: list[str]) -> torch.Tensor:
    return pipeline(  # type: ignore[operator]
        prompt=prompts,
        height=world.SIZE,
        width=world.SIZE,
        num_frames=world.FRAMES,
        num_inference_steps=2,
        guidance_scale=3.0,
        max_sequence_length=model.MAX_SEQUENCE_LENGTH,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames


def test_tokenizer_pads_ends_and_knows_every_word() -> None:
    tokenizer = model.build_tokenizer()
    prompts = [*prompts_of(splits.held_out_split), *prompts_of(splits.train_split)]
    ids = tokenizer([*prompts, ""], padding="max_length", max_length=20, truncation=True).input_ids
    assert {len(row) for row in ids} == {20}
    assert all(tokenizer.unk_token_id not in row for row in ids)
    assert all(tokenizer.eos_token_id in row for row in ids), "no prompt is cut"
    assert ids[-1] == [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * 19
    assert tokenizer.unk_token_id in tokenizer("a hexagon").input_ids


def test_a_fresh_pipeline_saves_loads_offline_and_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipeline = model.build_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded = model.load_pipeline(tmp_path)
    prompts = ["a red circle moving left on a black background", ""]
    frames = call(loaded, prompts)
    assert frames.shape == (2, world.FRAMES, 3, world.SIZE, world.SIZE)
    assert torch.allclose(frames, call(pipeline, prompts), atol=1e-4)


def test_embedded_weights_load_and_run() -> None:
    pipeline = model.load_pipeline()
    assert pipeline.transformer.dtype == pipeline.vae.dtype == torch.float32
    frames = call(pipeline, ["a blue square moving up on a white background"])
    assert frames.shape == (1, world.FRAMES, 3, world.SIZE, world.SIZE)
    assert torch.isfinite(frames).all()


def test_embedded_weights_are_small_and_safe() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json"}
