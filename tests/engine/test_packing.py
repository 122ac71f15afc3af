from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from flowrank.engine.chunks import even_chunks
from flowrank.engine.packing import Packed, by_length

masks = st.integers(1, 6).flatmap(
    lambda length: st.lists(
        st.lists(st.booleans(), min_size=length, max_size=length).filter(any), min_size=1, max_size=6
    )
)


@given(masks)
def test_every_visible_token_is_kept_once_and_found_again(rows):
    visible = torch.tensor(rows)
    batch = torch.arange(1, visible.numel() + 1).view(visible.shape)
    packed = Packed.of(visible)
    tokens = batch[packed.rows, packed.positions]
    assert tokens.tolist() == batch[visible].tolist()
    padded, hidden = packed.padded(tokens), packed.padding()
    for row, seen, values in zip(padded, visible, batch, strict=True):
        assert row[: seen.sum()].tolist() == values[seen].tolist()
        assert not row[seen.sum() :].any()
    expected = padded == 0
    assert torch.equal(expected, hidden if hidden is not None else torch.zeros_like(expected))


@given(masks)
def test_runs_are_whole_where_they_say_so(rows):
    visible = torch.tensor(rows)
    packed = Packed.of(visible)
    covered = 0
    for run in packed.runs:
        assert run.first == covered
        covered += run.count
        for row in visible[run.first : covered]:
            places = row.nonzero().flatten()
            assert len(places) == run.length
            assert run.whole == (int(places[-1] - places[0]) + 1 == run.length)
            assert int(places[-1] - places[0]) < packed.span
    assert covered == len(visible)


@given(masks)
def test_like_series_become_neighbours(rows):
    visible = torch.tensor(rows)
    order = by_length(visible)
    assert sorted(order.tolist()) == list(range(len(visible)))
    runs = Packed.of(visible[order]).runs
    whole = [run.length for run in runs if run.whole]
    assert whole == sorted(set(whole))
    assert [run.whole for run in runs] == sorted((run.whole for run in runs), reverse=True)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 400))
def test_chunks_cover_all_and_fit(costs, budget):
    chunks = list(even_chunks(costs, budget))
    assert [i for chunk in chunks for i in range(len(costs))[chunk]] == list(range(len(costs)))
    for chunk in chunks:
        part = costs[chunk]
        assert len(part) == 1 or len(part) * max(part) <= budget
