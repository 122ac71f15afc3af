"""What must stand in the config of a Chronos-2 model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from chronos.chronos2.config import Chronos2ForecastingConfig

from flowrank.errors import FlowrankError

_CLASSES = ("Chronos2Model", "NarrowChronos2")
_RESTORE = "copy config.json of the model again"


def check_config(raw: Mapping[str, Any]) -> None:
    """Refuse a config that names Chronos-2's pipeline, but is of another model.

    Raises
    ------
    FlowrankError
        If it names another class of models, lacks lengths, patches or quantiles, or has unequal patches.
    """
    classes = list(raw.get("architectures") or ())
    if classes and classes[0] not in _CLASSES:
        raise FlowrankError(
            "config.json architectures",
            expected=f"{_CLASSES[0]!r}, as chronos_pipeline_class says Chronos-2",
            found=repr(classes[0]),
            todo=_RESTORE,
        )
    chronos = raw.get("chronos_config")
    found = set(chronos) if isinstance(chronos, Mapping) else set()
    known = {field.name for field in fields(Chronos2ForecastingConfig)}
    needed = {field.name for field in fields(Chronos2ForecastingConfig) if field.default is MISSING}
    if not needed <= found <= known:
        wrong = [f"no {name}" for name in sorted(needed - found)] + [f"a {name}" for name in sorted(found - known)]
        raise FlowrankError(
            "config.json chronos_config",
            expected=f"{', '.join(sorted(needed))}, as chronos_pipeline_class says Chronos-2",
            found=", ".join(wrong),
            todo=_RESTORE,
        )
    assert isinstance(chronos, Mapping)
    if chronos["input_patch_size"] != chronos["output_patch_size"]:
        sizes = [chronos["input_patch_size"], chronos["output_patch_size"]]
        raise FlowrankError(
            "config.json chronos_config", expected="input and output patches of one size", found=sizes, todo=_RESTORE
        )
