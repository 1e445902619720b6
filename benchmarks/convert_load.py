"""Time and memory of loading VideoCrafter2 at its real size: as published, converted, and as the reference does it.

``python benchmarks/convert_load.py FOLDER`` writes a random checkpoint with the names and shapes of the published
512 v2 (7.4 GB in float32) into a folder, converts it with ``vader convert``'s own code, and loads each in the run's
precision, on the CPU, in a process of its own. Cases take turns, so that a noisy machine blurs all rows alike; figures
are the least of all rounds, and ratios to the published file of the same kind of round.

* cold: the file is dropped from the system's cache first (``posix_fadvise``); warm: it is read once first.
* loaded: until the networks are there. Used: until every page of every weight was touched as well, which is what a
  comparison should use: weights that need no conversion are mapped and not read before that.
* anonymous: growth of memory that is no mapped file, at its highest. Mapped pages are the file's own, and the system
  takes them back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parents[1]
KEYS = ROOT / "tests" / "golden" / "videocrafter_ckpt_keys_inference_t2v_512_v2.0.json"
PUBLISHED, CONVERTED = "model.ckpt", "model.safetensors"
CPU = torch.device("cpu")


def prepare(folder: Path, dtype: str) -> None:
    """Write both files, where they are not there."""
    from vader.resolve.components import ResolvedComponent
    from vader.resolve.conversion import conversion_of
    from vader.weights.conversion import write
    from vader_videocrafter.backbone import VideoCrafter2, VideoCrafter2Options

    folder.mkdir(parents=True, exist_ok=True)
    published, converted = folder / PUBLISHED, folder / CONVERTED
    if not published.is_file():
        shapes = json.loads(KEYS.read_text(encoding="utf-8"))["keys"]
        generator = torch.Generator().manual_seed(0)
        state = {
            name: torch.empty(shape).uniform_(-0.05, 0.05, generator=generator) for name, (shape, _) in shapes.items()
        }
        torch.save({"state_dict": state}, published)
    if not converted.is_file():
        part = ResolvedComponent(
            "backbone", "videocrafter2", VideoCrafter2, VideoCrafter2Options(weights=str(published))
        )
        start = time.perf_counter()
        size = write(conversion_of(part, dtype), converted, lambda *_: None)
        print(f"converted and verified {size:,} bytes in {time.perf_counter() - start:.1f} s")


def reference(path: Path, dtype: torch.dtype) -> tuple[nn.Module, ...]:
    """Networks with their first random weights, the whole file read, copied into place, converted."""
    from vader_videocrafter import network, weights
    from vader_videocrafter.checkpoint import open_checkpoint
    from vader_videocrafter.layout import read

    sizes = read(open_checkpoint(path, "it").shapes, "it")
    parts = (network.build_unet(sizes.unet), network.build_vae(sizes.vae), network.build_text_encoder(sizes.text))
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    for module, names in zip(parts, weights.Networks(*parts).names(sizes), strict=True):
        shapes = {ours: parameter.shape for ours, parameter in module.named_parameters()}
        module.load_state_dict({ours: state[theirs].reshape(shapes[ours]) for ours, theirs in names.items()})
    return tuple(nn.Module.to(module, kind) for module, kind in zip(parts, (dtype, torch.float32, dtype), strict=True))


def loader(path: Path, dtype: torch.dtype) -> tuple[nn.Module, ...]:
    """The plugin's own."""
    from vader_videocrafter import weights

    parts = weights.load(path, "it", CPU, dtype, CPU)
    return parts.unet, parts.vae, parts.text_encoder


CASES: dict[str, tuple[Callable[[Path, torch.dtype], tuple[nn.Module, ...]], str]] = {
    "published, reference's way": (reference, PUBLISHED),
    "published": (loader, PUBLISHED),
    "converted": (loader, CONVERTED),
}


def measure(case: str, folder: Path, dtype: str, cold: bool) -> tuple[float, float, int]:
    """Seconds until loaded and until used, and growth of anonymous memory in bytes."""
    import vader_videocrafter.weights  # noqa: F401 (imports are not what is measured)

    torch.set_num_threads(1)
    load, name = CASES[case]
    with (folder / name).open("rb", buffering=0) as file:
        if cold:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            block = bytearray(1 << 24)
            while file.readinto(block):
                pass
    before, highest, done = _anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            highest[0] = max(highest[0], _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    parts = load(folder / name, getattr(torch, dtype))
    loaded = time.perf_counter() - start
    for module in parts:
        for parameter in module.parameters():
            parameter.detach().reshape(-1)[::512].float().sum()
    used = time.perf_counter() - start
    done.set()
    watcher.join()
    return loaded, used, max(highest[0], _anonymous()) - before


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for 11 GB of checkpoints")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16", help="of the run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-reference", action="store_true", help="leave out the reference's way, which takes 15 GB")
    given = parser.parse_args()
    cases = [case for case, (load, _) in CASES.items() if load is not reference or not given.no_reference]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1) as pool:
        pool.apply(prepare, (given.folder, given.dtype))
    found: dict[tuple[bool, str], list[tuple[float, float, int]]] = {}
    for _ in range(given.rounds):
        for cold in (True, False):
            for case in cases:
                with spawn.Pool(1) as pool:
                    result = pool.apply(measure, (case, given.folder, given.dtype, cold))
                found.setdefault((cold, case), []).append(result)
    print(f"{given.dtype} run     file                        loaded s   used s   ratio  anonymous GiB")
    for (cold, case), results in found.items():
        loaded, used, memory = (min(column) for column in zip(*results, strict=True))
        ratio = used / min(result[1] for result in found[cold, "published"])
        kind = "cold" if cold else "warm"
        print(f"{kind:<14}  {case:<26}  {loaded:8.2f} {used:8.2f} {ratio:7.2f} {memory / 2**30:14.2f}")


if __name__ == "__main__":
    main()
