"""The data sets of Chronos benchmark II, the zero-shot one: where they are, and what of them is forecast."""

from __future__ import annotations

from collections.abc import Sequence

from flowrank.errors import FlowrankError
from flowrank.evaluation import Backtest
from flowrank.proof.places import Home, Wanted

SUITE = "zero-shot"
HUB = "autogluon/chronos_datasets"

_HORIZONS = {
    "monash_traffic": 24,
    "monash_australian_electricity": 48,
    "ercot": 24,
    "ETTm": 24,
    "ETTh": 24,
    "exchange_rate": 30,
    "nn5": 56,
    "monash_nn5_weekly": 8,
    "monash_weather": 30,
    "monash_covid_deaths": 30,
    "monash_fred_md": 12,
    "m4_quarterly": 8,
    "m4_yearly": 6,
    "dominick": 8,
    "m5": 28,
    "monash_tourism_monthly": 24,
    "monash_tourism_quarterly": 8,
    "monash_tourism_yearly": 4,
    "monash_car_parts": 12,
    "monash_hospital": 12,
    "monash_cif_2016": 12,
    "monash_m1_yearly": 6,
    "monash_m1_quarterly": 8,
    "monash_m1_monthly": 18,
    "monash_m3_monthly": 18,
    "monash_m3_yearly": 6,
    "monash_m3_quarterly": 8,
}
_OFFSETS = {"ETTm": -96}
"""Where the histories are cut, counted from the end, if not at the horizon."""

_EXTRA = "autogluon/chronos_datasets_extra"  # had a script that made the files; has files where somebody put them
_OTHER_HOMES = {
    "ETTm": (Home(_EXTRA, "ETTm"), Home("autogluon/fev_datasets", "ETT_15T")),
    "ETTh": (Home(_EXTRA, "ETTh"), Home("autogluon/fev_datasets", "ETT_1H")),
}

BENCHMARK: dict[str, Backtest] = {
    name: Backtest(name, _OFFSETS.get(name, -horizon), horizon, suite=SUITE) for name, horizon in _HORIZONS.items()
}
"""What is forecast of each of the 27 data sets: one roll over the last values of every series."""


def chosen(names: Sequence[str] = ()) -> dict[str, Backtest]:
    """Backtests of the named data sets, in the order of the benchmark; of all if none is named.

    Raises
    ------
    FlowrankError
        If the benchmark has no data set of such a name.

    Examples
    --------
    >>> len(chosen()), chosen(["m5"])["m5"].prediction_length, chosen(["ETTm"])["ETTm"].offset
    (27, 28, -96)
    """
    unknown = [name for name in names if name not in BENCHMARK]
    if unknown:
        raise FlowrankError(
            "sets",
            expected="data sets of Chronos benchmark II",
            found=", ".join(map(repr, unknown)),
            todo=f"there are: {', '.join(sorted(BENCHMARK, key=str.lower))}",
        )
    return {name: test for name, test in BENCHMARK.items() if not names or name in names}


def homes(name: str) -> Wanted:
    """A data set and where on the hub it may be.

    Examples
    --------
    >>> homes("m5").homes
    (Home(repo='autogluon/chronos_datasets', config='m5'),)
    """
    return Wanted(name, _OTHER_HOMES.get(name, (Home(HUB, name),)))
