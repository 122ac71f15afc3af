from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrank import Budget, Epsilon, FlowOfRanks, FlowrankError, InputSVD, JointHeads, Uniform, WeightSVD
from flowrank.compression.allocation import allocate
from flowrank.compression.groups import Group, marginal_losses


def joint_groups(seed: int = 0, layers: int = 3, heads: int = 2, width: int = 8) -> list[Group]:
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for layer in range(layers):
        site = SimpleNamespace(name=f"site{layer}", depth=layer, heads=heads, module=SimpleNamespace(n_heads=heads))
        for part in ("QK", "VO"):
            for head in range(heads):
                sigma = torch.rand(width, generator=generator, dtype=torch.float64).sort(descending=True).values
                groups.append(Group(site, part, (head,), sigma, sigma.square(), cost=32))
    return groups


def matrix_groups(seed: int = 0, layers: int = 3, width: int = 16) -> list[Group]:
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for layer in range(layers):
        site = SimpleNamespace(name=f"site{layer}", depth=layer, heads=2, module=SimpleNamespace(n_heads=2))
        for part in ("q", "k", "v", "o"):
            sigma = torch.rand(width, generator=generator, dtype=torch.float64).sort(descending=True).values
            groups.append(Group(site, part, (), sigma, sigma.square(), cost=2 * width, dense_cost=width**2))
    return groups


def whole(groups: list[Group]) -> int:
    return sum(group.price(group.size) for group in groups)


def price(groups: list[Group], kept) -> int:
    return sum(group.price(len(k)) for group, k in zip(groups, kept, strict=True))


RULES = [
    lambda r: Uniform(r),
    lambda r: Budget(r),
    lambda r: Epsilon(ratio=r),
    lambda r: FlowOfRanks(ratio=r, alpha=0.4),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [joint_groups, matrix_groups])
@given(seed=st.integers(0, 1000), ratio=st.floats(0.15, 1.0))
@settings(max_examples=20)
def test_budget_is_kept_and_nearly_used(rule, make, seed, ratio):
    groups = make(seed)
    kept = allocate(rule(ratio), groups, whole(groups))
    spent = price(groups, kept)
    assert spent <= ratio * whole(groups) + 1e-6
    assert all(torch.equal(k, k.unique()) for k in kept)
    if isinstance(rule(ratio), Uniform | Budget):
        largest_step = max(max(g.cost, g.price(g.capacity) - g.price(g.capacity - 1)) for g in groups)
        idle_queries = sum(g.price(g.size) for g in groups if g.part == "QK") if isinstance(rule(ratio), Budget) else 0
        assert spent >= ratio * whole(groups) - largest_step - idle_queries


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [joint_groups, matrix_groups])
def test_ratio_one_keeps_everything(rule, make):
    groups = make()
    assert [len(k) for k in allocate(rule(1.0), groups, whole(groups))] == [group.size for group in groups]


@given(seed=st.integers(0, 1000), ratio=st.floats(0.1, 0.9))
@settings(max_examples=30)
def test_no_exchange_improves_a_budget(seed, ratio):
    """Greedy by value is optimal when every component costs the same: no dropped one is worth more than a kept one."""
    groups = [group for group in joint_groups(seed) if group.part == "VO"]
    kept = allocate(Budget(ratio), groups, whole(groups))
    inside = [float(g.value[i]) for g, k in zip(groups, kept, strict=True) for i in k]
    outside = [
        float(g.value[i]) for g, k in zip(groups, kept, strict=True) for i in range(g.size) if i not in k.tolist()
    ]
    assert not inside or not outside or min(inside) >= max(outside)


def test_queries_of_a_dead_head_are_dropped_and_their_budget_spent_elsewhere():
    groups = joint_groups(layers=1)
    low = torch.full((8,), 1e-9, dtype=torch.float64)
    groups = [
        Group(g.site, g.part, g.members, g.sigma, low if (g.part, g.members) == ("VO", (0,)) else g.value, g.cost)
        for g in groups
    ]
    kept = allocate(Budget(0.5), groups, whole(groups))
    ranks = {(g.part, g.members): len(k) for g, k in zip(groups, kept, strict=True)}
    assert ranks["VO", (0,)] == ranks["QK", (0,)] == 0
    assert ranks["VO", (1,)] == ranks["QK", (1,)] == 8


def test_epsilon_keeps_what_its_definition_says():
    groups = joint_groups()
    kept = allocate(Epsilon(0.5), groups, whole(groups))
    assert [len(k) for k in kept] == [int((g.sigma / g.sigma[0] > 0.5).sum()) for g in groups]


def test_paper_schedule_widths():
    """Table 1's rows: ⌈ d̃_0 (1 + i)^α ⌉, computed by hand."""
    assert [FlowOfRanks(d0=7, alpha=0.4).width(i) for i in (0, 1, 11, 23)] == [7, 10, 19, 25]
    assert [FlowOfRanks(d0=3, alpha=0.27).width(i) for i in (0, 23)] == [3, 8]
    assert [FlowOfRanks(d0=5, alpha=0.35, rounding="power_of_two").width(i) for i in (0, 3, 23)] == [4, 8, 16]
    assert [FlowOfRanks(d0=64, alpha=0).width(i) for i in (0, 23)] == [64, 64]


def test_flow_grows_with_depth():
    groups = joint_groups(layers=6, width=64)
    ranks = [len(k) for k in allocate(FlowOfRanks(d0=3, alpha=0.5), groups, whole(groups))]
    by_layer = ranks[::4]
    assert by_layer == sorted(by_layer)
    assert by_layer[0] < by_layer[-1]


def test_flow_cannot_go_below_one_component_a_head():
    groups = joint_groups(width=64)
    with pytest.raises(FlowrankError, match=r"at least 0\.01562"):
        allocate(FlowOfRanks(ratio=0.01), groups, whole(groups))


def test_epsilon_cannot_go_below_one_component_a_head():
    groups = joint_groups(width=64)
    with pytest.raises(FlowrankError, match="under Epsilon"):
        allocate(Epsilon(ratio=0.01), groups, whole(groups))


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.1])
def test_uniform_keeps_within_its_ratio_where_matrices_are_not_square(ratio):
    """24 × 15: factors cost 39 a rank, so the dense matrix is taken before they reach its price."""
    groups = [Group(g.site, g.part, (), g.sigma[:15], g.value[:15], cost=39, dense_cost=360) for g in matrix_groups()]
    assert price(groups, allocate(Uniform(ratio), groups, whole(groups))) <= ratio * whole(groups)


def test_factors_turn_dense_where_they_would_not_be_smaller():
    group = matrix_groups()[0]
    assert group.capacity == 8
    assert [group.price(r) for r in (0, 7, 8, 16)] == [0, 224, 256, 256]
    assert [len(k) for k in allocate(Epsilon(0.0), [group], 256)] == [16]


@given(st.lists(st.floats(0, 100), min_size=2, max_size=12))
def test_marginal_losses_descend_and_add_up(values):
    losses = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    slopes = marginal_losses(losses)
    assert (slopes.diff() <= 1e-9).all()
    assert float(slopes.sum()) == pytest.approx(float(losses[0] - losses[-1]), abs=1e-9)
    hull = losses[0] - torch.cat([torch.zeros(1), slopes.cumsum(0)])
    assert (hull <= losses + 1e-9).all()


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, float("nan"), "0.5", None, True])
@pytest.mark.parametrize("allocation", [Uniform, Budget])
def test_bad_ratio(allocation, ratio):
    with pytest.raises(FlowrankError, match="ratio"):
        allocation(ratio)


def test_bad_allocations():
    with pytest.raises(FlowrankError, match="epsilon"):
        Epsilon(1.0)
    with pytest.raises(FlowrankError, match="one of them"):
        Epsilon()
    with pytest.raises(FlowrankError, match="one of them"):
        FlowOfRanks(d0=3, ratio=0.5)
    with pytest.raises(FlowrankError, match="d0"):
        FlowOfRanks(d0=0)
    with pytest.raises(FlowrankError, match="alpha"):
        FlowOfRanks(d0=3, alpha=float("inf"))
    with pytest.raises(FlowrankError, match="rounding"):
        FlowOfRanks(d0=3, rounding="floor")
    with pytest.raises(FlowrankError, match="allocation"):
        allocate("half", [], 1)


@pytest.mark.parametrize("method", [JointHeads, InputSVD, WeightSVD])
def test_a_method_needs_an_allocation(method):
    with pytest.raises(FlowrankError, match="allocation"):
        method(0.25)
