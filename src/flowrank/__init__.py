"""flowrank: small and fast time series foundation models, and why that works.

Source of the theory: Yu et al., "Understanding Transformers for Time Series: Rank Structure,
Flow-of-ranks, and Compressibility", ICLR 2026, arXiv 2510.03358.

Examples
--------
>>> import flowrank
>>> parent = flowrank.load("flow-bolt-mini")
>>> child = flowrank.compress(parent, flowrank.JointHeads(flowrank.Budget(0.25)), calibration_series=128)
>>> child.inner_model.num_parameters() < parent.inner_model.num_parameters()
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowrank import _registration

if TYPE_CHECKING:
    from flowrank.advice import Advice as Advice
    from flowrank.advice import advise as advise
    from flowrank.analysis import RankProfile as RankProfile
    from flowrank.analysis import analyze as analyze
    from flowrank.benchmarking import benchmark as benchmark
    from flowrank.benchmarking import compare_engines as compare_engines
    from flowrank.compression import Budget as Budget
    from flowrank.compression import Epsilon as Epsilon
    from flowrank.compression import FlowOfRanks as FlowOfRanks
    from flowrank.compression import InputSVD as InputSVD
    from flowrank.compression import JointHeads as JointHeads
    from flowrank.compression import Uniform as Uniform
    from flowrank.compression import WeightSVD as WeightSVD
    from flowrank.compression import WholeModel as WholeModel
    from flowrank.compression import compress as compress
    from flowrank.compression import fastest as fastest
    from flowrank.compression import quantize as quantize
    from flowrank.compression import rank_table as rank_table
    from flowrank.compression import univariate as univariate
    from flowrank.errors import AccuracyWarning as AccuracyWarning
    from flowrank.errors import CalibrationWarning as CalibrationWarning
    from flowrank.errors import FlowrankError as FlowrankError
    from flowrank.evaluation import evaluate as evaluate
    from flowrank.evaluation import relative_scores as relative_scores
    from flowrank.exporting import export as export
    from flowrank.family import embedded_models as embedded_models
    from flowrank.forecasting import forecast as forecast
    from flowrank.healing import Healing as Healing
    from flowrank.healing import heal as heal
    from flowrank.pipelines import load as load
    from flowrank.report import write_report as write_report
    from flowrank.search import Tolerance as Tolerance
    from flowrank.search import smallest as smallest
    from flowrank.series import read_series as read_series

__version__ = "0.1.0"

_HOMES = {
    "AccuracyWarning": "errors",
    "Advice": "advice",
    "Budget": "compression",
    "CalibrationWarning": "errors",
    "Epsilon": "compression",
    "FlowOfRanks": "compression",
    "FlowrankError": "errors",
    "Healing": "healing",
    "InputSVD": "compression",
    "JointHeads": "compression",
    "RankProfile": "analysis",
    "Tolerance": "search",
    "Uniform": "compression",
    "WeightSVD": "compression",
    "WholeModel": "compression",
    "advise": "advice",
    "analyze": "analysis",
    "benchmark": "benchmarking",
    "compare_engines": "benchmarking",
    "compress": "compression",
    "embedded_models": "family",
    "evaluate": "evaluation",
    "export": "exporting",
    "fastest": "compression",
    "forecast": "forecasting",
    "heal": "healing",
    "load": "pipelines",
    "quantize": "compression",
    "rank_table": "compression",
    "univariate": "compression",
    "read_series": "series",
    "relative_scores": "evaluation",
    "smallest": "search",
    "write_report": "report",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import flowrank`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'flowrank' has no attribute {name!r}")
    value = getattr(import_module(f"flowrank.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_registration.register()
