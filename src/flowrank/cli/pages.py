"""Commands that write pages or figures: the report, the demo, a sheet of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import flowrank
from flowrank.cli.console import out
from flowrank.cli.options import Overwrite, Quiet, Seed
from flowrank.files import refuse_existing


def report(
    folder: Annotated[Path, typer.Argument(help="Folder with the results of the other commands.")],
    output: Annotated[Path | None, typer.Option(help="HTML file to write. Default: report.html in the folder.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one offline HTML page (and JSON and Markdown) from a folder of results."""
    out.print(f"written to {flowrank.write_report(folder, output=output, overwrite=overwrite)}", highlight=False)


def demo(
    output: Annotated[Path, typer.Option(help="Folder to write the results to.")] = Path("demo-output"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compress, analyze, evaluate, benchmark and report: an embedded model, on real series from statsmodels."""
    from flowrank.demo import run

    run(
        output,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
        say=lambda text: out.print(text, highlight=False),
    )


def datasheet(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="PNG, SVG or PDF file to write.")],
    count: Annotated[int, typer.Option(help="Number of series to draw.")] = 64,
    length: Annotated[int, typer.Option(help="Number of values in each series.")] = 512,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw samples of the synthetic series that models are pretrained on, as one page."""
    from flowrank.synthetic.datasheet import datasheet as draw
    from flowrank.synthetic.mixture import Mixture

    refuse_existing(output, overwrite=overwrite, argument="OUT", kind="file")
    draw(output, count=count, length=length, seed=seed, source=Mixture().series, overwrite=overwrite)
    out.print(f"written to {output}", highlight=False)
