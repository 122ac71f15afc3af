"""The model card (README.md) written with saved weights."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def model_card(name: str, model: PreTrainedModel, recipe: dict[str, Any] | None) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    parameters = sum(p.numel() for p in model.parameters())
    front = ["---", "library_name: flowrank", "tags: [time-series-forecasting, flowrank]", "---", ""]
    if recipe is not None and "pretraining" in recipe:
        run = recipe["pretraining"]
        body = [
            f"# {name}",
            "",
            f"{type(model).__name__}, {parameters:,} parameters, pretrained by flowrank: {run['series']:,} series in "
            f"{run['steps']:,} steps, {run['minutes']:g} minutes, {run['device']}.",
            "",
            *_trained(recipe),
            "`recipe.json` holds the whole recipe.",
        ]
        return "\n".join([*front, *body, ""])
    trained = _trained(recipe)
    if recipe is None or "parameters" not in recipe:
        body = [f"# {name}", "", f"{type(model).__name__}, {parameters:,} parameters, saved by flowrank.", *trained]
        return "\n".join([*front, *body, ""])
    counts, parent = recipe["parameters"], recipe["parent"]
    kept = counts["attention_child"] / max(1, counts["attention_parent"])
    body = [
        f"# {parent['name']}, compressed by flowrank",
        "",
        f"- parent: `{parent['name']}` (sha256 over its tensors `{parent['sha256']}`)",
        f"- parameters: {counts['child']:,} of {counts['parent']:,}",
        f"- attention parameters: {counts['attention_child']:,} of {counts['attention_parent']:,} ({kept:.1%})",
        f"- method: {_call(recipe['method'])}, allocation: {_call(recipe['allocation'])}, seed {recipe['seed']}",
        f"- calibration: {recipe['calibration']['series']} series, {recipe['calibration']['source']}",
        *trained,
        "",
        "```python",
        "import flowrank  # registers the architecture",
        "from chronos import BaseChronosPipeline",
        "",
        'pipeline = BaseChronosPipeline.from_pretrained("path/to/this/folder")',
        "```",
        "",
        "`recipe.json` says how it was made. The licence and the limits are those of the parent.",
    ]
    return "\n".join([*front, *body, ""])


def _trained(recipe: dict[str, Any] | None) -> list[str]:
    """What was trained after the model was made."""
    lines = []
    if recipe is not None and "healing" in recipe:
        run = recipe["healing"]
        lines += [
            f"- healed by distillation: {run['best_step']:,} steps, held-out loss {run['loss_before']:.4f} → "
            f"{run['loss_after']:.4f}"
        ]
    if recipe is not None and "finetuning" in recipe:
        run = recipe["finetuning"]
        lines += [
            f"- fine-tuned ({run['finetune_mode']}): {run['num_steps']:,} steps at a learning rate of "
            f"{run['learning_rate']:g}, for {run['prediction_length']} steps ahead"
        ]
    return lines


def _call(value: dict[str, Any]) -> str:
    options = ", ".join(f"{key}={option}" for key, option in value.items() if key != "name")
    return f"`{value['name']}({options})`"
