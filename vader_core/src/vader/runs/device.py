"""What a run asks of its device: precision and memory."""

from __future__ import annotations

import torch

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Mixed precision -> dtype of the frozen weights."""


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far: allocated on the device, or resident in this process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
