"""The model card of an exported folder."""

from __future__ import annotations

from typing import Any


def card(manifest: dict[str, Any]) -> str:
    """Markdown that says what the folder is, how it was checked and how it is used."""
    source, check = manifest["source"], manifest.get("check")
    graph, tokens = manifest["graph"], manifest["graph"]["tokens"]
    levels = ", ".join(f"{level:g}" for level in graph["quantiles"])
    needs = ", ".join(f"{name} {number}" for name, number in manifest["needs"].items())
    lines = [
        "---",
        "library_name: flowrank",
        "tags: [time-series-forecasting, flowrank]",
        "---",
        "",
        f"# {source['name']}, exported by flowrank",
        "",
        f"- model: `{source['name']}` ({source['family']}, {source['parameters']:,} parameters, "
        f"sha256 over its tensors `{source['sha256']}`)",
        f"- format: {manifest['format']} ({needs}), weights in {manifest['precision']}",
        f"- reads up to {graph['context_length']} values, forecasts {graph['horizon']} steps at once",
        f"- quantiles {levels}" if tokens is None else f"- draws {tokens['samples']} sample paths, unless told",
    ]
    if check is not None:
        lines.append(
            f"- differs from the model by at most {check['difference']:.1e} of the spread of a series' "
            f"{'quantiles' if tokens is None else 'logits'} "
            f"(median series: {check['typical']:.1e}), on {check['series']} random series"
        )
    if check is not None and check["slower"] is not None:
        lines.append(f"- time over the same graph in fp32, where it was exported: {check['slower']:.2f}")
    lines += [
        "",
        "```python",
        "import flowrank  # torch is not needed",
        "",
        'model = flowrank.load("path/to/this/folder")',
        "quantiles, median = model.predict_quantiles([series], prediction_length=24)",
        "```",
        "",
        "`export.json` holds sizes, versions and the digest of each file.",
        "The licence and the limits are those of the model.",
        "",
    ]
    return "\n".join(lines)
