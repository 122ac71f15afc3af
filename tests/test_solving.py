import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrank.solving import largest


@given(st.floats(0.001, 1000.0))
def test_the_largest_number_that_fits(edge):
    found = largest(lambda x: x <= edge, 0.0, 1000.0)
    assert found <= edge
    assert found == pytest.approx(edge, rel=1e-12)


def test_where_none_or_all_fit():
    assert largest(lambda x: False, 0.25, 1.0) == 0.25
    assert largest(lambda x: True, 0.25, 1.0) == pytest.approx(1.0)
    assert largest(lambda x: math.exp(x) <= 2, 0.0, 4.0) == pytest.approx(math.log(2))
