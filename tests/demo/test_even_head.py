"""What keeps a head even: terms that are zero where it is, and fall in training where it is not."""

import timm
import torch
from torch import nn

from conceptatlas.demo.even_head import EvenHead


def token_model(last_block):
    """A transformer's skeleton of two blocks whose first passes tokens (class token first) on."""

    class Skeleton(nn.Module):
        num_prefix_tokens = 1

        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Identity(), last_block])
            self.norm = nn.Identity()

        def forward(self, tokens):
            for block in self.blocks:
                tokens = block(tokens)
            return self.forward_head(self.norm(tokens))

        def forward_head(self, tokens):
            return tokens[:, 1:].sum(dim=1)

    return Skeleton()


def tokens_and_labels(n=6, patches=8, k=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(k, (n, patches), generator=generator)
    things = 3 * torch.randn(k, 5, generator=generator)
    patch = things[owner] + 0.1 * torch.randn(n, patches, 5, generator=generator)
    tokens = torch.cat([torch.zeros(n, 1, 5), patch], dim=1)
    return tokens, torch.eye(k)[owner.flatten()]


def test_an_affine_head_does_not_bend():
    tokens, labels = tokens_and_labels()
    model = token_model(nn.Linear(5, 3))
    with EvenHead(model, 0) as head:
        model(tokens)
        assert float(head.bending(labels).detach()) < 1e-9


def test_a_head_that_knows_no_scale_bends():
    tokens, labels = tokens_and_labels()
    model = token_model(nn.LayerNorm(5, eps=1e-6))
    with EvenHead(model, 0) as head:
        model(tokens)
        assert float(head.bending(labels).detach()) > 0.05


def test_training_evens_a_head_out():
    torch.manual_seed(0)
    tokens, labels = tokens_and_labels()
    model = token_model(nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    with EvenHead(model, 0) as head:
        for _ in range(60):
            model(tokens)
            loss = head.bending(labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_contrast_is_zero_within_its_limit_and_the_logarithm_beyond():
    labels = torch.eye(2).repeat(2, 1)  # four patches, of two things by turns
    patches = torch.tensor([[[4.0, 1.0], [4.0, -1.0]]]).repeat(1, 2, 1)
    tokens = torch.cat([torch.zeros(1, 1, 2), patches], dim=1)
    model = token_model(nn.Identity())
    with EvenHead(model, 0) as head:
        model(tokens)  # the things lie 1 from their mean, which is 4 long
        assert float(head.contrast(labels, 0.1)) == 0.0
        assert abs(float(head.contrast(labels, 1 / 32)) - 0.6931) < 1e-3


def test_the_model_is_left_without_hooks():
    vit = timm.create_model("test_vit", img_size=32, patch_size=8)
    with EvenHead(vit, 3):
        pass
    assert not any(block._forward_hooks for block in vit.blocks)
