import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from conceptatlas.importance import total_sobol
from conceptatlas.importance.sobol import closed_form

TRIALS = 200


def slope_of(k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=k)


def truth_of(slope: np.ndarray) -> np.ndarray:
    return slope**2 / (slope**2).sum()


def counted(function):
    calls = []

    def inner(masks):
        calls.append(len(masks))
        return function(masks)

    return inner, calls


def smooth_torch(k: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(k, 32, generator=generator) * torch.linspace(1.5, 0.1, k)[:, None]
    out = torch.randn(32, generator=generator)
    return lambda masks: torch.nn.functional.gelu(torch.as_tensor(masks) @ weight - 0.5) @ out


@pytest.mark.parametrize("k", [1, 2, 10, 25, 60])
def test_an_affine_function_gets_the_closed_form(k):
    slope = slope_of(k)
    indices = total_sobol(lambda masks: masks @ slope + 3.0, k)
    assert indices.method == "affine"
    assert np.abs(indices.total - truth_of(slope)).max() < 1e-6
    assert indices.n_evaluations == k + 12


@pytest.mark.parametrize("method", ["affine", "chaos", "jansen"])
def test_every_estimator_agrees_with_the_closed_form_on_an_affine_function(method):
    slope = slope_of(25)
    indices = total_sobol(
        lambda masks: torch.as_tensor(masks) @ torch.tensor(slope, dtype=torch.float32), 25, method=method
    )
    assert indices.method == method
    assert np.abs(indices.total - truth_of(slope)).max() < 1e-5


@pytest.mark.parametrize("sampler", ["halton", "latin", "sobol"])
def test_equal_concepts_get_equal_indices_at_32_designs(sampler):
    for seed in range(20):
        total = total_sobol(
            lambda masks: masks.sum(1), 25, method="jansen", n_designs=32, seed=seed, sampler=sampler
        ).total
        assert total.max() / total.min() < 2.0


def test_the_published_estimator_spreads_equal_concepts_seventeenfold():
    total = total_sobol(lambda masks: masks.sum(1), 25, method="craft").total
    assert total.max() / total.min() == pytest.approx(17.0, rel=0.05)
    assert np.argmax(total) == 10
    assert np.argmin(total) == 24


def test_the_published_estimator_evaluates_both_halves_and_offers_no_interval():
    indices = total_sobol(lambda masks: masks.sum(1), 25, method="craft")
    assert indices.n_evaluations == 32 * 27
    assert np.isnan(indices.low).all()


def test_jansen_never_evaluates_the_second_half():
    function, calls = counted(lambda masks: (masks**2).sum(1))
    indices = total_sobol(function, 10, method="jansen", n_designs=16)
    assert sum(calls) == indices.n_evaluations == 16 * 11


def test_evaluations_are_counted_as_they_happen_in_auto():
    function, calls = counted(lambda masks: (masks**2).sum(1))
    assert total_sobol(function, 10).n_evaluations == sum(calls)


@pytest.mark.parametrize("method", ["chaos", "jansen"])
def test_the_interval_covers_the_truth_of_affine_functions(method):
    covered = 0
    for seed in range(TRIALS):
        slope = torch.tensor(slope_of(8, seed), dtype=torch.float32)
        indices = total_sobol(
            lambda masks, s=slope: torch.as_tensor(masks) @ s, 8, method=method, n_designs=32, seed=seed
        )
        truth = truth_of(slope.double().numpy())
        covered += bool(((indices.low <= truth) & (truth <= indices.high)).all())
    assert covered >= 0.9 * TRIALS


def product_of(k: int, size: np.ndarray):
    """``prod (1 + a_i (2 m_i - 1))``: the variance of a factor is ``a^2 / 3``, so every index is known."""
    variance = size**2 / 3
    whole = np.prod(1 + variance) - 1
    truth = variance * np.prod(1 + variance) / (1 + variance) / whole
    return (lambda masks: np.prod(1 + size * (2 * np.asarray(masks, dtype=float) - 1), axis=1)), truth


def slope_of_product(size: np.ndarray):
    def gradient(masks):
        factors = 1 + size * (2 * np.asarray(masks, dtype=float) - 1)
        return np.prod(factors, axis=1, keepdims=True) / factors * 2 * size

    return gradient


@pytest.mark.parametrize("method", ["chaos", "jansen"])
def test_the_interval_covers_nine_times_in_ten_where_concepts_interact(method):
    size = np.linspace(0.6, 0.05, 8)
    function, truth = product_of(8, size)
    inside = [
        (indices.low <= truth) & (truth <= indices.high)
        for seed in range(60)
        for indices in [
            total_sobol(function, 8, method=method, gradient=slope_of_product(size), n_designs=32, seed=seed)
        ]
    ]
    assert np.mean(inside) >= 0.9


@pytest.mark.parametrize("kind", ["kinks", "sines"])
def test_the_interval_covers_concepts_that_do_little_among_many(kind):
    """Additive functions that no quadratic fits: what the fit cannot tell must not become a floor under every index."""
    inside = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        size, place = rng.normal(size=16), rng.uniform(0.2, 0.8, size=16)
        if kind == "kinks":
            left = 1 - place
            variance = size**2 * (left**3 / 3 - left**4 / 4)
            one = lambda m, at: torch.relu(m - at)  # noqa: E731
        else:
            place = 2 + 6 * place
            mean = (1 - np.cos(place)) / place
            variance = size**2 * (0.5 - np.sin(2 * place) / (4 * place) - mean**2)
            one = lambda m, at: torch.sin(at * m)  # noqa: E731
        c, at = torch.as_tensor(size), torch.as_tensor(place)
        found = total_sobol(lambda m, one=one, c=c, at=at: one(torch.as_tensor(m).double(), at) @ c, 16, method="chaos")
        truth = variance / variance.sum()
        inside.append((found.low <= truth) & (truth <= found.high))
    assert np.mean(inside) >= 0.9


def test_interactions_make_the_indices_sum_to_more_than_one():
    function, truth = product_of(6, np.full(6, 0.9))
    assert truth.sum() > 1.2
    indices = total_sobol(function, 6, method="jansen", n_designs=1024)
    assert indices.total.sum() == pytest.approx(truth.sum(), rel=0.05)
    assert indices.shares.sum() == pytest.approx(1.0)


def test_chaos_is_exact_on_a_quadratic_function():
    function = lambda masks: masks[:, 0] * masks[:, 1] + masks[:, 2] ** 2  # noqa: E731
    x_times_y = np.array([1 / 48 + 1 / 144, 1 / 48 + 1 / 144])  # each: linear part 1/48, product 1/144
    square = 4 / 45
    truth = np.array([*x_times_y, square]) / (2 / 48 + 1 / 144 + square)
    indices = total_sobol(lambda masks: function(torch.as_tensor(masks)), 3)
    assert indices.method == "chaos"
    assert np.abs(indices.total - truth).max() < 1e-3


def test_chaos_finds_the_reference_with_an_eighth_of_the_published_passes(relative):
    function = smooth_torch(25)
    reference = total_sobol(lambda masks: function(masks).numpy(), 25, method="jansen", n_designs=4096, seed=99).total
    indices = total_sobol(function, 25)
    assert indices.method == "chaos"
    assert relative(indices.total, reference) < 0.06
    assert spearmanr(indices.total, reference).statistic > 0.95


def ishigami(masks):
    """The test function of Ishigami and Homma (1990) with a = 7, b = 0.1, and its total indices."""
    x = (2 * masks - 1) * np.pi
    sin = torch.sin if isinstance(masks, torch.Tensor) else np.sin
    return sin(x[:, 0]) + 7 * sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * sin(x[:, 0])


def ishigami_truth():
    first = 0.5 * (1 + 0.1 * np.pi**4 / 5) ** 2
    second, together = 7**2 / 8, 0.1**2 * np.pi**8 * (1 / 18 - 1 / 50)
    return np.array([first + together, second, together]) / (first + second + together)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("seed", range(3))
def test_a_function_that_no_quadratic_fits_is_sampled_until_it_is_known(convert, seed):
    indices = total_sobol(lambda masks: ishigami(convert(masks)), 3, seed=seed)
    truth = ishigami_truth()
    assert indices.method == "jansen"
    assert np.abs(indices.total - truth).max() < 0.05
    assert ((indices.low <= truth) & (truth <= indices.high)).all()


@pytest.mark.parametrize("seed", range(3))
def test_gradients_that_know_nothing_of_the_jumps_are_not_believed(seed):
    size = torch.tensor([3.0, 2.0, 1.0, 0.5])
    indices = total_sobol(lambda masks: (torch.round(torch.as_tensor(masks)) * size).sum(1), 4, seed=seed)
    assert np.abs(indices.total - truth_of(size.double().numpy())).max() < 0.05


def test_a_function_that_designs_settle_costs_no_more_than_them():
    assert total_sobol(lambda masks: (masks**2).sum(1), 10).n_evaluations <= 32 * 11 + 3


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_a_sobol_g_function_is_known_in_closed_form(convert):
    size = np.array([0.0, 1.0, 4.5, 9.0, 99.0])
    variance = 1 / (3 * (1 + size) ** 2)
    truth = variance * np.prod(1 + variance) / (1 + variance) / (np.prod(1 + variance) - 1)

    def function(masks):
        return convert((np.abs(4 * np.asarray(masks) - 2) + size) / (1 + size)).prod(1)

    indices = total_sobol(function, 5)
    assert np.abs(indices.total - truth).max() < 0.05
    assert ((indices.low <= truth) & (truth <= indices.high)).all()


def test_a_function_that_bends_only_in_one_corner_is_not_taken_for_affine():
    indices = total_sobol(lambda masks: masks.sum(1) + 5 * np.maximum(masks.min(1) - 0.2, 0), 2)
    assert indices.method == "jansen"


def test_fault_42_a_constant_function_has_no_importance_and_no_nan():
    for method in ("auto", "affine", "chaos", "jansen", "craft"):
        indices = total_sobol(lambda masks: 0.0 * torch.as_tensor(masks).sum(1) + 7.0, 5, method=method)
        assert indices.total.tolist() == [0.0] * 5
        assert indices.shares.tolist() == [0.0] * 5


def test_rounding_noise_is_not_an_effect():
    noise = np.random.default_rng(0)
    indices = total_sobol(lambda masks: 1e4 + 1e-4 * noise.random(len(masks)), 5, method="jansen")
    assert indices.total.tolist() == [0.0] * 5


def test_an_irrelevant_concept_gets_zero():
    indices = total_sobol(lambda masks: np.sin(3 * masks[:, 0]) + masks[:, 1] ** 2, 3)
    assert indices.method == "jansen"
    assert indices.total[2] < 1e-9
    assert indices.low[2] == 0.0


def test_the_same_seed_gives_the_same_indices_and_another_seed_others():
    function = lambda masks: np.sin(3 * masks).sum(1) * masks[:, 0]  # noqa: E731
    first, again, other = (total_sobol(function, 4, seed=seed).total for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_masks_are_float32_numpy_arrays_in_the_unit_cube():
    def function(masks):
        assert isinstance(masks, np.ndarray)
        assert masks.dtype == np.float32
        assert masks.min() >= 0
        assert masks.max() <= 1
        return (masks**2).sum(1)

    total_sobol(function, 3)


def test_a_torch_module_is_differentiated_without_being_asked():
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1), torch.nn.Flatten(0))
    indices = total_sobol(module, 4)
    assert indices.method == "chaos"
    assert indices.n_gradients >= 16


def test_a_module_of_float64_is_differentiated_as_well():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    single, double = total_sobol(module, 4), total_sobol(module.double(), 4)
    assert single.method == double.method == "chaos"
    assert np.abs(single.total - double.total).max() < 1e-3


def test_a_torch_function_that_leaves_torch_on_the_way_is_sampled():
    indices = total_sobol(lambda masks: torch.from_numpy(np.sin(3 * np.asarray(masks)).sum(1)), 3)
    assert indices.method == "jansen"
    assert np.abs(indices.total - 1 / 3).max() < 0.05


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_are_found_where_the_caller_has_turned_them_off(context):
    function = smooth_torch(4)
    with context():
        assert total_sobol(function, 4).method == "chaos"


def test_a_function_may_change_the_masks_it_is_given():
    def function(masks):
        masks *= 2
        return (masks**2).sum(1)

    for convert in (np.asarray, torch.as_tensor):
        indices = total_sobol(lambda masks, convert=convert: function(convert(masks)), 3)
        assert np.abs(indices.total - 1 / 3).max() < 0.05


@pytest.mark.parametrize("function", [torch.nn.Linear(3, 1), lambda m: m.pow(2).sum(1), lambda m: m @ torch.ones(3)])
def test_every_mask_that_a_function_was_given_is_counted(function):
    inner, calls = counted(function)
    assert total_sobol(inner, 3).n_evaluations == sum(calls)


def test_the_error_of_a_function_is_its_own():
    def broken(masks):
        raise RuntimeError(f"no such weights for {len(masks)}")

    with pytest.raises(RuntimeError, match="no such weights"):
        total_sobol(broken, 3)


def test_a_given_gradient_is_used():
    indices = total_sobol(lambda m: (m**2).sum(1), 3, gradient=lambda m: 2 * m)
    assert indices.method == "chaos"
    assert np.abs(indices.total - 1 / 3).max() < 1e-4


def test_closed_form_does_not_overflow_or_lose_small_effects():
    assert closed_form(np.array([1e200, 1e200])).tolist() == [0.5, 0.5]
    assert closed_form(np.array([1e-200, 0.0])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_concepts": 0}, "at least 1"),
        ({"n_concepts": 3, "method": "homma"}, "homma"),
        ({"n_concepts": 3, "n_designs": 2}, "at least 4"),
        ({"n_concepts": 3, "confidence": 95}, "between 0 and 1"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        total_sobol(lambda masks: masks.sum(1), **arguments)


def test_chaos_without_a_gradient_says_what_to_do():
    with pytest.raises(ValueError, match="gradient="):
        total_sobol(lambda masks: np.asarray(masks).sum(1), 3, method="chaos")


@pytest.mark.parametrize("result", [lambda m: m, lambda m: np.full(len(m), np.nan), lambda m: 1.0])
def test_a_function_of_the_wrong_shape_or_without_finite_values_is_refused(result):
    with pytest.raises(ValueError, match="function returned"):
        total_sobol(result, 3)
