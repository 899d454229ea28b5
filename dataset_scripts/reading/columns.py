"""People's rows as rows of ALBEF's layout: the one place that knows names of columns; `values.py` knows their forms."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from .problems import short
from .rows import BadRow, Repeated
from .values import (
    is_missing,
    question_number,
    tidy_answers,
    tidy_box,
    tidy_boxes,
    tidy_captions,
    tidy_id,
    tidy_labels,
    tidy_number,
)

CORNERS = ("x", "y", "width", "height")  # of a box that has four columns
# What a column is called if the configuration does not say, without case, accents, blanks and signs; the first wins,
# then the second, and so on, but several of one line with different values are refused. Other languages come last.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "image": (
        ("image",),
        (
            *("file_name", "image_path", "path", "file", "filename", "file_path", "image_file", "image_name", "img"),
            *("img_path", "img_name", "img_file", "image_filename", "image_bytes", "photo", "picture"),
        ),
        tuple(
            "datei dateiname dateipfad bild bilddatei bildname foto fotodatei pfad fichier nom_de_fichier chemin "
            "archivo nombre_de_archivo fichero imagen ruta immagine nome_file nome_del_file percorso arquivo "
            "nome_do_arquivo ficheiro imagem caminho bestand bestandsnaam afbeelding plik nazwa_pliku zdjęcie fil "
            "filnamn filnavn файл имя_файла фото изображение 文件 文件名 图片 图像 "
            "ファイル ファイル名 画像 写真 파일 사진".split()
        ),
    ),
    "caption": (
        ("caption", "captions"),
        (
            *("text", "description", "sentence", "comment", "texts", "descriptions", "sentences", "comments", "raw"),
            *("caption_str", "caption_text", "image_caption", "image_description", "alt_text"),
        ),
        tuple(
            "bildunterschrift bildunterschriften bildbeschreibung beschreibung beschreibungen beschriftung légende "
            "légendes descriptif texte descripción descripciones leyenda pie_de_foto texto descrizione didascalia "
            "testo descrição legenda beschrijving bijschrift onderschrift omschrijving opis podpis beskrivning "
            "bildtext beskrivelse billedtekst описание подпись 描述 说明 标题 説明 キャプション 설명".split()
        ),
    ),
    "question": (("question",), ("question_text", "query")),
    "answer": (("answers",), ("answer",), ("answer_text", "direct_answers")),
    "text": (("text",), ("sentence", "hypothesis", "statement", "expression", "phrase"), ("caption",)),
    "label": (("label", "labels"), ("gold_label",)),
    "box": (("box",), ("bbox", "bounding_box")),
    **{name: ((name,),) for name in (*CORNERS, "boxes", "subset", "ref_id")},
    "image_id": (("image_id",), ("img_id",)),
    "question_id": (("question_id",), ("qid",)),
}
OF_TASK = {
    "retrieval": ("image", "caption", "image_id"),
    "vqa": ("image", "question", "answer", "image_id", "question_id"),
    "classification": ("image", "text", "label", "image_id"),
    "grounding": ("image", "text", "box", *CORNERS, "boxes", "subset", "ref_id"),
}
TEXT_OF_TASK = {"retrieval": "caption", "vqa": "question", "classification": "text", "grounding": "text"}
PASSED_ON = ("dataset", "answer_weight", "question_type", "answer_type")
NamedColumns = dict[str, str | list[str] | None]
_SHOWN = 6  # names of a column, in a message


def plain(name: str) -> str:
    """Return a column's name without case, accents, blanks and signs: "File Name" and "fileName" are one."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKD", name)).casefold()


_KNOWN = {
    task: {plain(one) for name in names for tier in COLUMNS[name] for one in tier} for task, names in OF_TASK.items()
}


@dataclass
class ColumnNames:
    """Turns rows with people's names of columns into rows of ALBEF's layout.

    Attributes:
        task: "retrieval", "vqa", "classification" or "grounding".
        named: What is read -> the column that is set for it, or several, which hold one each.
        needed: What a row must have; None: an image, and the text of the task.
        is_numbered: The `question_id` of the last row is its index.
    """

    task: str
    named: NamedColumns
    needed: tuple[str, ...] | None = None
    is_numbered: bool = False
    _count: int = 0
    _reported: str = ""
    _columns: dict[tuple[Any, ...], dict[str, list[list[str]]]] = field(
        default_factory=dict
    )  # keys of a row -> columns

    def is_known(self, header: str) -> bool:
        """Return whether a header names a column that is looked for."""
        columns = [column for column in self.named.values() if column]
        wanted = {one for column in columns for one in ([column] if isinstance(column, str) else column)}
        return plain(header) in _KNOWN[self.task] or plain(header) in map(plain, wanted)

    def is_image(self, header: str) -> bool:
        """Return whether a header names the column of images."""
        return plain(header) in {plain(name) for tier in COLUMNS["image"] for name in tier}

    def of_image(self, row: dict[Any, Any]) -> list[str]:
        """Return the columns of a row that may hold its image."""
        return [column for several in self._columns_of(row)["image"] for column in several]

    def rename(self, row: Any, folder: str = "") -> Any:
        """Return a row of ALBEF's layout, or what is wrong with the columns; image paths start from `folder`."""
        if not isinstance(row, dict):
            return row
        columns = self._columns_of(row)
        found: dict[str, Any] = {}
        for name in OF_TASK[self.task]:
            value = self._value(name, row, columns[name])
            if isinstance(value, BadRow):
                return value
            if value is not None:
                found[name] = value
        if "image" not in found and "image_id" in found and re.search(r"\D", image_id := str(found["image_id"])):
            found["image"] = image_id  # "image399" is a name without its ending
        for name in self.needed or ("image", TEXT_OF_TASK[self.task]):
            if name not in found:
                return self._missing(name, row)
        if isinstance(image := found.get("image"), bytes):
            found["image"] = {"bytes": image, "path": None}
        elif folder and isinstance(image, str):
            found["image"] = os.path.join(folder, image.replace("\\", "/"))
        if self.task == "vqa":
            self._number(found, row)
        corners = [found.pop(name, None) for name in CORNERS]
        if corners[:2] != [None, None]:  # width and height alone are those of the image
            found.setdefault("box", corners)
        self._count += 1
        return found

    def _columns_of(self, row: dict[Any, Any]) -> dict[str, list[list[str]]]:
        """Return, for what is read, the columns of a row that may hold it: lists, of which the first counts first."""
        keys = tuple(row)
        if keys not in self._columns:
            if len(self._columns) > 1_000:  # each row has other keys
                self._columns.clear()
            self._columns[keys] = {name: self._find(name, keys) for name in OF_TASK[self.task]}
        return self._columns[keys]

    def _find(self, name: str, keys: tuple[Any, ...]) -> list[list[str]]:
        """See `_columns_of`."""
        if column := self.named[name]:
            columns = [column] if isinstance(column, str) else column
            return [_called(keys, {one}) or _called(keys, {plain(one)}, plain) for one in columns]
        return [_called(keys, set(map(plain, names)), plain) for names in COLUMNS[name]]

    def _value(self, name: str, row: dict[Any, Any], columns: list[list[str]]) -> Any:
        """Return the value of what is read, None if there is none, or why there are several."""
        if isinstance(self.named[name], list) and len(columns) > 1:
            values = [row[column] for several in columns for column in several[:1]]
            tidy = [_TIDY[name](value) for value in values if not is_missing(value) and value != ""]
            if problem := next((value for value in tidy if isinstance(value, BadRow)), None):
                return problem
            return [one for value in tidy for one in (value if isinstance(value, list) else [value])] or None
        for several in columns:
            filled = [column for column in several if not is_missing(row[column])]
            if len(filled) > 1:
                embedded = [column for column in filled if isinstance(row[column], bytes | dict)]
                filled = embedded if name == "image" and len(embedded) == 1 else filled
                if problem := self._clash(name, row, filled):
                    return problem
            if filled:
                return _TIDY[name](row[filled[0]])
        return None

    def _clash(self, name: str, row: dict[Any, Any], columns: list[Any]) -> BadRow | None:
        """Return the problem of columns that may all hold what is read, unless they agree."""
        if all(row[column] == row[columns[0]] for column in columns):
            return None
        if twice := [column for column in columns if isinstance(column, Repeated)]:
            return BadRow(f"has several columns called {short(twice[0].column)}: give each a name of its own")
        setting = f"{name}{'s' * (name == 'answer')}_column"
        names = " and ".join(map(short, columns))
        return BadRow(f"has {_a(name)} in {names}: say which by {setting} in dataset_config")

    def _missing(self, name: str, row: dict[Any, Any]) -> BadRow:
        """Return the problem of a row without a value; a missing column is reported once, not for each row."""
        known = [column for several in self._columns_of(row)[name] for column in several]
        if known:
            names = " and ".join(dict.fromkeys(getattr(column, "column", column) for column in known))
            return BadRow(f"has nothing in {names}: fill it, or leave the row out")
        column = self.named[name]
        looked_for = [one for tier in COLUMNS[name] for one in tier]
        wanted = " or ".join(looked_for[:_SHOWN]) + " or the like" * (len(looked_for) > _SHOWN)
        header = [getattr(key, "column", key) for key in row][:8]
        text = f"has no {name} in {column or wanted}; its columns are {header}: "
        text += (
            "name files with answers" if name == "answer" else f"set {name}_column in dataset_config{self._hint(row)}"
        )
        is_known, self._reported = text == self._reported, text
        return BadRow("" if is_known else text)

    def _hint(self, row: dict[Any, Any]) -> str:
        """Return another remedy for a missing column."""
        names = {plain(str(key)) for key in row}
        if self.task == "retrieval" and "question" in names:
            return ", or, for questions, config_name vqa"
        if self.task == "vqa" and not names.isdisjoint({"caption", "captions", "text"}):
            return ", or, for captions, config_name retrieval"
        return ", or, if these are no names, put a first line with names before them"

    def _number(self, found: dict[str, Any], row: dict[str, Any]) -> None:
        """Add what a question has beside its text; cells of tables hold numbers as text."""
        found |= {name: row[name] for name in PASSED_ON if not is_missing(row.get(name)) and row[name] != ""}
        self.is_numbered = "question_id" not in found and found.get("dataset") != "vg"
        if self.is_numbered:
            found["question_id"] = self._count
        if isinstance(weight := found.get("answer_weight"), str):
            with contextlib.suppress(ValueError):  # the row is refused then
                found["answer_weight"] = float(weight)


def _called(keys: tuple[Any, ...], names: Collection[str], form: Callable[[str], str] = lambda key: key) -> list[str]:
    """Return the keys that are one of some names, in a form of theirs."""
    return [key for key in keys if form(getattr(key, "column", key)) in names]


def _a(name: str) -> str:
    return f"an {name}" if name in ("image", "answer", "image_id") else f"a {name}"


def _as_it_is(value: Any) -> Any:
    return value


_TIDY: dict[str, Callable[[Any], Any]] = {
    "image": lambda value: value.strip() if isinstance(value, str) else value,
    "caption": tidy_captions,
    "question": _as_it_is,
    "answer": tidy_answers,
    "text": _as_it_is,
    "label": tidy_labels,
    "box": tidy_box,
    "boxes": tidy_boxes,
    "subset": tidy_id,
    "ref_id": tidy_number,
    **dict.fromkeys(CORNERS, tidy_number),
    "image_id": tidy_id,
    "question_id": question_number,
}
