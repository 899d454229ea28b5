"""Show the fields of dataclasses in the reference as `field(default=.., metadata={"help": ..})` declares them."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class FieldHelp(griffe.Extension):
    """Give such a field its default as its value, and its help as its docstring."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Change one attribute.

        Args:
            node: Its statement in the source.
            attr: The attribute.
            kwargs: What else Griffe knows.
        """
        call = getattr(node, "value", None)
        if not isinstance(call, ast.Call) or ast.unparse(call.func) not in ("field", "dataclasses.field"):
            return
        words = {word.arg: word.value for word in call.keywords}
        default = words.get("default", words.get("default_factory"))
        attr.value = None if default is None else ast.unparse(default)
        if "metadata" in words and attr.docstring is None:
            help_text = ast.literal_eval(words["metadata"])["help"]
            attr.docstring = griffe.Docstring(help_text, lineno=attr.lineno, endlineno=attr.endlineno, parent=attr)
