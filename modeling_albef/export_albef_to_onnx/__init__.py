"""The command `python -m modeling_albef.export_albef_to_onnx`, whose code is in `modeling_albef.conversion`."""

from ..conversion.export_albef_to_onnx import export_onnx, export_parts, main

__all__ = ["export_onnx", "export_parts", "main"]
