"""Tracing: what it finds, and that nothing of the model is changed by it."""

import pytest
import torch
from torch import nn

from conceptatlas.extraction.liveness import bottlenecks, image_values, non_negative
from conceptatlas.extraction.tracing import evaluated, trace


class Stubborn(nn.Module):
    """Control flow on a value: it cannot be traced through."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Caching(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, x):
        self.last = x * 1.0
        return self.last


class InPlace(nn.Module):
    def forward(self, x):
        y = x * 1.0
        y.add_(1.0)  # the result is not kept: only `y` is used later
        return y * 2.0


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU()

    def forward(self, x, mask=None):
        y = self.relu(self.conv(x))
        return self.relu(y if mask is None else y * mask)


def operations(found):
    return [node for node in found.nodes if node.op not in ("placeholder", "output")]


def test_a_module_that_cannot_be_traced_is_kept_whole():
    found = trace(nn.Sequential(nn.Conv2d(3, 3, 1), Stubborn(), nn.ReLU()))
    assert [node.op for node in operations(found)] == ["call_module"] * 3
    assert "1" in found.names[operations(found)[1]]


def test_what_a_traced_forward_writes_on_its_modules_is_undone():
    module = Caching()
    trace(nn.Sequential(module))
    assert module.last is None


def test_an_in_place_call_whose_result_is_dropped_still_counts():
    names = [str(node.target) for node in operations(trace(InPlace()))]
    assert "add_" in names


def test_optional_arguments_keep_their_defaults():
    assert sum(node.op == "placeholder" for node in trace(Calls()).nodes) == 1


def test_a_module_that_runs_twice_has_a_numbered_name_for_each_call():
    found = trace(Calls())
    labels = [name for names in found.names.values() for name in names]
    assert {"relu#1", "relu#2"} <= set(labels)
    assert found.calls["relu"] == 2


def test_the_trace_holds_no_reference_to_the_model():
    import gc
    import weakref

    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    gone = weakref.ref(model)
    found = trace(model)
    del model
    gc.collect()
    assert gone() is None
    assert len(operations(found)) == 2


def test_evaluated_restores_each_module_s_own_mode_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3)).train()
    model[1].eval()

    def fail_while_evaluated():
        with evaluated(model):
            assert not model[0].training
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_while_evaluated()
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


def test_values_read_from_shapes_alone_are_not_carried():
    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 3))

        def forward(self, x):
            y = x.flatten(2).transpose(1, 2)
            token = self.token.expand(x.shape[0], -1, -1)
            y = torch.cat([token, torch.zeros_like(y) + y], dim=1)
            return y.mean(1)

    found = trace(Shaped())
    carried = image_values(found.nodes)
    assert {node.name for node in carried}.isdisjoint({"expand", "zeros_like", "getattr_1", "getitem"})
    assert [node.name for node in bottlenecks(found.nodes, carried)][-2:] == ["cat", "mean"]


def test_a_residual_has_no_cut_before_its_sum():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = self.one(x)
            return torch.relu(x + self.two(x))

    found = trace(Residual())
    assert [node.name for node in bottlenecks(found.nodes, image_values(found.nodes))] == ["model_one", "add", "relu"]


def test_fault_39_only_what_the_operations_leave_non_negative_is_called_so():
    class Signs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gelu, self.pool = nn.Conv2d(3, 3, 1), nn.GELU(), nn.MaxPool2d(2)

        def forward(self, x):
            y = torch.relu(self.conv(x))
            y = self.pool(y) + 1.0
            z = y * torch.sigmoid(y)
            return self.gelu(z - 1.0)

    model = Signs()
    found = trace(model)
    positive = non_negative(found.nodes, dict(found.root(model).named_modules()))
    assert {node.name for node in positive} == {"relu", "model_pool", "add", "sigmoid", "mul"}
