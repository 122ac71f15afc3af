"""What the documentation shows is what happens: docstrings, README, public names."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import flowrank

ROOT = Path(__file__).parents[1]
MODULES = ["flowrank", *(module.name for module in pkgutil.walk_packages(flowrank.__path__, "flowrank."))]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


PAGES = [
    str(page.relative_to(ROOT))
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
    if page.is_file() and python_blocks(page.read_text(encoding="utf-8"))
]


@pytest.fixture(autouse=True)
def fewer_synthetic_series(monkeypatch):
    """The examples calibrate on hundreds of series; what they show holds for a few too."""
    from flowrank.measure import calibration

    whole = calibration.synthetic_series
    monkeypatch.setattr(
        calibration, "synthetic_series", lambda count, length, seed: whole(min(count, 12), length=length, seed=seed)
    )


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").split(".")[0] == "flowrank":
            raise
        pytest.skip(f"needs an extra: {error.name}")
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(module)
    assert failed == 0, "see the captured output"


@pytest.mark.parametrize("page", PAGES)
def test_python_in_pages_runs(page, tmp_path, monkeypatch):
    """Blocks run in order, in one namespace and an empty folder."""
    blocks = python_blocks((ROOT / page).read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


def test_python_blocks_are_found():
    assert python_blocks("a\n```python\nx = 1\n```\n```bash\nls\n```\n```python\ny = 2\nz = 3\n```\n") == [
        "x = 1\n",
        "y = 2\nz = 3\n",
    ]


@pytest.mark.parametrize("name", flowrank.__all__)
def test_public_names_are_there_and_documented(name):
    value = getattr(flowrank, name)
    assert name in dir(flowrank)
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", value)
        return
    documentation = inspect.getdoc(value) or ""
    assert len(documentation.splitlines()[0]) > 10
    generated = f"{name}("  # what a dataclass without a docstring gets
    assert not documentation.startswith(generated)


def test_names_that_are_not_there():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = flowrank.no_such_name
