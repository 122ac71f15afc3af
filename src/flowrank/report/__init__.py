"""One offline page from a folder of results, and the same numbers as JSON and Markdown."""

from __future__ import annotations

from pathlib import Path

from flowrank.errors import FlowrankError
from flowrank.files import atomic_file, refuse_existing

__all__ = ["write_report"]


def write_report(folder: str | Path, *, output: str | Path | None = None, overwrite: bool = False) -> Path:
    r"""Write one self-contained HTML page on whatever results lie in ``folder``.

    Parameters
    ----------
    folder
        Holds some of ``rank_profile.parquet``, ``spectra.parquet``, ``bounds.parquet``, ``positions.parquet``,
        ``analysis.json`` (from an analysis), ``ranks.parquet``, ``recipe.json`` (from a compression),
        ``search.jsonl`` and ``search.json`` (from a search, even one that still runs), ``scores.csv``,
        ``bench.json``, ``forecasts.parquet``, ``history.parquet``, ``fev.csv`` and ``proof.json`` (from a proof). A
        part of the report appears only if its files are there.
    output
        Name of the page, ending in ``.html``; default: ``report.html`` in ``folder``. The same numbers,
        unrounded, go to a ``.json`` file next to it, and a text version to a ``.md`` file.
    overwrite
        Whether to replace these three files if they exist.

    Returns
    -------
    Path
        The page. It loads nothing from elsewhere and runs no script.

    Raises
    ------
    FlowrankError
        If ``folder`` is not a folder or holds none of these files, a file is not what its name says, or an
        output exists and ``overwrite`` is false.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> scores = "dataset,model,MASE,WQL\nm4,seasonal-naive,1.2,0.05\nm4,a,1.0,0.04\n"
    >>> _ = (folder / "scores.csv").write_text(scores)
    >>> page = write_report(folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['report.html', 'report.json', 'report.md', 'scores.csv']
    """
    folder = Path(folder)
    page = folder / "report.html" if output is None else Path(output)
    if page.suffix != ".html":
        raise FlowrankError(
            "output",
            expected="a file name that ends in .html",
            found=repr(str(page)),
            todo="e.g. report.html",
        )
    targets = [page.with_suffix(suffix) for suffix in (".json", ".md", ".html")]

    from flowrank.report.folder import files_in
    from flowrank.report.page import Report

    files_in(folder)
    for target in targets:
        refuse_existing(target, overwrite=overwrite)
    report = Report.of(folder)
    for target, content in zip(targets, (report.json(), report.markdown(), report.html()), strict=True):
        with atomic_file(target, overwrite=overwrite) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return page
