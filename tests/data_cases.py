"""The annotation files of all sources, re-created in miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from dataset_scripts import FileBuilder, make_builder
from dataset_scripts.reading.problems import Problems


def write_json(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def write_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), (shade, 0, 0)).save(path)


def coco_name(subset: str, number: int) -> str:
    return f"{subset}/COCO_{subset}_{number:012d}.jpg"


def rows_of(dataset: datasets.Dataset) -> list[dict[str, Any]]:
    """Rows with images as paths."""
    columns = dataset.cast_column("image", datasets.Image(decode=False))
    return [row | {"image": row["image"]["path"]} for row in columns]


def read_rows(builder: FileBuilder, split: str) -> datasets.Dataset:
    """What a builder makes of its files, in memory, with images as they are stored."""
    rows = datasets.Dataset.from_list(list(builder.rows(split, Problems())), builder.info.features)
    return rows.cast_column("image", datasets.Image(decode=False))


def read_captions(files: Any, image_root: str) -> datasets.Dataset:
    return read_rows(make_builder("coco_retrieval", train_files=files, image_root=image_root), "train")


def read_questions(
    files: Any, vqa_root: str, vg_root: str | None = None, *, need_answers: bool = False, **fields: Any
) -> datasets.Dataset:
    """Questions that need answers are those of training."""
    split = "train" if need_answers else "test"
    fields |= {f"{split}_files": files, "vqa_root": vqa_root, "vg_root": vg_root}
    return read_rows(make_builder("vqa_v2", **fields), split)


# COCO: image, subset of 2014, Karpathy's split, captions
COCO = [
    (57870, "train2014", "train", ["A restaurant. ", "Tables and chairs"]),
    (522418, "val2014", "restval", ["A woman cuts a cake."]),
    (391895, "val2014", "test", ["A man on a bike", "Riding\n"]),
    (184613, "val2014", "val", ["A child with an umbrella"]),
    (318219, "train2014", "train", ["A boy at a desk"]),
]


def write_coco_images(root: Path) -> None:
    for shade, (number, subset, _, _) in enumerate(COCO):
        write_image(root / coco_name(subset, number), shade)


def write_coco_albef(folder: Path) -> None:
    """A row a caption for training, a row an image otherwise."""
    files: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for number, subset, split, captions in COCO:
        image = coco_name(subset, number)
        if split in ("val", "test"):
            files[split].append({"image": image, "caption": captions})
        else:
            files["train"] += [{"image": image, "caption": text, "image_id": f"coco_{number}"} for text in captions]
    for split, rows in files.items():
        write_json(folder / f"coco_{split}.json", rows)


def write_coco_karpathy(folder: Path) -> None:
    images = [
        {
            "filepath": subset,
            "sentids": list(range(len(captions))),
            "filename": Path(coco_name(subset, number)).name,
            "imgid": index,
            "split": split,
            "sentences": [
                {"tokens": text.lower().split(), "raw": text, "imgid": index, "sentid": i}
                for i, text in enumerate(captions)
            ],
            "cocoid": number,
        }
        for index, (number, subset, split, captions) in enumerate(COCO)
    ]
    write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})


def write_coco_official(folder: Path) -> None:
    for wanted in ("train2014", "val2014"):
        chosen = [entry for entry in COCO if entry[1] == wanted]
        images = [
            {"license": 5, "file_name": Path(coco_name(wanted, n)).name, "height": 20, "width": 24, "id": n}
            for n, *_ in chosen
        ]
        annotations = [{"image_id": n, "id": 10 * n + i, "caption": t} for n, *_, c in chosen for i, t in enumerate(c)]
        content = {"info": {"year": 2014}, "images": images, "licenses": [{"id": 5}], "annotations": annotations}
        write_json(folder / f"captions_{wanted}.json", content)


# VQA v2: question_id, image, subset, question, answers, types
VQA = [
    (57870000, 57870, "train2014", "What is it?", ["a table"] * 7 + ["table"] * 3, ("what is", "other")),
    (57870002, 57870, "train2014", "Is it red?", ["yes"] * 6 + ["no"] * 4, ("is it", "yes/no")),
    (391895001, 391895, "val2014", "How many men?", ["1"] * 10, ("how many", "number")),
    (11000, 11, "test2015", "Who is it?", None, None),
]


def write_vqa_images(root: Path) -> None:
    for shade, (_, image, subset, *_) in enumerate(VQA):
        write_image(root / coco_name(subset, image), shade)


def write_vqa_albef(folder: Path) -> None:
    for split, subset in (("train", "train2014"), ("val", "val2014"), ("test", "test2015")):
        rows = []
        for question_id, image, of, question, answers, _ in VQA:
            if of == subset:
                row = {
                    "question_id": question_id,
                    "question": question,
                    "image": coco_name(of, image),
                    "dataset": "vqa",
                }
                rows.append(row if answers is None else row | {"answer": answers})
        write_json(folder / f"vqa_{split}.json", rows)


def write_vqa_official(folder: Path) -> None:
    for subset in ("train2014", "val2014", "test2015"):
        chosen = [entry for entry in VQA if entry[2] == subset]
        head = {"info": {}, "data_type": "mscoco", "data_subtype": subset, "license": {}}
        questions = [{"image_id": image, "question": q, "question_id": n} for n, image, _, q, _, _ in chosen]
        content = head | {"task_type": "Open-Ended", "questions": questions}
        write_json(folder / f"v2_OpenEnded_mscoco_{subset}_questions.json", content)
        annotations = [
            {
                "question_type": types[0],
                "multiple_choice_answer": answers[0],
                "answers": [
                    {"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(answers, 1)
                ],
                "image_id": image,
                "answer_type": types[1],
                "question_id": n,
            }
            for n, image, _, _, answers, types in chosen
            if answers is not None
        ]
        if annotations:
            write_json(folder / f"v2_mscoco_{subset}_annotations.json", head | {"annotations": annotations})


# Visual Genome: image, folder, questions with answers
GENOME = [
    (1, "VG_100K_2", [(986768, "What is on the walk?", "A bike")]),
    (4, "VG_100K", [(5, "Where?", "Here"), (6, "When?", "Day")]),
]


def write_genome_images(root: Path, merged: str | None = None) -> None:
    for shade, (number, folder, _) in enumerate(GENOME):
        write_image(root / (folder if merged is None else merged) / f"{number}.jpg", shade)


def write_genome_albef(folder: Path) -> None:
    rows = [
        {
            "dataset": "vg",
            "image": f"{where}/{number}.jpg",
            "question": question,
            "question_id": qa_id,
            "answer": answer,
        }
        for number, where, questions in GENOME
        for qa_id, question, answer in questions
    ]
    write_json(folder / "vg_qa.json", rows)


def write_genome_official(folder: Path) -> None:
    def qas(number: int, questions: list[Any]) -> list[Any]:
        return [
            {"a_objects": [], "question": q, "image_id": number, "qa_id": n, "answer": f"{a}.", "q_objects": []}
            for n, q, a in questions
        ]

    content = [{"id": number, "qas": qas(number, questions)} for number, _, questions in GENOME]
    write_json(folder / "question_answers.json", content)
    address = "https://cs.stanford.edu/people/rak248"
    images = [
        {"width": 24, "url": f"{address}/{where}/{number}.jpg", "height": 20, "image_id": number, "coco_id": None}
        for number, where, _ in GENOME
    ]
    write_json(folder / "image_data.json", images)
