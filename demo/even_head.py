"""A head that answers in proportion: what keeps a vision transformer's last blocks from jumping while it trains.

Token labelling makes tokens that hold one thing each and lie far apart. Behind a layer norm the scale of such a token
says nothing, so that taking nine tenths of a thing away changes no answer and the last tenth changes all of it. Trained
transformers on photographs are not like that: their tokens share much, and their heads answer in proportion. Two terms
bring a small one there: the tokens may differ only so much from what they share, and the logits under masks on the
things are held to what lies between (mixup's idea, Zhang et al. 2018, on masks in place of images).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class EvenHead:
    """The head behind one block of a timm vision transformer; a context manager that keeps what the block puts out.

    Parameters
    ----------
    model
        A timm vision transformer.
    block
        Behind which of its blocks the head begins.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=32, patch_size=8)
    >>> with EvenHead(vit, 3) as head:
    ...     _ = vit(torch.zeros(2, 3, 32, 32))
    ...     labels = torch.eye(4).repeat(8, 1)
    ...     bent = head.bending(labels)
    >>> bent.shape
    torch.Size([])
    """

    def __init__(self, model: nn.Module, block: int) -> None:
        vit: Any = model
        self._vit, self._block, self._prefix = vit, block, int(vit.num_prefix_tokens)
        self._tokens = torch.zeros(0)
        self._hook: Any = None

    def __enter__(self) -> EvenHead:
        self._hook = self._vit.blocks[self._block].register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _keep(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        self._tokens = output

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self._vit.blocks[self._block + 1 :]:
            tokens = block(tokens)
        return self._vit.forward_head(self._vit.norm(tokens))

    def bending(self, labels: torch.Tensor) -> torch.Tensor:
        """How far the logits are from affine in masks on the things, as part of how much they vary under masks.

        A token's thing is the label with the largest share, and what the thing adds is the mean of its tokens; a mask
        in [0, 1] for each image and label multiplies it. Of two random masks and one between them, the logits of the
        last are compared with what lies between the logits of the first two.

        Parameters
        ----------
        labels
            ``(n * patches, k)``: shares, as `conceptatlas.demo.token_labels.TokenLabelling.labels` gives them.
        """
        first, patches = self._tokens[:, : self._prefix], self._tokens[:, self._prefix :]
        n, count, width = patches.shape
        owner = labels.argmax(dim=1)
        added = (
            _means(patches.reshape(-1, width).float(), owner, labels.shape[1]).detach()[owner].reshape(n, count, width)
        )
        owner = owner.reshape(n, count)

        def logits(masks: torch.Tensor) -> torch.Tensor:
            kept = torch.gather(masks, 1, owner)[..., None]
            return self._logits(torch.cat([first, patches - (1.0 - kept) * added], dim=1))

        one, other = torch.rand(2, n, labels.shape[1], device=labels.device)
        place = torch.rand(n, 1, device=labels.device)
        at_one, at_other = logits(one), logits(other)
        between = logits(place * one + (1.0 - place) * other)
        off = (between - place * at_one - (1.0 - place) * at_other).square().mean()
        varies = (at_one - at_other).square().mean().detach() / 2.0
        return off / varies.clamp(min=1e-3)

    def contrast(self, labels: torch.Tensor, limit: float) -> torch.Tensor:
        """By how much (log) the labels' mean tokens differ more from what they share than `limit` allows.

        Their mean squared distance from their mean, over that mean's squared length.
        """
        patches = self._tokens[:, self._prefix :].flatten(0, 1).float()
        owner = labels.argmax(dim=1)
        present = torch.bincount(owner, minlength=labels.shape[1]) > 0
        means = _means(patches, owner, labels.shape[1])[present]
        shared = means.mean(dim=0)
        ratio = (means - shared).square().sum(dim=1).mean() / shared.square().sum()
        return torch.relu(torch.log(ratio / limit))


def _means(tokens: torch.Tensor, owner: torch.Tensor, n_labels: int) -> torch.Tensor:
    """Mean token of each label, ``(n_labels, p)``; zeros where it has none."""
    membership = nn.functional.one_hot(owner, n_labels).to(tokens)
    return (membership.T @ tokens) / membership.sum(dim=0).clamp(min=1.0)[:, None]
