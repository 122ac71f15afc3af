"""What to do about times that follow no calendar."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flowrank.series.weeks import WEEKDAYS

_DAYS = 86_400 * 10**9


def shown(freq: str) -> str:
    """Return the name of a calendar for errors, cut where it lists many times.

    Examples
    --------
    >>> shown("D"), len(shown("times:" + "2024-12-24," * 100))
    ("'D'", 63)
    """
    return repr(freq if len(freq) <= 60 else freq[:60] + "…")[:63]


def remedy_for(times: pd.DatetimeIndex) -> str:
    """Say which frequency irregular times may have.

    Examples
    --------
    >>> remedy_for(pd.DatetimeIndex(["2024-01-15", "2024-02-15", "2024-04-15"]))
    'pass the frequency, here perhaps freq="MS-15" (--freq MS-15)'
    """
    wall = times.tz_localize(None)
    days = np.asarray(wall.day)
    weekdays = sorted(set(np.asarray(wall.weekday).tolist()))
    steps = np.diff(times.asi8)
    daily = (
        bool((wall.normalize() == wall).all()) or len(set(np.asarray(wall.hour) * 60 + np.asarray(wall.minute))) == 1
    )
    more = ""
    if daily and steps.min() >= _DAYS and len(set(days.tolist())) <= 4 and steps.max() >= 9 * _DAYS:
        known = [31 if end else day for day, end in zip(days.tolist(), wall.is_month_end, strict=True)]
        guess = "MS-" + "-".join(map(str, sorted(set(known if len(set(known)) < len(set(days)) else days.tolist()))))
        guess = {"MS-1": "MS", "MS-31": "ME"}.get(guess, guess)
    elif daily and int(np.median(steps)) == _DAYS and 4 <= len(weekdays) <= 6 and len(times) > 2 * len(weekdays):
        guess = "B" if weekdays == [0, 1, 2, 3, 4] else "C:" + " ".join(WEEKDAYS[one] for one in weekdays)
        more = (
            "; without the holidays of an exchange: pandas' CustomBusinessDay(holidays=[…]), or a list of its "
            "sessions to come as well, as freq"
        )
    elif daily and int(np.median(steps)) % _DAYS == 0 and steps.min() >= _DAYS:
        usual = int(np.median(steps)) // _DAYS
        guess = {1: "D", 7: f"W-{WEEKDAYS[int(wall[0].weekday())].upper()}"}.get(usual, f"{usual}D")
    else:
        usual = int(np.median(steps))
        guess = pd.tseries.frequencies.to_offset(pd.Timedelta(usual)).freqstr
    flag = f"'{guess}'" if " " in guess else guess
    return f'pass the frequency, here perhaps freq="{guess}" (--freq {flag}){more}'
