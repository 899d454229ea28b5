"""The card of an exported data set: what the Hub and `datasets.load_dataset` read of it, and its text."""

from __future__ import annotations

from typing import Any

import datasets
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from .templates import render

HUB_LICENSES = ("apache-2.0", "cc-by-4.0", "mit")  # those of the builders that the Hub has a name for
MEANINGS = {
    "image": "the image",
    "caption": "what people wrote about it",
    "image_id": "the same number for the same image of a split",
    "question": "",
    "question_id": "-1 where there is none",
    "answers": "of all annotators, with repeats",
    "answer_weight": "weight of an answer in training",
    "question_type": "",
    "answer_type": "",
}


def card_data(
    info: datasets.DatasetInfo,
    name: str,
    features: datasets.Features | None = None,
    files: dict[str, str] | None = None,
) -> DatasetCardData:
    """Return the fields at the top of a card, if given with the features of a row as written and the splits' files."""
    license_name: str | None = info.license.lower().replace(" ", "-")
    if license_name not in HUB_LICENSES:
        license_name = "other" if license_name else None
    fields: dict[str, Any] = {}
    if files:
        patterns = [{"split": split, "path": pattern} for split, pattern in files.items()]
        fields["configs"] = [{"config_name": "default", "data_files": patterns}]
    data = DatasetCardData(
        pretty_name=name,
        license=license_name,
        task_categories=["visual-question-answering" if "question" in (info.features or ()) else "image-to-text"],
        tags=["albef"],
        **fields,
    )
    if features is not None:
        DatasetInfosDict({"default": datasets.DatasetInfo(features=features)}).to_dataset_card_data(data)
    return data


def card_body(splits: datasets.DatasetDict, name: str, kind: str) -> str:
    """Return the text of a card in Markdown; `kind` is "parquet", "webdataset" or "hub"."""
    info = next(iter(splits.values())).info
    columns = [(column, _type_name(feature), MEANINGS.get(column, "")) for column, feature in info.features.items()]
    return render("dataset_card.md.j2", info=info, name=name, kind=kind, columns=columns, splits=splits)


def _type_name(feature: Any) -> str:
    """Return the short name of a feature's type."""
    if isinstance(feature, datasets.List):
        return f"list of {_type_name(feature.feature)}"
    return getattr(feature, "dtype", "") if isinstance(feature, datasets.Value) else type(feature).__name__.lower()
