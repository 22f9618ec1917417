import pytest
import timm
import torch
from torch import nn

from conceptatlas.extraction import split
from conceptatlas.extraction.errors import UserError
from conceptatlas.importance.daam import _attention, _is_attention, _watched, concept_flow, daam

VITS = {
    "class token": ("vit_tiny_patch16_224", {}),
    "two prefix tokens": ("deit_tiny_distilled_patch16_224", {}),
    "average pooling, no class token": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "average pooling, class token": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "registers and normed queries": ("vit_tiny_patch16_224", {"reg_tokens": 4, "qk_norm": True}),
}


@pytest.fixture(params=VITS, ids=list(VITS))
def vit(request):
    torch.manual_seed(0)
    name, options = VITS[request.param]
    model = timm.create_model(name, pretrained=False, img_size=64, depth=3, num_classes=5, **options).eval()
    return split(model, "blocks.1", input_size=(64, 64))


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_what_the_tokens_bring_sums_to_what_the_block_computed(vit, images):
    modules = [m for m in vit.model.modules() if _is_attention(m)]
    with _watched(modules) as blocks, torch.no_grad():
        vit.model(images)
        for block in blocks:
            attention, values = _attention(block)
            each = attention[:, :, 0, :, None] * values  # of the first token, (B, heads, N, d)
            torch.testing.assert_close(each.sum(dim=2).flatten(1), block.mixed[0][:, 0], atol=1e-5, rtol=1e-4)


def brought(model, images, index):
    """DAAM written out: for each block, ReLU(sum over queries, heads, channels of ReLU(gradient) attention value)."""
    kept, handles = [], []
    for block in model.blocks:
        block.attn.fused_attn = False
        kept.append({})
        keep = kept[-1].__setitem__
        handles += [
            block.attn.attn_drop.register_forward_hook(lambda m, a, out, keep=keep: keep("attention", out.detach())),
            block.attn.qkv.register_forward_hook(lambda m, a, out, keep=keep: keep("qkv", out.detach())),
            block.attn.proj.register_forward_pre_hook(lambda m, a, keep=keep: keep("mixed", a[0])),
        ]
    output = model(images.clone().requires_grad_())[:, index].sum()
    gradients = torch.autograd.grad(output, [block["mixed"] for block in kept])
    for handle in handles:
        handle.remove()
    maps = []
    for block, gradient in zip(kept, gradients, strict=True):
        n, tokens = gradient.shape[:2]
        value = block["qkv"].reshape(n, tokens, 3, 3, 64)[:, :, 2]
        speaks = gradient.clamp(min=0).reshape(n, tokens, 3, 64)
        each = torch.zeros(n, tokens, tokens)  # query, token
        for query in range(tokens):
            for token in range(tokens):
                share = block["attention"][:, :, query, token, None]
                each[:, query, token] = (speaks[:, query] * share * value[:, token]).sum((1, 2))
        maps.append(each)
    return torch.stack(maps, dim=1)


@pytest.mark.parametrize("kind", ["class token", "average pooling, no class token", "average pooling, class token"])
def test_a_map_is_the_formula_written_out(images, kind):
    torch.manual_seed(0)
    name, options = VITS[kind]
    model = timm.create_model(name, pretrained=False, img_size=64, depth=2, num_classes=5, **options).eval()
    found = daam(split(model, "blocks.1", input_size=(64, 64)), images, 2)
    each = brought(model, images, 2)
    prefix = each.shape[-1] - 16
    queries = slice(0, prefix) if kind == "class token" else slice(prefix, None)
    expected = each[:, :, queries, prefix:].sum(dim=2).clamp(min=0)
    torch.testing.assert_close(found.flatten(2), expected, atol=1e-6, rtol=1e-3)


def test_no_head_gives_a_silent_zero_map(vit, images):
    maps = daam(vit, images, 2)
    assert maps.shape == (2, 3, 4, 4)
    assert float(maps.min()) >= 0.0
    assert (maps[:, -1].amax(dim=(1, 2)) > 0).all()


def test_a_concept_flows_through_the_blocks_up_to_its_layer(vit, images):
    A = vit.encode(images).positions
    W = nn.functional.normalize(A[:, :2].reshape(-1, A.shape[-1]).detach(), dim=1)
    flow = concept_flow(vit, W, images, 1)
    assert flow.shape == (2, 2, 4, 4)
    assert (flow[:, -1].amax(dim=(1, 2)) > 0).any()


def test_the_hooks_are_gone_afterwards(vit, images):
    daam(vit, images, 0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.model.modules())


def test_a_block_that_reads_one_patch_is_mapped_to_that_patch():
    """Attention of the class token forced onto patch 5: the last block's map must be that patch alone."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=1, num_classes=2).eval()
    cut = split(model, "blocks.0", input_size=(64, 64))
    attention = model.blocks[0].attn
    with torch.no_grad():
        attention.qkv.weight[: 2 * 192].zero_()
        attention.qkv.bias[: 2 * 192].zero_()

    def onto_patch_five(module, args, output):
        output = output.clone()
        output[..., :192] = 10.0  # every query
        output[:, 1 + 5, 192:384] = 10.0  # the key of patch 5
        return output

    handle = attention.qkv.register_forward_hook(onto_patch_five)
    try:
        maps = daam(cut, torch.randn(8, 3, 64, 64), 1)[:, 0]
    finally:
        handle.remove()
    assert float(maps.flatten(1)[:, 5].sum() / maps.sum()) > 0.999


def test_models_without_plain_attention_are_refused_with_the_way_out():
    cnn = split(
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), "1", input_size=16
    )
    with pytest.raises(UserError, match="DAAM needs a ViT"):
        daam(cnn, torch.zeros(1, 3, 16, 16), 0)
