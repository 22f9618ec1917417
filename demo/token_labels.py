"""Token labelling: while a vision transformer trains, a linear head tells from each patch token what the patch shows.

The recipe is that of "All Tokens Matter" (Jiang et al. 2021, equation 3): to the loss of the class token comes the mean
loss of the patch tokens, each against a label of its own. There the labels come from a large model; here the generator
knows which pixels show which thing. The heads are thrown away after training: the model that is left is an ordinary one
whose patch tokens tell the parts apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from conceptatlas.demo.config import COMMON_PARTS, DISTRACTORS, PARTS
from conceptatlas.demo.scenes import Scene

#: What a patch can show; the ground comes first, whatever grows on it.
THINGS: tuple[str, ...] = ("background", *DISTRACTORS, *COMMON_PARTS, *PARTS, "tag", "border")
#: The same with what decides nothing taken together: ground, any distractor, any common part, then the rest.
MERGED: tuple[int, ...] = (
    0,
    *(1 for _ in DISTRACTORS),
    *(2 for _ in COMMON_PARTS),
    *range(3, 3 + len(PARTS) + 2),
)


def thing_map(scene: Scene) -> NDArray[np.uint8]:
    """Which of `THINGS` each pixel of a scene shows, (h, w); the foremost where the edges of two meet.

    Examples
    --------
    >>> from conceptatlas.demo.config import SceneConfig
    >>> from conceptatlas.demo.scenes import make_scene
    >>> shown = thing_map(make_scene(SceneConfig(), 0, seed=1, tag=True))
    >>> shown.shape, THINGS.index("tag") in shown
    ((96, 96), True)
    """
    shown = np.zeros(next(iter(scene.parts.values())).shape, np.uint8)
    for name, mask in scene.parts.items():
        if name in THINGS:
            shown[mask] = THINGS.index(name)
    return shown


def token_labels(things: torch.Tensor, patch: int) -> torch.Tensor:
    """Share of each patch's pixels that shows each thing.

    Parameters
    ----------
    things
        (n, h, w) integers, as `thing_map` gives them; height and width are multiples of the patch.
    patch
        Side of a patch in pixels.

    Returns
    -------
    tensor (n, patches, len(THINGS))
        Rows sum to 1; patches go row by row from the top left.

    Examples
    --------
    >>> labels = token_labels(torch.tensor([[[0, 0], [0, 3]]]), 2)
    >>> labels[0, 0, [0, 3]].tolist()
    [0.75, 0.25]
    """
    n, height, width = things.shape
    cells = things.reshape(n, height // patch, patch, width // patch, patch).permute(0, 1, 3, 2, 4)
    cells = cells.reshape(n, -1, patch * patch).long()
    counts = torch.zeros(*cells.shape[:2], len(THINGS), device=things.device)
    return counts.scatter_add_(2, cells, torch.ones_like(cells, dtype=counts.dtype)) / patch**2


class TokenLabelling(nn.Module):
    """Linear heads on the patch tokens behind some blocks of a timm vision transformer; a context manager.

    Parameters
    ----------
    model
        A timm vision transformer.
    blocks
        Behind which of its blocks the tokens are read; with none, any model will do and nothing is read.
    merge
        Take together what decides nothing (`MERGED`).
    exchange
        Behind which block every image gets the class token of its neighbour in the batch, so that the class token
        learns to read the image in the later blocks alone (as if it were inserted there: Touvron et al. 2021,
        "Going deeper with image transformers").

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=32, patch_size=8)
    >>> with TokenLabelling(vit, [3]) as heads:
    ...     _ = vit(torch.zeros(2, 3, 32, 32))
    ...     loss = heads.loss(heads.labels(torch.zeros(2, 32, 32, dtype=torch.uint8)))
    >>> loss.shape
    torch.Size([])
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[int], *, merge: bool = False, exchange: int | None = None
    ) -> None:
        super().__init__()
        vit: Any = model
        self._blocks = [vit.blocks[index] for index in blocks]
        self._prefix, self._patch, width = 0, 1, 1
        self._exchanged = [] if exchange is None else [vit.blocks[exchange]]  # in lists, so as not to be its modules
        if self._blocks or self._exchanged:
            self._prefix, self._patch = int(vit.num_prefix_tokens), int(vit.patch_embed.patch_size[0])
            width = int(vit.embed_dim)
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(THINGS))) for _ in blocks)
        self._merged = torch.tensor(MERGED) if merge else None
        self._seen: dict[int, torch.Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> TokenLabelling:
        self._hooks = [block.register_forward_hook(self._keep) for block in self._blocks]
        self._hooks += [block.register_forward_hook(self._exchange) for block in self._exchanged]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        self._seen[id(module)] = output[:, self._prefix :]

    def _exchange(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, : self._prefix].roll(1, dims=0), output[:, self._prefix :]], dim=1)

    def labels(self, things: torch.Tensor) -> torch.Tensor:
        """Share of each patch that shows each thing, `(n * patches, k)`; things (n, h, w) as in `thing_map`."""
        if self._merged is not None:
            things = self._merged.to(things.device)[things.long()]
        return token_labels(things, self._patch).flatten(0, 1)

    def loss(self, labels: torch.Tensor, *, compactness: float = 0.0) -> torch.Tensor:
        """Mean cross-entropy of the patch tokens of the last forward pass against their `labels`.

        `compactness` is the weight of `davies_bouldin`, which is added.
        """
        losses = []
        for head, block in zip(self.heads, self._blocks, strict=True):
            tokens = self._seen[id(block)].float().flatten(0, 1)
            losses.append(nn.functional.cross_entropy(head(tokens), labels))
            if compactness:
                losses[-1] = losses[-1] + compactness * davies_bouldin(tokens, labels)
        return torch.stack(losses).sum() / len(losses)


def davies_bouldin(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over labels of the worst (spread + spread of another label) / distance of means (Davies, Bouldin 1979).

    Every label that a batch shows counts the same, however small the thing, and each is told from the one nearest to
    it: a ratio of all scatter within labels to all scatter between them would be content with a few that lie far out.
    What decides nothing, such as which ground it is, is so taken out of the tokens.

    Parameters
    ----------
    tokens
        (n, p).
    labels
        (n, k) shares; only tokens with a share above 0.6 count.

    Examples
    --------
    >>> tokens = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    >>> round(davies_bouldin(tokens, torch.eye(2).repeat_interleave(2, 0)).item(), 3)
    0.2
    """
    share, owner = labels.max(dim=1)
    tokens, owner = tokens[share > 0.6], owner[share > 0.6]
    present, owner = owner.unique(return_inverse=True)
    counts = torch.zeros(len(present), device=tokens.device).index_add_(0, owner, torch.ones_like(tokens[:, 0]))
    means = torch.zeros(len(present), tokens.shape[1], device=tokens.device).index_add_(0, owner, tokens)
    means = means / counts[:, None]
    squares = torch.zeros_like(counts).index_add_(0, owner, (tokens - means[owner]).square().sum(dim=1))
    spread = (squares / counts).clamp(min=1e-12).sqrt()
    distance = (means[:, None] - means[None]).square().sum(dim=2).clamp(min=1e-6).sqrt()
    ratios = (spread[:, None] + spread[None]) / distance
    itself = torch.eye(len(present), dtype=torch.bool, device=tokens.device)
    return ratios.masked_fill(itself, 0.0).max(dim=1).values.mean()
