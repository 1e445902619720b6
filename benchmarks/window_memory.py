"""Memory and time of the gradient window: K = 1, 2, 4, 8, with recomputation and without.

Run it on an idle machine: ``python benchmarks/window_memory.py``. Each case runs forward and backward in a process of
its own, whose growth in resident memory is the peak (glibc is told to give every large block back at once); cases take
turns, so that a noisy machine blurs all rows alike. Figures are ratios to K = 1 with recomputation.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time

import torch
from torch import Tensor, nn

from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.diffusion.samplers.flow_euler import FlowEuler, FlowEulerOptions
from vader.protocols import Branch, Conditioning, NoiseSchedule, SamplerContext, Video

STEPS, ROUNDS, WIDTH, SHAPE = 10, 2, 128, (8, 8, 32, 32)


class Denoiser(nn.Module):
    """Wide residual layers, whose activations outweigh the latents as those of a real denoiser do."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(SHAPE[0], WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)) for _ in range(6)
        )
        self.outward = nn.Linear(WIDTH, SHAPE[0])

    def forward(self, latents: Tensor) -> Tensor:
        """``(b c f h w)`` -> the same."""
        hidden = self.inward(latents.movedim(1, -1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.outward(hidden).movedim(-1, 1)


def measure(k: int, recompute: bool) -> tuple[int, float]:
    """Growth of peak resident memory in bytes, and seconds, of one forward and backward."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    denoiser = Denoiser()

    def predict(latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return denoiser(latents)

    device = torch.device("cpu")
    context = SamplerContext(NoiseSchedule("flow"), STEPS, 0.0, Video(4, 16, 16), device)
    embeds = torch.zeros(2, 1, 1)
    noise = ClipNoise([1, 2], SHAPE, device, torch.float32)
    sampler, window = FlowEuler(FlowEulerOptions(), context), Window(STEPS - k, STEPS)
    before, start = _peak(), time.perf_counter()
    latents = rollout(predict, sampler, Conditioning(embeds, embeds), noise, window, recompute=recompute)
    latents.square().mean().backward()
    return _peak() - before, time.perf_counter() - start


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print the table."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    cases = [(k, recompute) for recompute in (True, False) for k in (1, 2, 4, 8)]
    memory: dict[tuple[int, bool], int] = {}
    seconds: dict[tuple[int, bool], list[float]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        for case in cases:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                memory[case], spent = pool.apply(measure, case)
            seconds[case].append(spent)
    base = (1, True)
    print("K  recompute  peak MiB  memory / K=1  seconds / K=1")
    for case in cases:
        ratio = min(seconds[case]) / min(seconds[base])
        share = memory[case] / memory[base]
        print(f"{case[0]}  {case[1]!s:<9}  {memory[case] / 2**20:8.1f}  {share:12.2f}  {ratio:13.2f}")


if __name__ == "__main__":
    main()
