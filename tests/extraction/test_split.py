"""Split models: two exact halves, gradients through layers, and a user's model left as it was."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn

from conceptatlas.extraction.cutpoints import cut_points
from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.extraction.features import Features, to_features, to_value
from conceptatlas.extraction.split import split

SMALL = ["test_vit", "test_vit4", "test_resnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_maxvit",
         "test_byobnet"]  # fmt: skip


def noise(split_model, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *split_model.input_size, generator=generator)


def relative_error(found, expected):
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.create_model("test_vit").eval()


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1)]
    head = [nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 4)]
    return nn.Sequential(*layers, *head).eval()


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_head_of_encode_is_the_model_at_every_cut(name):
    model = timm.create_model(name).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():  # some heads start at zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    points = cut_points(model)
    halves = split(model, points[0])
    images = noise(halves)
    expected = model(images)
    for point in points[:: max(1, len(points) // 12)] + points[-1:]:
        at = halves.at(point)
        assert relative_error(at.head(at.encode(images)), expected) < 1e-5, point


@torch.no_grad()
def test_the_head_takes_any_batch_size(vit):
    halves = split(vit, "blocks.2")
    images = noise(halves, 5)
    features = halves.encode(images)
    one = Features(features.positions[3:4], features.prefix[3:4], features.grid)
    torch.testing.assert_close(halves.head(one), vit(images[3:4]), rtol=1e-4, atol=1e-5)


def test_the_head_does_not_write_into_the_callers_activations(net):
    halves = split(net, "3", input_size=(8, 8))
    features = halves.encode(noise(halves))
    before = features.positions.clone()
    halves.head(features)
    assert torch.equal(features.positions, before)
    assert bool((before < 0).any())


@torch.no_grad()
def test_features_convert_there_and_back_in_every_layout():
    value = torch.randn(2, 12, 12, 12)
    for layout in ("NCHW", "NHWC"):
        assert torch.equal(to_value(to_features(value, layout, (12, 12), 0), layout), value)
    tokens = torch.randn(2, 14, 5)
    features = to_features(tokens, "NLC", (3, 4), 2)
    assert features.prefix.shape == (2, 2, 5)
    assert features.spatial.shape == (2, 3, 4, 5)
    assert torch.equal(to_value(features, "NLC"), tokens)
    assert torch.equal(to_value(to_features(tokens[:, 0], "NC", None, 0), "NC"), tokens[:, 0])


def test_gradients_of_later_positions_reach_earlier_ones_in_one_pass(net):
    halves = split(net, "3", input_size=(8, 8))
    images = noise(halves)
    earlier, last = halves.encode_through(images, ["0"])
    found = torch.autograd.grad(last.positions.square().sum(), earlier.positions)[0]
    value = net[0](images).detach().requires_grad_()
    expected = torch.autograd.grad(net[3](net[2](net[1](value)).clone()).square().sum(), value)[0]
    torch.testing.assert_close(found, to_features(expected, "NCHW", None, 0).positions)
    torch.testing.assert_close(last.positions, halves.encode(images).positions)


def test_gradients_go_through_several_token_layers(vit):
    halves = split(vit, "blocks.4")
    frozen = [parameter.requires_grad_(False) for parameter in vit.parameters()]
    try:
        first, second, last = halves.encode_through(noise(halves), ["blocks.0", halves.at("blocks.2").layer])
        gradients = torch.autograd.grad(last.positions[:, 7, 0].sum(), [first.positions, second.positions])
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)
    assert first.positions.shape == second.positions.shape


def test_layers_out_of_order_are_refused(vit):
    with pytest.raises(LayerError, match="one after another before 'blocks.1'"):
        split(vit, "blocks.1").encode_through(torch.zeros(1, 3, 160, 160), ["blocks.3"])


@pytest.mark.parametrize(
    ("name", "layer", "affine"),
    [
        ("test_resnet", "layer4", True),
        ("test_resnet", "layer3", False),
        ("test_efficientnet", "bn2", True),
        ("test_convnext", "stages.3", False),
        ("test_vit", "blocks.5", False),
        ("test_vit", "norm", False),
        ("vit_wee_patch16_reg1_gap_256", "norm", False),
    ],
)
def test_affine_heads_are_told_from_others(name, layer, affine):
    model = timm.create_model(name).eval()
    halves = split(model, layer)
    if name == "test_vit":  # only the class token is read after the last norm: affine, and no function of the positions
        affine = layer == "norm"
    if name == "vit_wee_patch16_reg1_gap_256":
        affine = isinstance(model.fc_norm, nn.Identity)
    assert halves.head_is_affine is affine


def test_a_head_that_weighs_positions_is_not_affine_in_their_mean():
    class Weighing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.fc = nn.Linear(4 * 16, 2)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    assert not split(Weighing(), "conv", input_size=(4, 4)).head_is_affine


class Wrapped(nn.Sequential):
    """A small classifier that returns its logits inside something else."""

    def __init__(self, wrap):
        super().__init__(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward(x))


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: tuple


@pytest.mark.parametrize(
    ("wrap", "take"),
    [
        (lambda y: {"logits": y, "hidden": y.sum()}, lambda out: out["logits"]),
        (lambda y: {"out": y, "aux": None}, lambda out: out["out"]),
        (lambda y: OrderedDict(scores=y), lambda out: out["scores"]),
        (lambda y: Answer(logits=y, hidden=(y, y)), lambda out: out.logits),
        (lambda y: (y,), lambda out: out[0]),
    ],
    ids=["logits", "the only tensor", "one", "attribute", "tuple of one"],
)
def test_fault_43_logits_that_can_be_meant_alone_are_taken(wrap, take):
    model = Wrapped(wrap).eval()
    halves = split(model, "0", input_size=(8, 8))
    images = noise(halves)
    assert torch.equal(halves.head(halves.encode(images)), take(model(images)))
    assert halves.head_is_affine


@pytest.mark.parametrize(
    ("wrap", "kind"), [(lambda y: {"a": y, "b": 2 * y}, "dict"), (lambda y: (y, 2 * y), "tuple"), (str, "str")]
)
def test_fault_43_an_output_that_leaves_a_choice_needs_an_output_function_and_is_named(wrap, kind):
    model = Wrapped(wrap).eval()
    with pytest.raises(UserError, match=f"returns a {kind}.*output_fn"):
        split(model, "0", input_size=(8, 8))
    if kind != "str":
        halves = split(
            model,
            "0",
            input_size=(8, 8),
            output_fn=lambda output: list(dict(output).values())[1] if isinstance(output, dict) else output[1],
        )
        images = noise(halves)
        wanted = model(images)
        assert torch.equal(halves.head(halves.encode(images)), wanted["b"] if kind == "dict" else wanted[1])


def test_fault_43_a_model_output_and_a_tuple_pass_through_an_output_function():
    class ModelOutput(OrderedDict):
        def __getattr__(self, name):
            return self[name]

    class Hub(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(4, 2)

        def forward(self, pixel_values=None, labels=None, return_dict=True):
            logits = self.head(self.embed(pixel_values).flatten(2).mean(2))
            return ModelOutput(logits=logits, loss=None) if return_dict else (logits, None)

    model = Hub().eval()
    halves = split(model, "embed", input_size=(8, 8), output_fn=lambda output: output.logits)
    images = noise(halves)
    assert torch.equal(halves.head(halves.encode(images)), model(images).logits)
    assert torch.equal(split(model, "embed", input_size=(8, 8)).head(halves.encode(images)), model(images).logits)


@pytest.mark.parametrize("model", [None, 3, lambda images: images], ids=["none", "number", "function"])
def test_what_is_no_model_is_refused_by_its_type(model):
    with pytest.raises(UserError, match=f"a pair of callables .*not {type(model).__name__}"):
        split(model, input_size=(8, 8))


@pytest.mark.parametrize(
    "pair",
    [
        (nn.Conv2d(3, 4, 1), nn.Linear(7, 2)),
        (nn.Conv2d(3, 4, 9), nn.Flatten()),
        (lambda images: images + torch.rand_like(images), lambda value: value.mean((2, 3))),
    ],
    ids=["head", "encoder", "random"],
)
def test_pair_that_does_not_fit_together_is_refused(pair):
    with pytest.raises(LayerError, match="do not make one model on images of 3 channels and 8x8 pixels"):
        split(pair, input_size=(8, 8))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_torchscript_is_refused_and_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    compiled = torch.jit.trace(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(LayerError, match="TorchScript.*pass a pair"):
        split(compiled, input_size=(8, 8))
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(compiled(images), model(images))


def test_fault_44_a_single_logit_and_an_embedding_are_outputs():
    binary = timm.create_model("test_resnet", num_classes=1).eval()
    halves = split(binary, "layer4")
    assert (halves.n_classes, halves.head(halves.encode(noise(halves))).shape) == (1, (3, 1))
    embedding = timm.create_model("test_resnet", num_classes=0).eval()
    halves = split(embedding, "layer4")
    images = noise(halves)
    assert halves.n_classes == embedding.num_features
    assert torch.equal(halves.head(halves.encode(images)), embedding(images))


def test_fault_44_an_output_that_is_no_row_per_image_is_refused():
    with pytest.raises(UserError, match=r"shape \(2, 96, 5, 5\)"):
        split(timm.create_model("test_resnet", num_classes=0, global_pool=""), "layer4")


def test_fault_46_a_model_in_train_mode_is_evaluated_and_left_in_train_mode(net):
    images = torch.randn(4, 3, 8, 8)
    expected = net(images)
    net.train()
    net[1].eval()
    halves = split(net, "3", input_size=(8, 8))
    statistics = net[1].running_mean.clone()
    first, second = halves.head(halves.encode(images)), halves.head(halves.encode(images))
    assert torch.equal(first, expected)
    assert torch.equal(first, second)
    assert [part.training for part in net] == [True, False] + [True] * 7
    assert torch.equal(net[1].running_mean, statistics)


def test_fault_47_hooks_are_as_many_as_before_and_fire_as_in_the_model(net):
    seen = []
    handle = net[2].register_forward_hook(lambda module, args, output: seen.append(type(output)))
    halves = split(net, "3", input_size=(8, 8))
    seen.clear()
    halves.encode(noise(halves))
    assert seen == [torch.Tensor]
    with pytest.raises(UserError):
        halves.encode(torch.zeros(1, 3, 9, 9))
    assert sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()) == 1
    handle.remove()


def test_fault_47_a_hook_that_changes_a_block_is_part_of_the_model():
    model = timm.create_model("test_vit").eval()
    images = torch.randn(2, 3, 160, 160)
    plain = model(images)
    model.blocks[2].register_forward_hook(lambda module, args, output: output * 0.5)
    halves = split(model, "blocks.2")
    found = halves.head(halves.encode(images))
    assert relative_error(found, model(images)) < 1e-5
    assert relative_error(found, plain) > 1e-3


def test_fault_48_requires_grad_gradients_and_random_state_are_unchanged(net):
    net[0].weight.requires_grad_(False)
    net[3].weight.grad = torch.ones_like(net[3].weight)
    state, weights = torch.get_rng_state(), {name: value.clone() for name, value in net.state_dict().items()}
    halves = split(net, "auto", input_size=(8, 8))
    images = torch.zeros(2, 3, 8, 8)
    halves.head(halves.encode(images)).sum()
    assert halves.head_is_affine in (True, False)
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 7
    assert torch.equal(net[3].weight.grad, torch.ones_like(net[3].weight))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_fault_50_images_of_another_size_are_refused_with_the_remedy(vit):
    with pytest.raises(UserError, match=r"input_size=\(96, 128\)"):
        split(vit, "blocks.2").encode(torch.zeros(2, 3, 96, 128))


def test_features_of_another_layer_are_refused(vit):
    features = split(vit, "patch_embed").encode(torch.zeros(2, 3, 160, 160))
    with pytest.raises(UserError, match="'blocks.2' has positions"):
        split(vit, "blocks.2").head(features)


def test_a_pair_of_callables_is_a_model():
    encoder = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.ReLU())
    weights = torch.randn(5, 2)
    halves = split((encoder, lambda maps: maps.mean((2, 3)) @ weights), input_size=(16, 24))
    images = torch.randn(3, 3, 16, 24)
    features = halves.encode(images)
    assert features.grid == (4, 6)
    torch.testing.assert_close(halves.head(features), encoder(images).mean((2, 3)) @ weights)
    assert halves.head_is_affine
    with pytest.raises(UserError, match="pair of callables"):
        split((encoder, 3))


def test_a_model_that_cannot_be_traced_falls_back_to_its_own_two_halves():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 2)

        def forward_features(self, x):
            return self.conv(x) if x.sum() > -1e9 else x

        def forward_head(self, x):
            return self.fc(x.mean((2, 3)))

        def forward(self, x):
            return self.forward_head(self.forward_features(x))

    model = Untraceable().eval()
    halves = split(model, input_size=(16, 16))
    images = torch.randn(2, 3, 16, 16)
    assert halves.layer.name == "forward_features"
    assert torch.equal(halves.head(halves.encode(images)), model(images))


def test_a_model_without_halves_that_cannot_be_traced_is_refused_with_the_remedy():
    class Untraceable(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))

    with pytest.raises(LayerError, match=r"cannot be cut in two.*\(encoder, head\)"):
        split(Untraceable(), input_size=(8, 8))


def test_half_precision_models_cast_their_images(net):
    halves = split(net.bfloat16(), "3", input_size=(8, 8))
    features = halves.encode(torch.randn(2, 3, 8, 8))
    assert features.positions.dtype == torch.bfloat16
    assert halves.head(features).shape == (2, 4)


def test_moving_the_model_moves_both_halves(net):
    halves = split(net, "3", input_size=(8, 8)).to("meta")
    assert halves.device.type == "meta"
    assert halves.encode(torch.randn(2, 3, 8, 8)).positions.shape == (2, 64, 6)


def test_channels_last_models_give_the_same_positions(net):
    images = torch.randn(2, 3, 8, 8)
    expected = split(net, "3", input_size=(8, 8)).encode(images).positions
    found = split(net.to(memory_format=torch.channels_last), "3", input_size=(8, 8)).encode(
        images.to(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(found.positions, expected, rtol=1e-4, atol=1e-5)


def test_a_wrapped_model_is_unwrapped(net):
    assert split(nn.DataParallel(net), "3", input_size=(8, 8)).model is net


def test_a_network_of_two_branches_is_cut_in_one_row_of_numbers_per_image():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(3, 2, 4, stride=4)
            self.heads = nn.ModuleList([nn.Linear(4, 5), nn.Linear(2, 5)])

        def forward_features(self, x):
            return [self.one(x), self.two(x)]

        def forward_head(self, maps):
            return sum(head(part.mean((2, 3))) for head, part in zip(self.heads, maps, strict=True))

        def forward(self, x):
            return self.forward_head(self.forward_features(x))

    model = Branches().eval()
    halves = split(model, "forward_features", input_size=(8, 8))
    images = noise(halves)
    features = halves.encode(images)
    assert features.positions.shape == (3, 1, 4 * 16 + 2 * 4)
    assert torch.equal(halves.head(features), model(images))


def test_a_split_model_is_pickled_and_copied_by_its_model_and_layer(net):
    import copy
    import pickle

    halves = split(net, "3", input_size=(8, 10))
    images = noise(halves)
    for again in (pickle.loads(pickle.dumps(halves)), copy.deepcopy(halves)):
        assert again.layer == halves.layer
        assert again.model is not net
        assert torch.equal(again.head(again.encode(images)), net(images))


def test_activations_in_any_memory_order_reach_a_head_that_flattens_by_view():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(64, 2)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(x.view(x.size(0), -1))

    model = Viewing().eval()
    halves = split(model, "conv", input_size=(4, 4))
    images = noise(halves)
    features = halves.encode(images)
    stored = features.replace(positions=features.positions.contiguous())
    torch.testing.assert_close(halves.head(stored), model(images))
