"""The modality example runs from end to end, and its modalities are alike where they should be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parents[1] / "examples" / "modality"
MODULES = {path.stem for path in FOLDER.glob("*.py")}


@pytest.fixture
def example(monkeypatch):
    """The example's modules, importable as when it runs as a script, with few series."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in MODULES & set(sys.modules):
        monkeypatch.delitem(sys.modules, name)
    import modalities

    monkeypatch.setattr(modalities, "SERIES", 40)
    yield modalities
    for name in MODULES & set(sys.modules):
        del sys.modules[name]


def test_every_modality_gives_sequences_of_one_length(example):
    rng = np.random.default_rng(0)
    for name, build in example.MODALITIES.items():
        modality = build()
        tokens = modality.draw(rng, 3, heldout=True)
        assert modality.name == name
        assert tokens.shape[:2] == (3, example.TOKENS)
        if modality.vocabulary is None:
            assert tokens.shape[2] == example.PATCH
            assert torch.allclose(tokens.flatten(1).mean(dim=1), torch.zeros(3), atol=1e-5)
        else:
            assert 0 <= int(tokens.min()) <= int(tokens.max()) < example.VOCABULARY == modality.vocabulary


def test_image_patches_are_squares_of_the_image(example):
    from sklearn.datasets import load_digits

    images = load_digits().images
    patches = example._blocks(images, 4)
    assert (patches[7, 1].reshape(4, 4) == images[7, :4, 4:]).all()


def test_bins_are_those_of_chronos(example):
    bins = example.binned(np.array([[-1.0, 1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 100.0]]))
    assert bins[0].tolist() == [512 - 35, 512 + 34, 512 + 68, 512]
    assert bins[1].tolist() == [512, 512, 512, 512 + 136]


def test_references_of_a_repeating_text(example):
    from training import reference_losses

    items = np.tile([3, 5], 200)[None]
    modality = example.Modality("text words", items, items, 1, 8, np.asarray)
    references = reference_losses(modality, rows=64)
    assert references["constant"] == pytest.approx(np.log(2), abs=0.02)
    assert references["from_last"] < 0.05


def test_experiment_and_sweeps_end_to_end(example, tmp_path, capsys):
    import experiment
    import figures
    import sweeps
    import tables
    from training import Run

    tiny = Run("", steps=2, width=16, heads=2, layers=1, rows=2, tokens=8)
    experiment.compare(tiny, [0], tmp_path, rows=4)
    files = sorted(tmp_path.glob("models/*.safetensors"))
    written = [path.stat().st_mtime_ns for path in files]
    experiment.compare(tiny, [0], tmp_path, rows=4)
    assert [path.stat().st_mtime_ns for path in files] == written, "finished runs are not repeated"
    ranks = pd.read_csv(tmp_path / "embedding_ranks.csv")
    assert set(ranks["modality"]) == set(example.MODALITIES)
    assert (ranks["rank"] <= ranks["dim"]).all()
    assert set(ranks["data"]) == {experiment.HELDOUT, *example.HARD_SERIES}

    run = Run("series patches", steps=2, width=16, heads=2, layers=1, rows=2, tokens=8)
    found, losses = sweeps.sweep(run, {"patch": (1, 4), "heads": (1, 2), "width": (8, 16)}, tmp_path, rows=4)
    bounded = found[found["quantity"] == "theorem 2"]
    assert (bounded["rank"] <= bounded["bound"]).all()
    found.to_csv(tmp_path / "sweeps.csv", index=False)
    losses.to_csv(tmp_path / "sweep_losses.csv", index=False)

    tables.main([str(tmp_path)])
    assert "| series patches, tokens |" in capsys.readouterr().out
    figures.main([str(tmp_path)])
    assert {path.stem for path in tmp_path.glob("*.png")} == set(figures.FIGURES)
