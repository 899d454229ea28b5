"""Build steps that setup.cfg cannot say: the wheel moves what would collide in site-packages into the package `albef`.

In a checkout, and in an editable installation of it, `processing`, `dataset_scripts`, `configs` and the run scripts
stand at the top level. Such names belong to nobody in site-packages, so the wheel has `albef.processing`,
`albef.dataset_scripts`, `albef.configs` and `albef.run_retrieval` .. beside `modeling_albef`. A `package_dir` alone
cannot do that: the packages import each other, and no relative import leads from one top-level package to another. So
the copies in the wheel are rewritten, by one expression, which a test compares with every import in the wheel.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("run_*.py"))
MOVED = ("processing", "dataset_scripts", *SCRIPTS)
NAMES = "|".join(MOVED)
# an import, a module's name in quotes, or a command in a message
REFERENCE = re.compile(rf'(^\s*(?:from|import) |import_module\("|python -m )(?=(?:{NAMES})\b)', re.MULTILINE)
IS_EDITABLE = "editable_wheel" in sys.argv
PREFIX = "" if IS_EDITABLE else "albef."

INIT = '''"""Processor, data sets, scripts. Importing it makes the Auto classes know models and processor."""

import modeling_albef

from . import processing
'''


class BuildPy(build_py):
    """Copies the packages, then moves those that would collide."""

    def run(self) -> None:
        """See `build_py`."""
        if self.editable_mode:
            super().run()
            return
        built = Path(self.build_lib)
        shutil.rmtree(built, ignore_errors=True)  # setuptools would pack what an earlier build left there
        super().run()
        package = built / "albef"
        package.mkdir()
        (package / "__init__.py").write_text(INIT, encoding="utf-8")
        for name in ("processing", "dataset_scripts", *(f"{script}.py" for script in SCRIPTS)):
            (built / name).rename(package / name)
        shutil.copytree(ROOT / "configs", package / "configs")
        for path in built.rglob("*.py"):
            path.write_text(REFERENCE.sub(r"\1albef.", path.read_text(encoding="utf-8")), encoding="utf-8")


class EggInfo(egg_info):
    """Names in `top_level.txt` what the wheel installs."""

    def run(self) -> None:
        """See `egg_info`."""
        super().run()
        if not IS_EDITABLE:
            (Path(self.egg_info) / "top_level.txt").write_text("albef\nmodeling_albef\n", encoding="utf-8")


commands = [f"albef-{name.removeprefix('run_')} = {PREFIX}{name}:main" for name in SCRIPTS]
setup(
    py_modules=SCRIPTS,
    cmdclass={"build_py": BuildPy, "egg_info": EggInfo},
    entry_points={"console_scripts": [*commands, f"albef-data = {PREFIX}dataset_scripts.__main__:main"]},
)
