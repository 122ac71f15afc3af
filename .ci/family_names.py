"""No name of a model family, nor of its modules' parts, stands in code outside of `flowrank.families`.

Looks at identifiers and at strings that are no docstrings. Names of models (embedded ones, hub ids) do not count.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FAMILIES = r"t5|bolt|chronos_?2|timesfm|bert\b|gpt_?2|\bvit\b"
PARTS = (
    r"SelfAttention|EncDecAttention|DenseReluDense|ResidualBlock|(input|output)_patch_embedding|lm_head|embed_tokens"
    r"|hidden_layer\b|output_layer\b|residual_layer\b|\bwi(_[01])?\b|\bwo\b"
)
NAMES = re.compile(f"{FAMILIES}|{PARTS}", re.IGNORECASE)
MODELS = re.compile(r"flow-(bolt|t5)(-mini)?|(amazon/)?chronos-(bolt|t5)-\w+|flowrank_t5")
HOUSE = Path(__file__).parent.parent / "src" / "flowrank"


def found(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and names of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                docstrings.add(id(statement.value))
    for node in ast.walk(tree):
        texts: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            texts = [node.value]
        elif isinstance(node, ast.Name):
            texts = [node.id]
        elif isinstance(node, ast.Attribute):
            texts = [node.attr]
        elif isinstance(node, ast.arg | ast.keyword):
            texts = [node.arg or ""]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            texts = [node.name]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            texts = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
        for text in texts:
            if NAMES.search(MODELS.sub("", text)):
                yield getattr(node, "lineno", 0), text


def main() -> int:
    """Print what was found; 1 if anything was."""
    count = 0
    for path in sorted(HOUSE.rglob("*.py")):
        if "families" in path.relative_to(HOUSE).parts:
            continue
        for line, text in found(path):
            count += 1
            print(f"{path.relative_to(HOUSE.parent.parent)}:{line}: {text[:80]!r}")
    print(f"names of families outside of families/: {count}")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
