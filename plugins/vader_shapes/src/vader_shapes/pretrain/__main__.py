"""`python -m vader_shapes.pretrain STAGE --out DIR` trains the embedded weights, or a part of them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from vader_shapes import WEIGHTS
from vader_shapes.pretrain.common import Budget

STAGES = ("vae", "decoder", "denoiser", "few_steps", "scorer")
BUDGETS = {
    "vae": Budget(7500, batch=8, learning_rate=1e-2),
    "decoder": Budget(1500, batch=8, learning_rate=4e-3),
    "denoiser": Budget(10000, batch=64, learning_rate=1.5e-2, warmup=100),
    "few_steps": Budget(1000, batch=64, learning_rate=4e-3, warmup=30),
    "scorer": Budget(1200, batch=32, learning_rate=1e-2),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vader_shapes.pretrain", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--out", type=Path, required=True, help="working folder: checkpoints, logs, exports")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the results (default: the package's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the stage's own)")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="end a stage after this much processor time"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the denoiser (needs a C++ compiler)")
    arguments = parser.parse_args()
    stages = STAGES if arguments.stage == "all" else (arguments.stage,)
    for stage in stages:
        _run(stage, arguments)


def _run(stage: str, arguments: argparse.Namespace) -> None:
    # Each stage imports its own half of diffusers or torch: `--help` and a single stage stay quick.
    out, seed, weights = arguments.out, arguments.seed, arguments.weights
    budget = replace(BUDGETS[stage], steps=arguments.steps or BUDGETS[stage].steps, minutes=arguments.minutes)
    if stage == "vae":
        from vader_shapes.pretrain.vae import train_vae

        train_vae(out, budget, seed)
    elif stage == "decoder":
        from vader_shapes.pretrain.decoder import train_decoder

        train_decoder(out, budget, seed)
    elif stage == "denoiser":
        from vader_shapes.pretrain.denoiser import train_denoiser

        train_denoiser(out, budget, seed, compiled=arguments.compile, weights=weights / "pipeline")
    elif stage == "few_steps":
        from vader_shapes.pretrain.few_steps import train_few_steps

        train_few_steps(out, budget, seed, weights=weights / "pipeline")
    else:
        from vader_shapes.pretrain.scorer import train_scorer

        train_scorer(out, budget, seed, weights=weights / "scorer" / "model.safetensors")


if __name__ == "__main__":
    main()
