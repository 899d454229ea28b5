"""The command `python -m modeling_albef.export_albef_to_onnx`, whose code is in `modeling_albef.conversion`."""

from ..conversion.export_albef_to_onnx import main

__all__ = ["main"]
