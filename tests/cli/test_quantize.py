"""``flowrank quantize`` writes what the library gives, and says where it does not pay."""

from __future__ import annotations

import flowrank
from flowrank.family import tensor_digest
from tests.cli.calls import is_as_before, run
from tests.conftest import make_t5
from tests.test_files import tree


def test_model_table_and_warning(here, capsys, monkeypatch):
    from flowrank.compression import timing as module

    make_t5(here / "t5", d_model=128, d_ff=256)
    call = ("quantize", "./t5", "int8", "--batch-size", "2", "--seconds", "0")
    for ratio, warned in ((0.5, False), (1.25, True)):
        monkeypatch.setattr(module, "seconds_of", lambda *_, of=ratio, **__: {"float32": 1.0, "int8": of})
        assert run(*call, "--overwrite") == 0
        said = capsys.readouterr()
        assert f"{ratio:.2f} of float32's" in said.out
        assert ("slower" in said.err) == warned
    expected = flowrank.quantize(flowrank.load("./t5"))
    assert tensor_digest(flowrank.load("./int8").inner_model) == tensor_digest(expected.inner_model)
    before = tree(here / "int8")
    assert run(*call) == 2
    assert is_as_before(before, here / "int8")
    assert run("quantize", "./int8", "again") == 2
    assert not (here / "again").exists()
