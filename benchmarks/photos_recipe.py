"""Cross-validation of `configs/photos_small.yaml` over the training images: settings side by side.

    python -m benchmarks.photos_recipe --train_files captions.json --image_root . --vision_encoder dinov2 \
        --text_encoder minilm --settings "num_train_epochs=3" "num_train_epochs=6 learning_rate=1e-4"

Each setting is trained on four fifths of the images and evaluated on the others, five times, for each seed; the line
`closed form` is the start, without a step. `gain` is the difference of their mean recalls, with its standard error over
folds and seeds, and `best_stage` the mean recall of the best order of candidates. Recalls of a fold are higher than
those of all images, whose gallery is five times as large: only their order counts. All options of run_retrieval.py are
taken, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset
from transformers.utils import logging

from dataset_scripts import CaptionRows
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments
from modeling_albef.training.application import (
    DataArguments,
    ModelArguments,
    image_store,
    load_model,
    load_processor,
    load_splits,
    parse_arguments,
)
from processing import RetrievalCollator

CLASSES = (ModelArguments, DataArguments, RetrievalTrainingArguments)
RECIPE = Path(__file__).parents[1] / "configs" / "photos_small.yaml"
SHOWN = ("img_r1", "img_r5", "img_r10", "txt_r1", "txt_r5", "txt_r10", "r_mean")


class Folds:
    """Images in five folds, and the recipe with changes."""

    def __init__(self, words: list[str], folds: int, share: float) -> None:
        self.words = [
            str(RECIPE),
            "--do_eval",
            "false",
            "--eval_on_start",
            "false",
            "--report_to",
            "none",
            "--write_report",
            "false",
            *words,
        ]
        model_args, data_args, args = parse_arguments(CLASSES, self.words)
        self.rows = load_splits(data_args, args, task="retrieval")["train"]
        self.processor = load_processor(model_args, [], None, max_words=data_args.max_words)
        count = round(share * len(self.rows))
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(0))[:count].tolist()
        self.parts = [order[fold::folds] for fold in range(folds)]

    def train(self, setting: list[str], seed: int, fold: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return metrics of a fold before and after a training on the others."""
        words = [*self.words, "--seed", str(seed), *setting]
        model_args, data_args, args = parse_arguments(CLASSES, words)
        torch.manual_seed(seed)
        model, _ = load_model(AlbefForImageTextRetrieval, model_args, self.processor.tokenizer)
        size = model.config.vision_config.image_size
        self.processor.image_processor.size = {"height": size, "width": size}
        kept = sorted(row for number, part in enumerate(self.parts) if number != fold for row in part)
        store: Any = image_store(data_args, args, model, self.processor)
        held_out = Subset(self.rows, sorted(self.parts[fold]))
        trainer = RetrievalTrainer(
            model,
            args,
            train_dataset=store(CaptionRows(self.rows.select(kept))),
            eval_dataset=held_out,
            data_collator=RetrievalCollator(self.processor, data_args.max_words, with_names=True),
            processing_class=self.processor,
        )
        trainer.image_store = store
        trainer.start_new_parts()
        before = self.measure(trainer, held_out)
        args.init_projections = "none"
        trainer.train()
        return before, self.measure(trainer, held_out)

    def measure(self, trainer: RetrievalTrainer, rows: Any) -> dict[str, float]:
        """Return recalls by the stage in use and by similarity."""
        result = trainer.evaluate_dataset(rows)
        by_similarity = {name: result.details.get(_first_stage(name), 0.0) for name in SHOWN[:-1]}
        by_similarity["r_mean"] = statistics.fmean(by_similarity.values())
        best = max(result.details.get("rerank_weights", {"": 0.0}).values())
        return {**by_similarity, "best_stage": best}


def _first_stage(name: str) -> str:
    direction, _, depth = name.partition("_")
    return f"{direction}_first_stage_{depth}"


def main() -> None:
    """Run the settings one after the other, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--settings", nargs="*", default=[""], help='changes to the recipe, "name=value name=value" each'
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the images; fewer show whether a choice holds")
    parser.add_argument("--output", help="JSON file for the figures")
    options, words = parser.parse_known_args()
    logging.set_verbosity_error()
    folds = Folds(words, options.folds, options.share)
    figures: dict[str, dict[str, float]] = {}
    for setting in options.settings:
        changes = [word for pair in setting.split() for word in ("--" + pair.replace("=", " ", 1)).split(" ", 1)]
        start, runs = time.time(), []
        for seed in options.seeds:
            runs += [folds.train(changes, seed, fold) for fold in range(options.folds)]
        figures.setdefault("closed form", _means([before for before, _ in runs]))
        gains = [after["r_mean"] - before["r_mean"] for before, after in runs]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        means = _means([after for _, after in runs])
        figures[setting or "recipe"] = {**means, "gain": statistics.fmean(gains), "gain_error": error}
        for name in ("closed form", setting or "recipe"):
            words_of = " ".join(f"{key} {value:5.1f}" for key, value in figures[name].items())
            print(f"{words_of}  {name} ({time.time() - start:.0f} s)", flush=True)
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2))


def _means(metrics: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(one[name] for one in metrics) for name in metrics[0]}


if __name__ == "__main__":
    main()
