"""Random instances of each theorem: how many, how many violations, and how loose the bound is.

python benchmarks/theory.py [--instances 2000] [--output theory.json]

The file is what `benchmarks/tables.py` makes a table of.

Looseness is bound over actual, for all entries whose actual side is above 10⁻¹⁰: median and quartiles. The instances
are those of tests/test_theory.py in kind, drawn here by one seed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from flowrank import theory
from flowrank.theory import Inequality


def normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def uniform(g: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def integer(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=g))


def decaying(g: torch.Generator, rows: int, columns: int) -> Tensor:
    rank = min(rows, columns)
    left, right = (torch.linalg.qr(normal(g, n, rank)).Q for n in (rows, columns))
    return left * uniform(g, 0.3, 0.95) ** torch.arange(rank, dtype=torch.float64) @ right.T


def smooth(g: torch.Generator) -> Inequality:
    nu = integer(g, 1, 4)
    distance = torch.empty(200).uniform_(-1, 1, generator=g) - torch.empty(32, 1).uniform_(-0.9, 0.9, generator=g)
    xi = distance.double().abs() ** nu * (distance.sign() if nu % 2 == 0 else 1)
    return theory.theorem_1_smooth(xi, derivatives=nu, variation=2 * math.factorial(nu))


def analytic(g: torch.Generator) -> Inequality:
    rho, degrees = uniform(g, 1.05, 3), torch.arange(60, dtype=torch.float64)
    coefficients = normal(g, 24, 60) * (1.2 * rho) ** -degrees
    maximum = float((coefficients.abs() @ ((rho**degrees + rho**-degrees) / 2)).max())
    return theory.theorem_1_analytic(
        coefficients @ torch.cos(degrees[:, None] * normal(g, 1, 150)), rho=rho, maximum=maximum
    )


def mlp(g: torch.Generator) -> Inequality:
    k = integer(g, 1, 6)
    weights = normal(g, 48, k), normal(g, 32, 48), uniform(g, 0, 10) * normal(g, 32, k)
    return theory.theorem_2(normal(g, k, 80), *weights, uniform(g, 0.05, 1))


def head(g: torch.Generator) -> Inequality:
    xi, scale = 3 * decaying(g, 12, 60), uniform(g, 0.05, 1)
    weights = [scale * normal(g, rows, 12) for rows in (4, 4, 6)]
    return theory.theorem_3(xi[:, torch.randint(60, (15,), generator=g)], xi, *weights, integer(g, 1, 11))


def hard(g: torch.Generator) -> Inequality:
    width = integer(g, 2, 8)
    xi = torch.linalg.qr(normal(g, width, width)).Q * torch.rand(width, generator=g).clamp_min(0.05)
    sigma = torch.linalg.svdvals(xi)
    errors = torch.linalg.svdvals(theory.attention(xi, *theory.theorem_3_hard_weights(xi)))
    return Inequality(sigma[1:] / 4, errors[1:])  # the least error of any replacement of rank 1, 2, …


def layer(g: torch.Generator, measured: bool) -> Inequality:
    heads = integer(g, 1, 4)
    depth = integer(g, 1, 50) if measured else math.ceil((2 * math.e**2 * heads) ** 2)
    u = decaying(g, 12, 30)
    y, values, mixings = torch.zeros_like(u), [], []
    for _ in range(heads):
        w_q, w_k, w_v = normal(g, 4, 12), normal(g, 4, 12), normal(g, 12, 12)
        scores = (w_k @ u).T @ (w_q @ u)
        if not measured:
            scores, w_v = scores / scores.abs().max(), w_v / torch.linalg.matrix_norm(w_v, 2)
        mixing = scores.softmax(dim=0)
        y += w_v @ u @ mixing
        values.append(float(torch.linalg.matrix_norm(w_v, 2)))
        mixings.append(float(torch.linalg.matrix_norm(mixing, 2)))
    before, after = torch.linalg.svdvals(u), torch.linalg.svdvals(u + y / depth**0.5)
    constants = {"value_norm": max(values), "attention_norm": max(mixings), "kept": float(after[0] / before[0])}
    bound = theory.theorem_4(before, heads=heads, depth=depth, **(constants if measured else {}))
    return Inequality(after / after[0], bound)


def planes(g: torch.Generator, merged: bool) -> Inequality:
    count, tokens, pairs = integer(g, 1, 16), integer(g, 2, 600), 20
    frequencies = torch.empty(count, dtype=torch.float64).uniform_(-4, 0, generator=g).mul_(math.log(10)).exp_()
    lags = torch.randint(1 - tokens, tokens, (pairs,), generator=g).double()
    if merged:
        inputs, weights = [normal(g, 12, pairs) for _ in "qk"], [normal(g, 2 * count, 12) for _ in "qk"]
        return theory.merged_planes(*inputs, *weights, frequencies, lags, integer(g, 1, 2 * count))
    query, key = (torch.complex(normal(g, pairs, count), normal(g, pairs, count)) for _ in "qk")
    return theory.slow_planes(query, key, frequencies, lags)


THEOREMS: dict[str, Callable[[torch.Generator], Inequality]] = {
    "1, smooth": smooth,
    "1, analytic": analytic,
    "2": mlp,
    "3": head,
    "3, lower bound": hard,
    "4, measured constants": lambda g: layer(g, True),
    "4, the paper's constants": lambda g: layer(g, False),
    "planes that stop turning": lambda g: planes(g, False),
    "the same, one block of lower rank": lambda g: planes(g, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, draw in THEOREMS.items():
        generator = torch.Generator().manual_seed(0)
        results = [draw(generator) for _ in range(arguments.instances)]
        loose = torch.cat([r.looseness[r.actual > 1e-10] for r in results])
        low, middle, high = loose.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=loose.dtype)).tolist()
        violations = sum(not r.holds for r in results)
        print(
            f"{name}: {violations} violations in {arguments.instances}, {middle:.3g} ({low:.3g} … {high:.3g})",
            flush=True,
        )
        spread = {"bound / actual, median (quartiles)": [middle, low, high]}
        rows.append({"theorem": name, "instances": arguments.instances, "violations": violations, **spread})
    if arguments.output:
        command = f"python benchmarks/theory.py --instances {arguments.instances}"
        found = {"command": command, "torch": torch.__version__, "rows": rows}
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
