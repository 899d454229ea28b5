"""The lowest versions that setup.cfg allows are those that `make test-floor` installs."""

from __future__ import annotations

import configparser
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_constraints_are_the_lowest_versions_of_the_setup() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = [*setup["options"]["install_requires"].split(), *setup["options.extras_require"]["lora"].split()]
    lowest = dict(one.split(",")[0].split(">=") for one in needed if ">=" in one)
    lines = (ROOT / "tests/floor_constraints.txt").read_text().splitlines()
    constraints = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {"transformers", "datasets", "accelerate", "huggingface_hub", "peft"} <= constraints.keys() <= lowest.keys()
    for name, version in constraints.items():
        parts = version.split(".")
        while ".".join(parts) != lowest[name]:
            assert parts and parts.pop() == "0", f"{name}: {version} is not {lowest[name]}"
