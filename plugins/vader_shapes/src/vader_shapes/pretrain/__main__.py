"""`python -m vader_shapes.pretrain [vae|decoder|denoiser|scorer|all] --out DIR`: trains the embedded weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from vader_shapes.pretrain.common import Budget

STAGES = ("vae", "decoder", "denoiser", "scorer")
SHIPPED_STEPS, HORIZON = 900, 2500  # of the denoiser


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vader_shapes.pretrain", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--out", type=Path, required=True, help="working folder: checkpoints, logs, exports")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the stage's own)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end a stage after this long")
    parser.add_argument("--compile", action="store_true", help="torch.compile the denoiser (needs a C++ compiler)")
    arguments = parser.parse_args()
    stages = STAGES if arguments.stage == "all" else (arguments.stage,)
    for stage in stages:
        _run(stage, arguments)


def _run(stage: str, arguments: argparse.Namespace) -> None:
    # Each stage imports its own half of diffusers or torch: `--help` and a single stage stay quick.
    out, seed, minutes = arguments.out, arguments.seed, arguments.minutes
    if stage == "vae":
        from vader_shapes.pretrain.vae import train_vae

        train_vae(out, Budget(arguments.steps or 4000, batch=8, learning_rate=1e-2, minutes=minutes), seed)
    elif stage == "decoder":
        from vader_shapes.pretrain.decoder import train_decoder

        train_decoder(out, Budget(arguments.steps or 1500, batch=8, learning_rate=4e-3, minutes=minutes), seed)
    elif stage == "denoiser":
        from vader_shapes.pretrain.denoiser import train_denoiser

        # The shipped base: its training budget is 900 steps, on a schedule made for a longer run (PRETRAINING.md).
        steps = arguments.steps or SHIPPED_STEPS
        budget = Budget(steps, batch=64, learning_rate=1.5e-2, warmup=100, minutes=minutes, horizon=HORIZON)
        train_denoiser(out, budget, seed, compiled=arguments.compile)
    else:
        from vader_shapes.pretrain.scorer import train_scorer

        train_scorer(out, Budget(arguments.steps or 500, batch=32, learning_rate=1e-2, minutes=minutes), seed)


if __name__ == "__main__":
    main()
