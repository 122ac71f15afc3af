"""Products against the same in fp64, in every way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear

from flowrank.engine import products
from flowrank.engine.products import Weight, add_product, by_mkl, by_onednn, by_packed, product, way
from flowrank.families._t5_stack.engine import normalised

SIZES = st.integers(0, 40)
WAYS = {"mkl": by_mkl, "onednn": by_onednn, "packed": by_packed}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def chosen(request, monkeypatch):
    """All products in one way."""
    monkeypatch.setattr(products, "way", lambda *_: request.param)
    return request.param


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([True, False]))
def test_a_product_is_that_of_fp64(n, inner, outer, biased, relu, strided, packed):
    x, weight = rows(n, 2 * inner), rows(outer, 2 * inner, seed=1)
    if strided:
        x, weight = x[:, ::2], weight[:, ::2]
    bias = rows(outer, seed=2) if biased else None
    expected = linear(x, weight, bias)
    expected = expected.relu() if relu else expected
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(products, "_SMALL", 1 if packed else 1 << 15)
        found = product(x.float(), Weight(weight.float()), None if bias is None else bias.float(), relu=relu)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 33, 600, 2500])
def test_a_product_is_added_in_place(chosen, count):
    x, update, weight = rows(count, 24), rows(count, 16, seed=1), rows(24, 16, seed=2)
    expected = x + update @ weight.t()
    found = x.float()
    place = found.data_ptr()
    with torch.inference_mode():
        add_product(found, update.float(), Weight(weight.float()))
    assert found.data_ptr() == place
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


def test_a_packed_weight_is_good_for_any_number_of_rows(chosen):
    weight = rows(48, 40, seed=1)
    kept = Weight(weight.float())
    with torch.inference_mode():
        for count in (2, 33, 7, 300):
            x = rows(count, 40, seed=count)
            torch.testing.assert_close(product(x.float(), kept).double(), x @ weight.t(), atol=1e-4, rtol=1e-5)


class TestWay:
    @pytest.mark.parametrize("intel", [True, False])
    def test_it_goes_by_shape(self, monkeypatch, intel):
        monkeypatch.setattr(products, "_mkl_is_best", lambda: intel)
        small, usual, large = (Weight(torch.ones(outputs, 128)) for outputs in (48, 256, 1 << 14))
        for count, weight, expected in (
            (9, small, by_mkl),
            (1, usual, by_mkl),
            (9, usual, by_packed),
            (511, usual, by_packed),
            (512, usual, by_mkl if intel else by_onednn),
            (1, large, by_mkl if intel else by_onednn),
            (9, large, by_onednn),
        ):
            assert way(torch.ones(count, 128), weight) is expected, (count, weight.shape)

    def test_other_number_types_and_layouts_are_torchs(self):
        weight = torch.ones(256, 128)
        assert way(torch.ones(9, 128).bfloat16(), Weight(weight.bfloat16())) is by_mkl
        assert way(torch.ones(128, 9).t(), Weight(weight)) is by_mkl
        with torch.backends.mkldnn.flags(enabled=False):
            assert way(torch.ones(9, 128), Weight(weight)) is by_mkl


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_are_normalised_as_t5_does(dtype):
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    norm = T5LayerNorm(24, eps=1e-6).to(dtype)
    norm.weight.data.copy_(rows(24, seed=3))
    for x in (rows(5, 24), 1e-5 * rows(5, 24), torch.zeros(2, 24)):
        with torch.inference_mode():
            torch.testing.assert_close(normalised(x.to(dtype), norm), norm(x.to(dtype)), atol=1e-6, rtol=1e-5)
