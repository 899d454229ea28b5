"""Writes docs/api.md, the reference of all public names, from their docstrings.

    python docs/make_api.py

A test fails while the file says something else than this script.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
API = ROOT / "docs/api.md"
PACKAGES = ("modeling_albef", "modeling_albef.training", "processing", "dataset_scripts")
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")
HEAD = """# API reference

Every public name of the four packages, written by `python docs/make_api.py` from the docstrings. Shape letters are
those of the module that a name is defined in. Their own pages document what a class inherits from `transformers`,
`datasets` or `torch`.
"""


def public_names(package: str) -> list[str]:
    """Return the names in a package's `__all__`, without its version."""
    return [name for name in importlib.import_module(package).__all__ if not name.startswith("__")]


def make_api() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for package in PACKAGES:
        names = public_names(package)
        links = ", ".join(f"[{name}](#{name.lower()})" for name in names)
        module = importlib.import_module(package)
        parts.append(f"## {package}\n\n{inspect.getdoc(module)}\n\n{links}\n")
        parts += [describe(name, getattr(module, name)) for name in names]
    return "\n".join(parts)


def describe(name: str, thing: Any) -> str:
    """Return a name's heading, kind, signature and docstring."""
    if isinstance(thing, dict):
        entries = ", ".join(f"`{key}`: `{value.__name__}`" for key, value in thing.items())
        return f"### {name}\n\nA mapping: {entries}.\n"
    node: Any = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    path = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "").relative_to(ROOT).as_posix()
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
        kind = f"Class in `{path}`" + (f", derived from {bases}" if bases else "")
        return f"### {name}\n\n{kind}.\n\n{describe_class(name, node)}"
    return f"### {name}\n\nFunction in `{path}`.\n\n{signature(name, node)}\n{markdown(ast.get_docstring(node))}"


def describe_class(name: str, node: ast.ClassDef) -> str:
    """Return a class's docstring, its table of fields, and its public methods."""
    fields = dict(filter(None, map(field, node.body)))
    parts = [markdown(ast.get_docstring(node), fields)]
    for method in (item for item in node.body if isinstance(item, ast.FunctionDef)):
        decorators = [ast.unparse(decorator) for decorator in method.decorator_list]
        text = markdown(ast.get_docstring(method))
        if method.name == "__init__":
            parts = [signature(name, method), *parts, text]
        elif method.name == "__call__" or not method.name.startswith("_"):
            kind = {"classmethod": "Class method. ", "property": "Property. ", "staticmethod": "Static method. "}
            prefix = next((kind[word] for word in decorators if word in kind), "")
            shown = "" if "property" in decorators else signature(method.name, method) + "\n"
            parts.append(f"#### {name}.{method.name}\n\n{shown}{prefix}{text}")
    return "\n".join(filter(None, parts))


def field(item: ast.stmt) -> tuple[str, ast.AnnAssign] | None:
    """Return name and declaration of a public field, or None for any other line of a class body."""
    if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
        return None
    is_public = not item.target.id.startswith("_") and not ast.unparse(item.annotation).startswith("ClassVar")
    return (item.target.id, item) if is_public else None


def signature(name: str, node: ast.FunctionDef) -> str:
    """Return a call as it is written in the source, as an indented block; a long one has a line for each parameter."""
    found = parameters(node.args)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    line = f"{name}({', '.join(found)}){returns}"
    if len(line) > 110:
        line = "\n".join([f"{name}(", *(f"    {parameter}," for parameter in found), f"){returns}"])
    return textwrap.indent(line, "    ") + "\n"


def parameters(arguments: ast.arguments) -> list[str]:
    """Return the parameters of a function, with types and defaults, without `self`."""
    plain, further = [*arguments.posonlyargs, *arguments.args], arguments.kwonlyargs
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    found = [with_default(one, value) for one, value in zip(plain, defaults, strict=True)]
    if arguments.vararg or further:
        found.append("*" + (ast.unparse(arguments.vararg) if arguments.vararg else ""))
    found += [with_default(one, value) for one, value in zip(further, arguments.kw_defaults, strict=True)]
    found += ["**" + ast.unparse(arguments.kwarg)] if arguments.kwarg else []
    return [parameter for parameter in found if parameter not in ("self", "cls")]


def with_default(argument: ast.arg, value: ast.expr | None) -> str:
    """Return a parameter and its default."""
    equals = " = " if argument.annotation else "="
    return ast.unparse(argument) + (f"{equals}{ast.unparse(value)}" if value else "")


def markdown(text: str | None, fields: dict[str, ast.AnnAssign] | None = None) -> str:
    """Return a Google-style docstring as Markdown; attributes that are fields become a table."""
    known = "|".join(SECTIONS)
    parts = re.split(rf"^({known}):\n", text or "", flags=re.MULTILINE)
    out = [parts[0].strip() + "\n"] if parts[0].strip() else []
    sections = dict(zip(parts[1::2], map(textwrap.dedent, parts[2::2]), strict=True))
    attributes = items(sections.pop("Attributes", ""))
    if fields:
        out.append(table(fields, attributes))
    attributes = {name: meaning for name, meaning in attributes.items() if name not in (fields or {})}
    if attributes:
        out.append("Attributes:\n\n" + listed(attributes))
    for title, body in sections.items():
        if title in ("Args", "Raises"):
            out.append(f"{'Arguments' if title == 'Args' else title}:\n\n{listed(items(body))}")
        elif title == "Example":
            out.append(f"Example:\n\n{textwrap.indent(body.strip(), '    ')}\n")
        else:
            out.append(f"{title}: {body.strip()}\n")
    return "\n".join(out)


def items(body: str) -> dict[str, str]:
    """Return `name: meaning` entries, whose further lines are indented."""
    entries = re.findall(r"^(\S[^:\n]*):\s(.*(?:\n(?:[ ].*)?)*)", body, flags=re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def listed(entries: dict[str, str]) -> str:
    """Return a list of names and meanings."""
    return "".join(f"- `{name}`: {meaning}\n" for name, meaning in entries.items())


def table(fields: dict[str, ast.AnnAssign], meanings: dict[str, str]) -> str:
    """Return a table with a row for each field: name, type, default and meaning."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, item in fields.items():
        default, meaning = "" if item.value is None else ast.unparse(item.value), meanings.get(name, "")
        if isinstance(item.value, ast.Call) and ast.unparse(item.value.func) == "field":
            words = {word.arg: word.value for word in item.value.keywords}
            default = ast.unparse(words.get("default", words.get("default_factory", ast.Constant("required"))))
            if "metadata" in words:
                meaning = ast.literal_eval(words["metadata"])["help"]
        cells = [f"`{name}`", f"`{ast.unparse(item.annotation)}`", f"`{default}`" if default else "", meaning]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    API.write_text(make_api(), encoding="utf-8")
