"""Whole-model compression against closed forms, brute force and the models themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowrank
from flowrank import Budget, FlowOfRanks, FlowrankError, JointHeads, Uniform, WholeModel
from flowrank.compression.children import child_of
from flowrank.compression.neurons import Factors, Linear, Neurons
from flowrank.compression.plan import Plan
from flowrank.compression.prices import price_in
from flowrank.compression.remainder import Remainder
from flowrank.compression.whole import WholeFactorization
from flowrank.family import family_of, tensor_digest
from flowrank.linalg import obs_order, refit
from flowrank.measure.calibration import Calibration
from tests.conftest import outputs, relative_gap
from tests.layers import attention_layers, mlp_layers

ALL = ("heads", "neurons", "ends", "factors")
SMALL = {"calibration_series": 24, "calibration_points": 64}


def residual(gram: torch.Tensor, readout: torch.Tensor, kept: list[int]) -> float:
    """E‖a W − a_S W̃‖² of the least-squares W̃, by the normal equations."""
    left = torch.tensor(kept, dtype=torch.long)
    cross = gram[left] @ readout
    solved = torch.linalg.lstsq(gram[left][:, left], cross, driver="gelsd").solution if kept else cross
    return float((readout * (gram @ readout)).sum() - (cross * solved).sum())


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 4), st.integers(0, 1))
def test_neurons_go_in_the_order_of_what_they_cost_after_repair(seed, n, outputs_, fixed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(40, n + fixed, generator=generator, dtype=torch.float64)
    gram = a.T @ a / 40
    readout = torch.randn(n + fixed, outputs_, generator=generator, dtype=torch.float64)
    order = obs_order(gram, readout, fixed=fixed, ridge=1e-12)
    assert sorted(order) == list(range(n))
    left = list(range(n + fixed))
    for gone in order:
        costs = {j: residual(gram, readout, [i for i in left if i != j]) for j in left if j < n}
        assert costs[gone] <= min(costs.values()) + 1e-8 * float((readout * (gram @ readout)).sum())
        left.remove(gone)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_refit_is_least_squares(seed, kept):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    readout = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    left = torch.randperm(6, generator=generator)[:kept]
    best = torch.linalg.lstsq(a[:, left], a @ readout).solution
    assert torch.allclose(refit(a.T @ a, readout, left, ridge=0.0), best, atol=1e-9)


@pytest.mark.parametrize("bias", [False, True])
def test_what_removing_neurons_costs_is_what_changing_the_weight_does_to_the_probe(folder, contexts, bias):
    """The probe's output is linear in a readout for small changes: foretold and real change agree."""
    family = family_of(flowrank.load(folder))
    sites = [site for site in family.mlps if (site.residual is not None) == bias]
    if not sites:
        pytest.skip("no residual block in a Chronos-T5")
    site = sites[-1]
    linear = Linear(site.linears[site.writes], constant=bias)
    at_weight = []
    from flowrank.measure import linear_tap, sweep

    taps = [
        linear_tap(linear.module, linear.moments.update),
        linear_tap(linear.module, lambda x, g: at_weight.append(linear.gradients(x, g.detach()).double())),
    ]
    sweep(family, contexts[:1], taps, seed=5)
    parameter = linear.module.weight
    generator = torch.Generator().manual_seed(5)
    with family.instrumented(gradients=True):
        parameter.requires_grad_(True)
        family.probe(contexts[:1], generator).backward()
    expected = parameter.grad.T.double()
    parameter.grad = None
    found = at_weight[0][0]
    assert torch.allclose(found[: len(expected)], expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("allocation", [Budget(1.0), Uniform(1.0)])
def test_everything_kept_reproduces_the_dense_model(pipeline, allocation, contexts):
    expected = outputs(pipeline, contexts)
    child = flowrank.compress(pipeline, WholeModel(allocation, rounds=2, parts=ALL), **SMALL)
    assert relative_gap(outputs(child, contexts), expected) <= 1e-4
    assert child.inner_model.num_parameters() <= pipeline.inner_model.num_parameters()


@pytest.mark.parametrize(
    ("allocation", "parts"), [(Budget(0.5), ALL), (Uniform(0.5), ("heads", "neurons", "ends"))], ids=str
)
def test_children_fit_their_budget_nearly_fully_and_open_again(pipeline, allocation, parts, contexts, tmp_path):
    child = flowrank.compress(pipeline, WholeModel(allocation, parts=parts), **SMALL)
    kept = child.inner_model.num_parameters() / pipeline.inner_model.num_parameters()
    assert 0.42 < kept <= 0.5
    child.save_pretrained(tmp_path / "child")
    again = flowrank.load(tmp_path / "child")
    assert tensor_digest(again.inner_model) == tensor_digest(child.inner_model)
    assert torch.equal(outputs(again, contexts), outputs(child, contexts))
    assert child.path == "exact"


def test_only_what_competes_changes(pipeline):
    def shapes(model, layers_of) -> list[tuple[int, ...]]:
        return [tuple(one.shape) for layer in layers_of(model).values() for one in layer.parameters()]

    for parts, changed in (("neurons", mlp_layers), ("heads", attention_layers)):
        child = flowrank.compress(pipeline, WholeModel(Budget(0.85), rounds=1, parts=(parts,)), **SMALL)
        for layers_of in (mlp_layers, attention_layers):
            before, after = (shapes(one.inner_model, layers_of) for one in (pipeline, child))
            assert (before != after) == (layers_of is changed)


def test_a_model_can_shrink_again(pipeline, contexts):
    once = flowrank.compress(pipeline, WholeModel(Budget(0.7), rounds=1, parts=ALL), **SMALL)
    before = tensor_digest(once.inner_model)
    twice = flowrank.compress(once, WholeModel(Budget(0.7), rounds=1, parts=ALL), **SMALL)
    assert twice.inner_model.num_parameters() <= 0.7 * once.inner_model.num_parameters()
    assert tensor_digest(once.inner_model) == before
    same = flowrank.compress(once, WholeModel(Budget(1.0), rounds=1, parts=ALL), **SMALL)
    assert relative_gap(outputs(same, contexts), outputs(once, contexts)) <= 1e-3


def test_dead_neurons_go_first_and_cost_nothing(pipeline):
    """Half of the encoder's neurons never fire: they are worth nothing, and the others need no repair without them."""
    with torch.no_grad():
        for site in family_of(pipeline).mlps:
            for name in site.reads if site.stack == "encoder" else ():
                layer = site.linears[name]
                layer.weight[::2] = 0.0
                if layer.bias is not None:
                    layer.bias[::2] = 0.0
    series = Calibration.read(None, count=60, points=64, seed=3, mixed=True).contexts
    whole = WholeFactorization(family_of(pipeline), series, 0, None, parts=("neurons",))
    for neurons in whole.rest.neurons:
        if neurons.site.stack == "encoder":
            assert sorted(neurons.order[:16].tolist()) == list(range(1, 32, 2))
            group = neurons.group(len(series[::3]))
            assert group.value[16:].abs().max() < 1e-9 * group.value[:16].max()  # all but rounding
            assert group.value[:14].all()
            kept = neurons.linears[neurons.site.writes].weight[neurons.kept(16)]
            assert torch.allclose(neurons.refit(16)[:16], kept)


def test_factors_find_an_exact_low_rank(pipeline, contexts):
    with torch.no_grad():
        for site in family_of(pipeline).mlps:
            for layer in site.linears.values():
                u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
                layer.weight.copy_((u[:, :2] * s[:2]) @ v[:2])
    expected = outputs(pipeline, contexts)
    whole = WholeFactorization(family_of(pipeline), contexts * 3, 0, None, parts=("ends", "factors"))
    small = [group for group in whole.rest.groups if group.part not in ("neurons", "vocabulary")]
    assert small
    assert all(float(group.sigma[2] / group.sigma[0]) < 1e-3 for group in small if group.size > 2)
    ranks = {(g.site.name, g.part): (2 if g in small else g.size) for g in whole.rest.groups}
    child = child_of(pipeline.inner_model, Plan(whole.rest.shapes(ranks), whole.rest.tensors(ranks)))
    made = family_of(pipeline).pipeline_of(child)
    assert relative_gap(outputs(made, contexts), expected) <= 2e-3


@pytest.mark.parametrize("unit", ["parameters", "flops"])
def test_a_budget_is_kept_in_its_own_unit(pipeline, unit):
    child = flowrank.compress(pipeline, WholeModel(Budget(0.8, unit=unit), rounds=1), **SMALL)
    price = price_in(unit, pipeline.inner_model)
    assert price(child.inner_model.config) <= 0.8 * price(pipeline.inner_model.config)


def test_a_cache_budget_leaves_the_rest_alone(t5_folder):
    parent = flowrank.load(t5_folder)
    child = flowrank.compress(parent, WholeModel(Budget(0.5, unit="cache"), rounds=1), **SMALL)
    price = price_in("cache", parent.inner_model)
    assert price(child.inner_model.config) <= 0.5 * price(parent.inner_model.config)
    widths = [layer.wo.in_features for layer in mlp_layers(child.inner_model).values()]
    assert widths == [parent.inner_model.config.d_ff] * len(widths)


def test_parameters_of_a_config_are_those_of_its_model(pipeline):
    price = price_in("parameters", pipeline.inner_model)
    assert price(pipeline.inner_model.config) == pipeline.inner_model.num_parameters()
    child = flowrank.compress(pipeline, WholeModel(Budget(0.6), rounds=1, parts=ALL), **SMALL)
    assert price(child.inner_model.config) == child.inner_model.num_parameters()


def test_neurons_are_judged_on_series_they_were_not_fitted_on(bolt_folder, contexts):
    """A one-token decoder has as many tokens as there are series: fitted on them, nothing seems to be lost."""
    family = family_of(flowrank.load(bolt_folder))
    whole = WholeFactorization(family, contexts * 2, 0, None, parts=("neurons",))
    last = next(group for group in whole.rest.groups if group.site.stack == "decoder" and group.site.kind == "mlp")
    assert float(last.value[len(contexts) :].sum()) > 0


def test_uneven_heads_are_refused(pipeline):
    child = flowrank.compress(pipeline, JointHeads(Budget(0.4), per_head=True), **SMALL)
    with pytest.raises(FlowrankError, match="several widths"):
        flowrank.compress(child, WholeModel(Budget(0.9)), **SMALL)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: WholeModel(FlowOfRanks(d0=2)), "allocation"),
        (lambda: WholeModel(Budget(0.5), rounds=0), "rounds"),
        (lambda: WholeModel(Budget(0.5), parts=("heads", "tails")), "parts"),
        (lambda: WholeModel(Budget(0.5), parts=()), "parts"),
        (lambda: Budget(0.5, unit="dollars"), "unit"),
    ],
)
def test_nonsense_is_refused(make, match):
    with pytest.raises(FlowrankError, match=match):
        make()


def test_too_small_a_budget_says_how_much_is_needed(pipeline):
    with pytest.raises(FlowrankError, match="at least"):
        flowrank.compress(pipeline, WholeModel(Budget(0.01), rounds=1), **SMALL)


def test_factors_and_neurons_of_one_layer_agree(bolt_folder, contexts):
    """A matrix that loses neurons and becomes a product is the product of what is left."""
    family = family_of(flowrank.load(bolt_folder))
    rest = Remainder(family, ends=True, factors=True)
    from flowrank.measure import sweep

    sweep(family, contexts, rest.moment_taps(), seed=0)
    sweep(family, contexts, rest.loss_taps(), seed=1)
    rest.count(len(contexts))
    ranks = {(g.site.name, g.part): g.capacity for g in rest.groups}
    name = "encoder.block.0.layer.1.DenseReluDense"
    ranks[name, "neurons"], ranks[name, "wi"], ranks[name, "wo"] = 16, 3, 2
    new = rest.tensors(ranks)
    wi, wo = new[f"{name}.wi"], new[f"{name}.wo"]
    assert wi["up.weight"].shape == (16, 3)
    assert wo["down.weight"].shape == (2, 16)
    one: Neurons = next(n for n in rest.neurons if n.site.name == name)
    factors: Factors = rest.cut[name, "wi"]
    expected = (factors.a[:, :3] @ factors.b[:3])[:, one.kept(16).sort().values]
    assert torch.allclose((wi["up.weight"] @ wi["down.weight"]).T, expected)
