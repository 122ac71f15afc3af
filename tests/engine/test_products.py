"""Products against the same in fp64, by either library."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear

from flowrank.engine import products
from flowrank.engine.products import add_product, product
from flowrank.families._t5_stack.engine import normalised

SIZES = st.integers(0, 40)


@contextmanager
def using(onednn: bool):
    """Multiply by oneDNN wherever it can, as on processors that Intel did not make, or by MKL."""
    with pytest.MonkeyPatch.context() as patch, torch.backends.mkldnn.flags(enabled=onednn):
        patch.setattr(products, "mkl_is_best", lambda: False)
        yield


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def library(request):
    with using(onednn=request.param):
        yield


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([True, False]))
def test_a_product_is_that_of_fp64(n, inner, outer, biased, relu, strided, onednn):
    x, weight = rows(n, 2 * inner), rows(outer, 2 * inner, seed=1)
    if strided:
        x, weight = x[:, ::2], weight[:, ::2]
    bias = rows(outer, seed=2) if biased else None
    expected = linear(x, weight, bias)
    expected = expected.relu() if relu else expected
    with torch.inference_mode(), using(onednn):
        found = product(x.float(), weight.float(), None if bias is None else bias.float(), relu=relu)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 33, 2500])
def test_a_product_is_added_in_place(library, count):
    x, update, weight = rows(count, 24), rows(count, 16, seed=1), rows(24, 16, seed=2)
    expected = x + update @ weight.t()
    found = x.float()
    place = found.data_ptr()
    with torch.inference_mode():
        add_product(found, update.float(), weight.float())
    assert found.data_ptr() == place
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


def test_intel_gets_onednn_for_some_rows_by_large_weights_only(monkeypatch):
    taken = []
    monkeypatch.setattr(products, "mkl_is_best", lambda: True)
    monkeypatch.setattr(
        products, "_ONEDNN", lambda x, weight, *_: taken.append((len(x), len(weight))) or x @ weight.t()
    )
    for outer in (64, 8192):
        for count in (1, 16, 600):
            product(torch.ones(count, 128), torch.ones(outer, 128))
    assert taken == [(16, 8192)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_are_normalised_as_t5_does(dtype):
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    norm = T5LayerNorm(24, eps=1e-6).to(dtype)
    norm.weight.data.copy_(rows(24, seed=3))
    for x in (rows(5, 24), 1e-5 * rows(5, 24), torch.zeros(2, 24)):
        with torch.inference_mode():
            torch.testing.assert_close(normalised(x.to(dtype), norm), norm(x.to(dtype)), atol=1e-6, rtol=1e-5)
