"""DAAM: what each attention block of a ViT brings to a target from each patch.

In a block, head by head, the output at a query q is sum_i a_qi v_i over the tokens i: F_i = a_qi v_i is what token i
brings, and the F_i sum to the output exactly. Weighting the channels by the target's gradient there, and keeping the
channels that speak for the target, gives a map per block: ReLU(sum_qc ReLU(g_qc) a_qi v_ic). The published form
(Dissection of attention via attribution maps, class-token query) takes q = class token. Where the head pools the
patches, the class token's gradient is exactly zero and that map would be silently empty: there, and for a concept
direction, which is read on the patches, the queries are the patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from conceptatlas.extraction.errors import UserError
from conceptatlas.importance.implicit import frozen
from conceptatlas.importance.maps import nnls_transform
from conceptatlas.importance.targets import as_target

if TYPE_CHECKING:
    from conceptatlas.extraction import SplitModel


def daam(split_model: SplitModel, images: torch.Tensor, target: Any, *, batch_size: int = 8) -> torch.Tensor:
    """What each block brings to a target from each patch.

    Parameters
    ----------
    split_model : SplitModel
        A ViT, cut anywhere.
    images : tensor (B, 3, H, W)
        Normalised images.
    target : int, Target or callable
        A class index, `margin`, `similarity` or a callable logits -> (B,).
    batch_size : int
        Images per pass.

    Returns
    -------
    tensor (B, blocks, h, w), float32
        Non-negative; ``.sum(dim=1)`` is the published map (all blocks together).

    Raises
    ------
    UserError
        If the model has no attention block of the plain kind (one attention over all tokens, one `qkv` projection).
    """
    wanted = as_target(target)
    return _in_batches(split_model, images, lambda x: wanted(split_model.model(x)), batch_size)


def concept_flow(
    split_model: SplitModel,
    W: np.ndarray | torch.Tensor,
    images: torch.Tensor,
    concept: int,
    *,
    batch_size: int = 8,
) -> torch.Tensor:
    """What each block up to the layer brings to a concept from each patch: the concept's flow through depth.

    Parameters
    ----------
    split_model : SplitModel
        A ViT, cut at the concepts' layer.
    W : array or tensor (k, p)
        Concept directions.
    images : tensor (B, 3, H, W)
        Normalised images.
    concept : int
        Which direction; the target is its coefficient, mean over the patches.
    batch_size : int
        Images per pass.

    Returns
    -------
    tensor (B, blocks up to the layer, h, w), float32
        Non-negative.
    """
    coefficients = nnls_transform(W, images.device)

    def presence(x: torch.Tensor) -> torch.Tensor:
        positions = split_model.encode(x).positions
        return coefficients(positions.flatten(0, 1))[:, concept].reshape(positions.shape[:2]).mean(dim=1)

    return _in_batches(split_model, images, presence, batch_size)


@dataclass
class _Block:
    """What one attention block computed in a forward pass."""

    module: Any
    qkv: torch.Tensor | None = None  # (B, N, 3 p)
    mixed: list[torch.Tensor] = field(default_factory=list)  # (B, N, p), what goes into the projection


def _in_batches(
    split_model: SplitModel,
    images: torch.Tensor,
    scalar: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int,
) -> torch.Tensor:
    modules = [m for m in split_model.model.modules() if _is_attention(m)]
    if not modules:
        raise UserError(
            "DAAM needs a ViT whose blocks attend over all tokens with one qkv projection; this model has none"
        )
    grid = _grid(split_model)
    return torch.cat([_of_batch(split_model.model, modules, some, scalar, grid) for some in images.split(batch_size)])


def _of_batch(
    model: nn.Module,
    modules: list[nn.Module],
    images: torch.Tensor,
    scalar: Callable[[torch.Tensor], torch.Tensor],
    grid: tuple[int, int],
) -> torch.Tensor:
    with torch.inference_mode(False), frozen(model), torch.enable_grad(), _watched(modules) as blocks:
        total = scalar(images.detach().clone().requires_grad_()).sum()
        ran = [block for block in blocks if block.mixed]
        gradients = torch.autograd.grad(total, [block.mixed[0] for block in ran], allow_unused=True)
    found = [(b, torch.zeros_like(b.mixed[0]) if g is None else g) for b, g in zip(ran, gradients, strict=True)]
    prefix = found[-1][1].shape[1] - grid[0] * grid[1]
    reads_prefix = prefix > 0 and any(float(g[:, :prefix].abs().max()) > 0 for _, g in found[-1:])
    with torch.no_grad():
        maps = [_block_map(block, gradient, prefix, reads_prefix) for block, gradient in found]
    return torch.stack(maps, dim=1).reshape(len(images), len(maps), *grid).float()


def _block_map(block: _Block, gradient: torch.Tensor, prefix: int, reads_prefix: bool) -> torch.Tensor:
    """ReLU(sum over queries and channels of ReLU(g) a v) per patch, (B, P)."""
    attention, values = _attention(block)
    heads, width = values.shape[1], values.shape[-1]
    queries = slice(0, prefix) if reads_prefix else slice(prefix, None)
    wanted = gradient.clamp(min=0).unflatten(-1, (heads, width)).transpose(1, 2)[:, :, queries]
    brought = attention[:, :, queries] * (wanted @ values.transpose(-2, -1))
    return brought.sum(dim=(1, 2))[:, prefix:].clamp(min=0)


def _attention(block: _Block) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (B, heads, N, N) and values (B, heads, N, d), checked against what the block itself computed."""
    module, qkv, mixed = block.module, block.qkv, block.mixed[0]
    if qkv is None:
        raise UserError("DAAM could not see the qkv projection of an attention block")
    heads = module.num_heads
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = (
        norm(x) if isinstance(norm, nn.Module) else x
        for norm, x in ((getattr(module, "q_norm", None), q), (getattr(module, "k_norm", None), k))
    )
    attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    again = (attention @ v).transpose(1, 2).flatten(2)
    if again.shape != mixed.shape or not torch.allclose(again, mixed, atol=1e-3, rtol=1e-3):
        raise UserError(
            f"DAAM knows plain attention only, and {type(module).__name__} computes something else "
            "(windows, rotary embeddings, relative positions); take class_maps instead"
        )
    return attention, v


@contextmanager
def _watched(modules: list[nn.Module]) -> Iterator[list[_Block]]:
    """Keep what goes out of each qkv projection and into each output projection."""
    blocks, handles = [_Block(module) for module in modules], []
    for block in blocks:

        def keep_qkv(_module: nn.Module, _args: Any, output: torch.Tensor, block: _Block = block) -> None:
            block.qkv = output.detach()

        def keep_mixed(_module: nn.Module, args: tuple[torch.Tensor, ...], block: _Block = block) -> None:
            block.mixed.append(args[0])

        handles += [block.module.qkv.register_forward_hook(keep_qkv)]
        handles += [block.module.proj.register_forward_pre_hook(keep_mixed)]
    try:
        yield blocks
    finally:
        for handle in handles:
            handle.remove()


def _is_attention(module: nn.Module) -> bool:
    parts = (getattr(module, "qkv", None), getattr(module, "proj", None))
    return all(isinstance(part, nn.Linear) for part in parts) and hasattr(module, "num_heads")


def _grid(split_model: SplitModel) -> tuple[int, int]:
    """The patches' grid: from the deepest cut point that holds tokens."""
    tokens = [cut.grid for cut in split_model.cut_points if cut.layout == "NLC" and cut.grid and min(cut.grid) > 1]
    if not tokens:
        raise UserError("DAAM needs patches that lie row by row on the image; this model's tokens do not")
    return tokens[-1]
