"""The command `python -m modeling_albef.visualize`, whose code is in `modeling_albef.explain`."""

from ..explain.visualize import main

__all__ = ["main"]
