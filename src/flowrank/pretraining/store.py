"""Real series on disk, read by number: what lets a training resume anywhere and never hold all series."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flowrank.errors import FlowrankError
from flowrank.files import atomic_folder
from flowrank.series import read_series

_VALUES, _STARTS, _SOURCE = "values.f32", "starts.npy", "source.json"
SHORTEST = 8
"""Series with fewer values are left out: nothing is left to learn once a target is cut off."""


class SeriesStore:
    r"""Series one after the other in a memory-mapped file of float32 values.

    Parameters
    ----------
    folder
        What `SeriesStore.written` made.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "store"
    >>> series = Path(tempfile.mkdtemp()) / "series.csv"
    >>> _ = series.write_text("item_id,timestamp,target\n" + "".join(f"a,2024-01-{d:02},{d}\n" for d in range(1, 10)))
    >>> store = SeriesStore.written(series, folder)
    >>> len(store), store[0].tolist()
    (1, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._starts = np.load(folder / _STARTS, mmap_mode="r", allow_pickle=False)
        self._values = np.memmap(folder / _VALUES, dtype=np.float32, mode="r")

    @classmethod
    def written(cls, source: str | Path, folder: Path, *, unchanged: bool = False) -> SeriesStore:
        """Copy the series of a file into ``folder``, one at a time, unless that was done before.

        Raises
        ------
        FlowrankError
            If no series of the file has 8 values, or it has changed since it was copied and should be ``unchanged``.
        """
        path = Path(source).expanduser()
        found = path.stat() if path.exists() else None
        about = {"source": str(source), "bytes": found and found.st_size, "modified": found and found.st_mtime_ns}
        if (folder / _SOURCE).exists() and json.loads((folder / _SOURCE).read_text(encoding="utf-8")) == about:
            return cls(folder)
        if unchanged:
            raise FlowrankError(
                "training_data_paths",
                expected="the file that the training began with",
                found=f"{str(source)!r}, which has changed since",
                todo="choose another folder, or bring the file back",
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, overwrite=True) as temporary:
            starts = [0]
            with (temporary / _VALUES).open("wb") as values:
                for series in read_series(path):
                    if len(series.target) >= SHORTEST:
                        values.write(np.asarray(series.target, dtype=np.float32).tobytes())
                        starts.append(starts[-1] + len(series.target))
            if len(starts) == 1:
                raise FlowrankError(
                    "training_data_paths",
                    expected=f"series of {SHORTEST} values and more",
                    found=f"none in {str(source)!r}",
                )
            np.save(temporary / _STARTS, np.array(starts, dtype=np.int64), allow_pickle=False)
            (temporary / _SOURCE).write_text(json.dumps(about) + "\n", encoding="utf-8")
        return cls(folder)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Values of a series, shape (time,), NaN = missing."""
        return np.asarray(self._values[self._starts[index] : self._starts[index + 1]])

    def windows(self, rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
        """Draw windows (rows, length) of series drawn at random; NaN before the start of a shorter one.

        Every place of a longer series is as likely; what a shorter one gives ends at any of its values.
        """
        drawn = np.full((rows, length), np.nan)
        for row, index in enumerate(rng.integers(len(self), size=rows)):
            values = self[int(index)]
            end = int(rng.integers(length if len(values) > length else SHORTEST, len(values) + 1))
            window = values[max(0, end - length) : end]
            drawn[row, length - len(window) :] = window
        return drawn
