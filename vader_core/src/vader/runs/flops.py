"""Floating-point operations of what runs, backward included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from vader.resolve.plan import Plan


class FlopCounter(TorchDispatchMode):
    """Counts the operations that are started in its context, by the formulas of :mod:`torch.utils.flop_counter`:
    multiplications and additions of matrix products, convolutions and attention, those that are made again in backward
    included.

    Unlike ``FlopCounterMode`` it takes no operation apart and puts no hook on modules, so that numbers stay what they
    are, and it counts the CPU's fused attention too. Compiled code stays compiled, and is not seen; nor are kernels of
    other packages and what runs under ``torch.inference_mode``.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        packet = func.overloadpacket if isinstance(func, OpOverload) else func
        formula: Callable[..., int] | None = _FORMULAS.get(packet)
        if formula is not None:
            self.total += int(formula(*args, **given, out_val=result))
        return result

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """See :class:`torch.utils._python_dispatch.TorchDispatchMode`; else compiled code would run uncompiled."""
        return True


def countable(plan: Plan, processes: int) -> bool:
    """Whether the optimizer steps of a run can be counted whole: all in one process, by kernels that torch knows.

    Args:
        plan: of the run.
        processes: that make it.
    """
    apart = any(reward.isolate is not None for reward in plan.spec.rewards)
    quantized = any(_quantized(part.options) for part in (plan.backbone, *plan.rewards.values()))
    return processes == 1 and not (apart or quantized or plan.spec.train.compile)


def _quantized(options: Any) -> bool:
    """Whether a network's weights are held in fewer bits, whose kernels are another package's."""
    return getattr(options, "quantize", "none") != "none" or getattr(options, "quantization", None) is not None


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **more: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **more: Any
) -> int:
    count = sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)  # type: ignore[no-untyped-call]
    return int(count)


_FORMULAS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
