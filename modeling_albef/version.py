# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The version, apart so that packaging reads it without importing torch."""

__version__ = "0.1.0"
