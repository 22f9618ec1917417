import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from conceptatlas.extraction import products
from conceptatlas.extraction.split import split

pytestmark = pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"), reason="PyTorch before 2.9 has no such switch"
)


@pytest.fixture
def better(monkeypatch):
    """Take the path of oneDNN whatever the processor; returns how exact it is here: bfloat16 where there are units."""
    error = 1e-5 if products.is_better() else 2e-2
    monkeypatch.setattr(products, "is_better", lambda: True)
    return error


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def test_products_are_as_exact_as_float32():
    one, other = drawn(64, 700), drawn(700, 48)
    exact = one.double() @ other.double()
    with products.by_onednn():
        error = (one @ other - exact).abs().max() / exact.abs().max()
    assert error < 2e-6


def test_it_is_not_used_where_products_come_out_less_exact(monkeypatch):
    monkeypatch.setattr(products, "AS_EXACT", 0.0)
    assert not products.is_better.__wrapped__()


def test_it_is_not_used_on_other_processors(monkeypatch):
    monkeypatch.setattr(products, "_is_amd", lambda: False)
    assert not products.is_better.__wrapped__()


def test_the_switch_is_put_back_also_after_an_error(better):
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(KeyError), products.by_onednn():
        raise KeyError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_threads_that_overlap_leave_the_switch_as_it_was(better):
    before = torch.backends.mkldnn.matmul.fp32_precision
    first, second = products.by_onednn(), products.by_onednn()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_pytorch_computes_as_before_outside_of_the_calls(better):
    before = torch.backends.mkldnn.matmul.fp32_precision
    seen = []
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda *_: seen.append(torch.backends.mkldnn.matmul.fp32_precision))
    with products.products_by_onednn():
        layer(drawn(2, 3))
    assert seen == [before]


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7)])
def test_gradients_of_linear_layers_are_right(shape):
    weight, bias = drawn(4, 7, dtype=torch.float64), drawn(4, dtype=torch.float64)
    values = drawn(*shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: products._Linear.apply(x, weight, bias), values)
    assert torch.autograd.gradcheck(lambda x: products._Linear.apply(x, weight, None), values)


def test_first_and_second_derivatives_of_attention_are_right():
    given = [drawn(2, 2, n, 3, dtype=torch.float64).requires_grad_() for n in (4, 5, 5)]

    def attend(query, key, value):
        return products._Attention.apply(query, key, value, 0.5)[0]

    assert torch.autograd.gradcheck(attend, given)
    assert torch.autograd.gradgradcheck(attend, given)


def test_attention_is_what_pytorch_computes(better):
    query, key, value = (drawn(2, 3, n, 8).requires_grad_() for n in (4, 6, 6))
    expected = F.scaled_dot_product_attention(query, key, value)
    with products.products_by_onednn():
        found = F.scaled_dot_product_attention(query, key, value)
    assert type(found.grad_fn).__name__ == "_AttentionBackward"
    torch.testing.assert_close(found, expected, rtol=better, atol=better)


def test_the_attention_module_of_pytorch_gives_the_same(better):
    torch.manual_seed(0)
    module, tokens = nn.MultiheadAttention(16, 2, batch_first=True).eval(), drawn(2, 5, 16)
    with torch.inference_mode():
        expected = module(tokens, tokens, tokens, need_weights=False)[0]
        with products.products_by_onednn():
            found = module(tokens, tokens, tokens, need_weights=False)[0]
    torch.testing.assert_close(found, expected, rtol=better, atol=better)


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"attn_mask": torch.ones(4, 4, dtype=torch.bool).tril()}, {"dropout_p": 0.5}]
)
def test_masked_attention_is_left_to_pytorch(better, options):
    query, key, value = (drawn(1, 1, 4, 8).requires_grad_() for _ in range(3))
    with products.products_by_onednn():
        found = F.scaled_dot_product_attention(query, key, value, **options)
    assert type(found.grad_fn).__name__ != "_AttentionBackward"


def test_attention_over_many_tokens_does_not_keep_its_weights(better):
    query, key, value = (drawn(1, 1, 600, 8).requires_grad_() for _ in range(3))
    with products.products_by_onednn():
        found = F.scaled_dot_product_attention(query, key, value)
    assert type(found.grad_fn).__name__ != "_AttentionBackward"


def test_weights_that_are_trained_get_their_gradient(better):
    layer, values = nn.Linear(3, 2), drawn(5, 3).requires_grad_()
    with products.products_by_onednn():
        layer(values).sum().backward()
    torch.testing.assert_close(layer.weight.grad, values.detach().sum(0).expand(2, 3))


def test_other_types_and_autocast_are_left_to_pytorch(better):
    layer = nn.Linear(3, 2, dtype=torch.float64).requires_grad_(False)
    with products.products_by_onednn():
        assert layer(drawn(5, 3, dtype=torch.float64)).dtype == torch.float64
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer.float()(drawn(5, 3)).dtype == torch.bfloat16


def test_a_model_that_is_cut_gives_the_same_output_and_gradients():
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5).eval().requires_grad_(False)
    images = drawn(2, *timm.data.resolve_model_data_config(model)["input_size"]).requires_grad_()
    halves = split(model, "blocks.0")
    found, expected = halves.head(halves.encode(images)), model(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    slopes = [torch.autograd.grad(output[:, 1].sum(), images)[0] for output in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)


def test_derivatives_by_torch_func_pass_through_a_head():
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5).eval().requires_grad_(False)
    halves = split(model, "blocks.0")
    features = halves.encode(drawn(1, *timm.data.resolve_model_data_config(model)["input_size"]))
    slope = torch.func.jacrev(lambda positions: halves.head(features.replace(positions=positions))[0, 1])
    leaf = features.positions.clone().requires_grad_()
    expected = torch.autograd.grad(halves.head(features.replace(positions=leaf))[0, 1], leaf)[0]
    torch.testing.assert_close(slope(features.positions), expected, rtol=1e-4, atol=1e-6)
