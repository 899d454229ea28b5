"""Read `CONFIG.yaml --field value ..` into the dataclasses of a run."""

from __future__ import annotations

import argparse
import copy
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import logging

from ...configuration_albef import is_from_library
from ...conversion.foreign_configs import translate_config
from .mappings import ArgumentsError, abbreviated, merge_mappings
from .run_file import RECORD, GivenArguments, names_on_command_line, prepare_repetition
from .yaml_files import read_text, write_text

logger = logging.get_logger(__name__)
_SOURCES = Path(__file__).parents[3]  # the checkout with its configs/, or site-packages with albef/configs/
# what the dataclasses and the library's TrainingArguments raise for values that they do not take
_REFUSALS = (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError, NotImplementedError)


class _Parser(HfArgumentParser):
    """The library's parser; it raises what it would exit with; its help shows each field once, our own first."""

    def __init__(self, dataclass_types: Iterable[Any], **kwargs: Any) -> None:
        super().__init__(list(dataclass_types), usage="%(prog)s [CONFIG.yaml] [--field value ..]", **kwargs)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the values as they are given, before the dataclasses change them."""
        namespace, rest = super().parse_known_args(*args, **kwargs)
        self.given: dict[str, Any] = copy.deepcopy(dict(vars(namespace)))
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        raise ArgumentsError(f"The arguments are refused: {message}.")

    def format_help(self) -> str:
        for action in self._actions:  # the library adds --field-name to --field_name, and --no_field to --field false
            action.option_strings = [word for word in action.option_strings if "-" not in word[2:]]
            action.help = argparse.SUPPRESS if action.const is False else action.help
        mros = [one.__mro__ for one in self.dataclass_types if issubclass(one, TrainingArguments)]
        own = {name for mro in mros for one in mro[: mro.index(TrainingArguments)] for name in one.__annotations__}
        training = argparse._ArgumentGroup(self, "training")
        training._group_actions = [action for action in self._optionals._group_actions if action.dest in own]
        self._optionals._group_actions = [action for action in self._optionals._group_actions if action.dest not in own]
        self._optionals.title = "transformers.TrainingArguments"
        named = [group for group in self._action_groups if group not in (self._positionals, self._optionals)]
        self._action_groups = [*named, training, self._optionals]
        return super().format_help()


def parse_arguments(classes: Sequence[Any], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Read `CONFIG.yaml --field value ..`: the file first, then the command line over it.

    Fields that are mappings can be changed in part: `--model_config.vision_config.hidden_size 64` or
    `--model_config '{vision_config: {hidden_size: 64}}'` change one size of the file's.

    The `run.yaml` of an earlier run is such a file, too: see `prepare_repetition`; so is one of another implementation:
    see `translate_config`.

    Args:
        classes: Dataclasses to fill. `DISPLACES` of a class names for a field those that contradict it: where the
            command line gives the field, they are removed from the file's.
        argv: Words of the command line; default: those of this process.

    Returns:
        An instance of each class. Those beside the TrainingArguments have the values as they were given, too: their
        attribute `given`, a `GivenArguments`.

    Raises:
        ArgumentsError: The file cannot be read, a field is not known, or a value is refused.
    """
    words, config = list(sys.argv[1:] if argv is None else argv), dict[str, Any]()
    typed, source, record = tuple(words), None, dict[str, Any]()
    parser = _Parser(classes)
    if not words:
        command = Path(sys.argv[0]).stem
        task = command.removeprefix("run_").removeprefix("albef-")
        start = command if command.startswith("albef-") else f"accelerate launch run_{task}.py"
        raise ArgumentsError(
            "Give a configuration file, or fields; --help lists them. For example:\n"
            f"  {start} configs/demo_{task}.yaml --use_cpu"
        )
    if words[0].endswith((".yaml", ".yml")) or find_recipe(words[0]) != words[0]:
        path = find_recipe(words.pop(0))
        fields = {action.dest for action in parser._actions}
        config = _translated(_read_yaml(path), path, fields)
        if isinstance(config.get(RECORD), dict):
            source, record = path, config.pop(RECORD)
            prepare_repetition(config, record, fields, names_on_command_line(words))
        check_known(config, fields, f"the configuration file {path}")
        _displace(config, words, classes)
    words = merge_mappings(config, words, _fields_with(dict, classes))
    for word in words:
        _check_characters("a word of the command line", word)
    parsed, given, rest = _parse(config, words, classes)
    if rest:
        known = [option for action in parser._actions for option in action.option_strings]
        check_known([word for word in rest if word.startswith("--")], known, "the command line")
        raise ArgumentsError(f"The command line has words that belong to no field: {' '.join(rest)}")
    unset = _Parser(classes)
    unset.parse_known_args([])
    changed = frozenset(name for name, default in unset.given.items() if given[name] != default)
    for one in parsed:
        if not isinstance(one, TrainingArguments):  # which are saved as a pickle
            one.given = GivenArguments(typed, given, changed, source, record)
    return parsed


def find_recipe(name: str) -> str:
    """Return the path of a recipe that comes with the project, where no file has this name, which is returned otherwise.

    Args:
        name: Such as `demo_retrieval`, `demo_retrieval.yaml` or `configs/demo_retrieval.yaml`.
    """
    recipe = name.removeprefix("configs/").removesuffix(".yaml")
    if Path(name).is_file() or not re.fullmatch(r"\w+", recipe):
        return name
    shipped = (folder / "configs" / f"{recipe}.yaml" for folder in (_SOURCES, _SOURCES / "albef"))
    return next((str(path) for path in shipped if path.is_file()), name)


def _parse(
    config: dict[str, Any], words: list[str], classes: Sequence[Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    """Fill the classes, and return the values as given and what is left over, too.

    Where an error names no field, find the field of the file without which it does not occur.
    """

    def fill(config: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
        fresh = _Parser(classes)
        file_words = _file_words(fresh, config, classes)
        parsed: tuple[Any, ...] = fresh.parse_args_into_dataclasses(
            [*file_words, *words], return_remaining_strings=True, look_for_args_file=False
        )
        return parsed[:-1], fresh.given, parsed[-1]

    def refusal(config: dict[str, Any]) -> Exception | None:
        try:
            fill(config)
        except _REFUSALS as error:
            return error
        return None

    try:
        return fill(config)
    except ArgumentsError:
        raise
    except _REFUSALS as error:
        if not isinstance(error, OSError | ValueError | ImportError) and not is_from_library(error):
            raise
        message, culprits = str(error), []
        if not any(str(name) in message for name in config):
            without = {name: refusal({key: one for key, one in config.items() if key != name}) for name in config}
            culprits = [name for name, other in without.items() if other is None]
            culprits = culprits or [name for name, other in without.items() if str(other) != message]
        where = f" ({', '.join(culprits)})" if culprits else ""
        raise ArgumentsError(f"The arguments are refused{where}: {message}") from error


def _file_words(parser: HfArgumentParser, config: dict[str, Any], classes: Sequence[Any]) -> list[str]:
    """Return a file's fields as words of a command line; lists and mappings become defaults of the parser."""
    lists = _fields_with(list, classes)
    whole: dict[str, Any] = dict.fromkeys(_fields_with(dict, classes), dict)
    whole |= dict.fromkeys(_fields_with(list[dict], classes), (list, dict))
    words = []
    for name, value in config.items():
        if value is None:
            continue
        if isinstance(value, whole.get(name, ())):
            _check_texts(name, value)
            parser.set_defaults(**{name: value})
        elif isinstance(value, list) and name in lists and not any(isinstance(one, list | dict) for one in value):
            parser.set_defaults(**{name: _converted(parser, name, [_word(name, one) for one in value])})
        elif isinstance(value, list | dict | set):
            raise ArgumentsError(
                f"The configuration file has {name}: {abbreviated(value)}, but the field takes one value."
            )
        else:
            words.append(f"--{name}={_word(name, value)}")
    return words


def _converted(parser: HfArgumentParser, name: str, words: list[str]) -> list[Any]:
    """Return the values of a list as the parser reads them from a command line; it leaves defaults as they are."""
    action = next(one for one in parser._actions if one.dest == name)
    try:
        return [parser._get_value(action, word) for word in words]
    except argparse.ArgumentError as error:
        parser.error(str(error))


def _word(name: str, value: Any) -> str:
    """Return a value as it would stand on the command line."""
    word = str(value).lower() if isinstance(value, bool) else str(value)
    _check_characters(name, word)
    return word


def _fields_with(kind: type, classes: Sequence[Any]) -> set[str]:
    """Return the names of fields whose type admits a kind."""
    hints = [hint for one in classes for hint in get_type_hints(one).items()]
    parts = {name: (hint, *get_args(hint)) for name, hint in hints}
    return {name for name, some in parts.items() if kind in some or kind in [get_origin(part) for part in some]}


def _displace(config: dict[str, Any], words: Sequence[str], classes: Sequence[Any]) -> None:
    """Remove the fields of a file that contradict fields of the command line; `OVERRIDES` contradict nothing."""
    overrides = {name for one in classes for name in getattr(one, "OVERRIDES", ())}
    given = names_on_command_line([word for word in words if word.partition("=")[0].split(".")[-1] not in overrides])
    for name, rivals in (pair for one in classes for pair in getattr(one, "DISPLACES", {}).items()):
        gone = [rival for rival in rivals if name in given and rival not in given and config.pop(rival, None)]
        if gone and int(os.environ.get("RANK", "0")) == 0:
            logger.warning(f"--{name} takes the place of {', '.join(gone)} in the configuration file.")


def _check_texts(name: str, value: Any) -> None:
    """Check the characters of all texts in a mapping, which may refer to itself."""
    seen, rest = set(), [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            _check_characters(name, one)
        elif isinstance(one, dict | list) and id(one) not in seen:
            seen.add(id(one))
            rest += [*one, *one.values()] if isinstance(one, dict) else one


def _check_characters(name: str, text: str) -> None:
    """Refuse half of a surrogate pair, which neither a file nor its name can hold."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ArgumentsError(
            f"{name} is {abbreviated(text)}, half of a surrogate pair: write the whole character."
        ) from error


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        config = read_text(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}, as {Path(path).absolute()}"
        raise ArgumentsError(f"The configuration file {path} {reason}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no such date or number
        raise ArgumentsError(f"The configuration file {path} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise ArgumentsError(f"The configuration file {path} must hold `field: value` lines.")
    return config


def _translated(config: dict[str, Any], path: str, known: set[str]) -> dict[str, Any]:
    """Return the fields of a file; of one of another implementation those that it says, which are printed."""
    translation = translate_config(config, path)
    if translation is None:
        return config
    own = "vqa" if "answer_list" in known else "classification" if "labels" in known else "retrieval"
    if (task := translation.task) != own:
        raise ArgumentsError(f"The configuration file {path} is for {task}: start run_{task}.py.")
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"# {path} is of {translation.source}. Translated for run_{task}.py:\n{write_text(translation.fields)}")
        for note in translation.notes:
            logger.warning(f"{path}: {note}")
    return translation.fields


def check_known(names: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Refuse unknown names; the message says where they stand, and the most similar known name."""
    known = list(known)
    for name in map(str, names):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ArgumentsError(f"{where[0].upper()}{where[1:]} has the field {name!r}, which is not known.{hint}")
