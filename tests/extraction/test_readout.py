import pytest
import timm
import torch

from conceptatlas.extraction.split import split


@pytest.fixture(params=["token", "avg"])
def model(request):
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=5, global_pool=request.param).eval()


def seen_by(module, run):
    shapes = []
    hook = module.register_forward_hook(lambda _, given, __: shapes.append(tuple(given[0].shape)))
    run()
    hook.remove()
    return shapes


def test_the_last_block_is_computed_for_the_one_token_that_is_read(model):
    halves = split(model, "blocks.1")
    images = torch.rand(3, *timm.data.resolve_model_data_config(model)["input_size"])
    features = halves.encode(images)
    tokens = features.positions.shape[1] + features.prefix.shape[1]
    read = 1 if model.global_pool == "token" else tokens
    last = model.blocks[-1]
    for module, expected in ((last.mlp.fc1, read), (last.attn.proj, read), (last.attn.qkv, tokens)):
        assert [shape[1] for shape in seen_by(module, lambda: halves.head(features))] == [expected]


def test_output_and_gradient_stay_the_same(model):
    halves = split(model, "blocks.1")
    images = torch.rand(3, *timm.data.resolve_model_data_config(model)["input_size"], requires_grad=True)
    expected, output = model(images), halves.head(halves.encode(images))
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    slopes = [torch.autograd.grad(logits[:, 2].sum(), images)[0] for logits in (expected, output)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-6)
