"""The command `python -m modeling_albef.convert_albef_to_hf`, whose code is in `modeling_albef.conversion`."""

from ..conversion.convert_albef_to_hf import main

__all__ = ["main"]
