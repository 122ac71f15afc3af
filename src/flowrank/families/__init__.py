"""The model families that flowrank knows, a folder or a file each; none imports another.

Chronos-T5 and Chronos-Bolt share what T5 stacks are made of (``_t5_stack``). T5, BERT, GPT-2 and ViT are described for
analysis only.
"""

from __future__ import annotations

BUILT_IN = (
    "flowrank.families.chronos2:Chronos2",
    "flowrank.families.chronos_bolt:ChronosBolt",
    "flowrank.families.chronos_t5:ChronosT5",
    "flowrank.families.t5:T5",
    "flowrank.families.bert:Bert",
    "flowrank.families.gpt2:Gpt2",
    "flowrank.families.vit:Vit",
)
"""Where their classes are, in the order in which a model is offered to them."""

TRAINED = ("bolt", "t5", "chronos2")
"""What recipes call those of them whose models can be trained; the first one is a recipe's default."""
