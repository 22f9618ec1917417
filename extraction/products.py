"""Products of float32 matrices by oneDNN on AMD processors, where MKL leaves half of the vector units idle.

On x86, PyTorch multiplies float32 matrices with Intel's MKL, which on AMD processors runs the kernels of AVX2, whatever
else they can do. oneDNN, another part of PyTorch, has float32 kernels for AVX-512, and is asked only where less than
float32 is allowed. On processors that have nothing faster than float32 it takes these kernels then. Whether it does is
measured before it is used: the error of a product must be that of float32. Measured on an EPYC 9005, one thread:
109 and 220 GFLOP/s; a gradient through three blocks of DeiT-tiny takes two thirds of the time.

Convolutions go through oneDNN in any case. Nothing here changes how PyTorch computes outside of the calls.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

MOST_PAIRS = 512**2  # of a query and a key, whose weights are kept for the backward pass
AS_EXACT = 10.0  # times the error of MKL: float32 summed in another order has 1 to 5, bfloat16 has 4,000
PLAIN = (torch.Tensor, torch.nn.Parameter)  # and no subclass, which may compute in its own way


@contextmanager
def by_onednn() -> Iterator[None]:
    """Multiply float32 matrices by oneDNN meanwhile, where it does so in float32 and faster (`is_better`).

    >>> with by_onednn():
    ...     (torch.eye(2) @ torch.ones(2, 1)).tolist()
    [[1.0], [1.0]]
    """
    if not is_better():
        yield
        return
    with _switched:
        yield


def products_by_onednn() -> AbstractContextManager[Any]:
    """Return what a model's linear layers and attentions run under: `by_onednn` for these alone, or nothing.

    Gradients by the inputs of linear layers whose weights need none, and of attentions, go through oneDNN too.
    """
    return nullcontext() if torch.compiler.is_compiling() or not is_better() else _Products()


@cache
def is_better() -> bool:
    """Say whether oneDNN multiplies in float32 on this machine, and faster than what PyTorch takes."""
    if not hasattr(torch.backends.mkldnn, "matmul") or not torch.backends.mkldnn.is_available():
        return False
    capability = torch.backends.cpu.get_cpu_capability()
    if not (capability.startswith("AVX512") and torch.backends.mkl.is_available() and _is_amd()):
        return False
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(128, 512, generator=generator), torch.randn(512, 64, generator=generator)
    exact = one.double() @ other.double()
    usual = one @ other
    with _switched:
        switched = one @ other
    return bool((switched - exact).abs().max() <= AS_EXACT * (usual - exact).abs().max())


def _is_amd() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:1000]
    except OSError:
        text = platform.processor()
    return "AuthenticAMD" in text


class _Switch:
    """Lets oneDNN multiply while anyone is inside; it takes float32 kernels where the processor has no faster ones."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, "none"

    def __enter__(self) -> None:
        products = torch.backends.mkldnn.matmul
        with self._lock:
            if not self._inside:
                self._before, products.fp32_precision = products.fp32_precision, "bf16"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.backends.mkldnn.matmul.fp32_precision = self._before


_switched = _Switch()


class _Products(TorchFunctionMode):
    """Runs linear layers, and attentions that need a gradient, by oneDNN; everything else as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and _are_plain(args) and set(kwargs) <= {"weight", "bias"}:
            return _linear(*args, **kwargs)
        if func is F.scaled_dot_product_attention and _is_small_attention(args, kwargs):
            scale = kwargs.get("scale")
            return _Attention.apply(*args, args[0].shape[-1] ** -0.5 if scale is None else scale)[0]
        if func is F.multi_head_attention_forward and _are_plain(args[:3]):
            with _switched:
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _are_plain(tensors: Any) -> bool:
    """Say whether there are tensors, and all of them float32 on the CPU, and computed with as such."""
    return (
        len(tensors) > 0
        and not torch.is_autocast_enabled("cpu")
        and all(
            one is None or (type(one) in PLAIN and one.device.type == "cpu" and one.dtype == torch.float32)
            for one in tensors
        )
    )


def _linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and values.requires_grad and not trained:
        return _Linear.apply(values, weight, bias)
    with _switched:
        return F.linear(values, weight, bias)


def _is_small_attention(args: Any, kwargs: dict[str, Any]) -> bool:
    """Say whether an attention needs a gradient, and is plain and small enough to keep its weights for it."""
    special = [kwargs.get(name) for name in ("attn_mask", "dropout_p", "is_causal", "enable_gqa")]
    if len(args) != 3 or any(isinstance(given, torch.Tensor) or given for given in special):
        return False
    query, key, value = args
    same = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    small = query.ndim == 4 and query.shape[-2] * key.shape[-2] <= MOST_PAIRS
    return same and small and _are_plain(args) and torch.is_grad_enabled() and any(one.requires_grad for one in args)


class _Linear(torch.autograd.Function):
    """A linear layer whose weights need no gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        with _switched:
            return F.linear(values, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        with _switched:
            return gradients[0] @ weight, None, None


class _Attention(torch.autograd.Function):
    """softmax(q k^T scale) v, and its weights, which are kept for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with _switched:
            weights = _weights(query, key, scale)
            return weights @ value, weights

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        query, key, value, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(query, key, value, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        query, key, value, weights = ctx.saved_tensors
        with _switched:
            if torch.is_grad_enabled():  # a second derivative is wanted: the weights are a function of query and key
                weights = _weights(query, key, ctx.scale)
            of_weights = gradients[0] @ value.transpose(-2, -1)
            moved = weights * (of_weights - (of_weights * weights).sum(dim=-1, keepdim=True)) * ctx.scale
            return moved @ key, moved.transpose(-2, -1) @ query, weights.transpose(-2, -1) @ gradients[0], None


def _weights(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    return ((query * scale) @ key.transpose(-2, -1)).softmax(dim=-1)
