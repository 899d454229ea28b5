"""Fine-tune, evaluate, and apply an ALBEF for image-text retrieval.

    accelerate launch run_retrieval.py configs/retrieval_coco.yaml --model_name_or_path MODEL --output_dir out

Every field of the YAML file can be given on the command line too, which wins. On two CPU processes:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        run_retrieval.py configs/demo_retrieval.yaml --use_cpu
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from datasets import Dataset, Image
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from dataset_scripts import (
    check_images,
    load_dataset_script,
    load_retrieval_files,
    one_caption_a_row,
)
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalResult, RetrievalTrainer, RetrievalTrainingArguments
from modeling_albef.training.launch import (
    LaunchError,
    ModelArguments,
    as_mapping,
    check_processes,
    load_model,
    parse_arguments,
    prepare_output,
    refuse_together,
)
from processing import (
    AlbefImageProcessor,
    AlbefProcessor,
    AugmentedDataset,
    RetrievalCollator,
    TrainingAugmentation,
    build_tokenizer,
    load_tokenizer,
)


@dataclass
class DataArguments:
    """Which data."""

    dataset: str | None = field(default=None, metadata={"help": "Name of a builder in dataset_scripts: shapes."})
    dataset_config: dict | str | None = field(default=None, metadata={"help": "Fields of the builder."})
    train_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for training."})
    validation_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for validation."})
    test_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for the test."})
    image_root: str = field(default=".", metadata={"help": "Folder that the files' image paths start from."})
    augmentation: bool = field(default=True, metadata={"help": "Augment training images as published."})
    max_words: int = field(default=30, metadata={"help": "Words of a caption that are read."})
    max_images: int | None = field(default=None, metadata={"help": "Use only so many images a split."})
    check_image_files: bool = field(default=True, metadata={"help": "Open all images before training."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Train into a folder that is not empty."})

    def __post_init__(self) -> None:
        self.dataset_config = as_mapping(self.dataset_config, "dataset_config")
        for name in ("train_files", "validation_files", "test_files"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if self.dataset is not None and (self.train_files or self.validation_files or self.test_files):
            raise ValueError("give either dataset, or train_files, validation_files and test_files.")


def load_data(data_args: DataArguments, args: RetrievalTrainingArguments) -> dict[str, Dataset]:
    """The splits that this run needs, checked; a row an image with all its captions."""
    needed = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    needed["validation"] |= args.do_train and args.eval_strategy != "no"
    splits = {}
    for split in [name for name, wanted in needed.items() if wanted]:
        if data_args.dataset is not None:
            dataset = load_dataset_script(
                data_args.dataset, "retrieval", split=split, **as_mapping(data_args.dataset_config, "dataset_config")
            )
        elif files := getattr(data_args, f"{split}_files"):
            dataset = load_retrieval_files(files, data_args.image_root)
        else:
            raise LaunchError(
                f"There is no {split} data: give {split}_files, or leave the {split} out with "
                f"{'--eval_strategy no --do_eval false' if split == 'validation' else f'--do_{split} false'}."
            )
        dataset = dataset.cast_column("image", Image(decode=False))
        if data_args.max_images is not None:
            dataset = dataset.select(range(min(data_args.max_images, len(dataset))))
        if data_args.check_image_files and args.process_index == 0:
            check_images(dataset, decode=split != "train")  # a bad one there would cost a finished epoch
        splits[split] = dataset
    return splits


def load_processor(model_args: ModelArguments, splits: dict[str, Dataset]) -> AlbefProcessor:
    """The model's processor or, for a model from scratch, one made of a tokenizer or of the training captions."""
    if model_args.model_name_or_path is not None and model_args.tokenizer is None:
        return AlbefProcessor.from_pretrained(model_args.model_name_or_path)
    if model_args.tokenizer is not None:
        return AlbefProcessor(AlbefImageProcessor(), load_tokenizer(model_args.tokenizer))
    if "train" not in splits:
        raise LaunchError("A model from scratch needs a --tokenizer, or training data to make it of.")
    captions = (caption for row in splits["train"]["caption"] for caption in row)
    return AlbefProcessor(AlbefImageProcessor(), build_tokenizer(captions))


def image_names(dataset: Dataset) -> list[str]:
    """Path of each image; where the images are not files, their number."""
    return [row["path"] or str(number) for number, row in enumerate(dataset["image"])]


def main(argv: list[str] | None = None) -> None:
    """Runs what the arguments ask for."""
    classes = (ModelArguments, DataArguments, RetrievalTrainingArguments)
    model_args, data_args, args = parse_arguments(classes, argv)
    if not args.do_train:
        args.eval_strategy = IntervalStrategy.NO  # there is nothing to evaluate in between
    check_processes(args)
    checkpoint = prepare_output(args, data_args.overwrite_output_dir)
    set_seed(args.seed)
    with refuse_together(args):
        with args.main_process_first(desc="preparing the data"):
            splits = load_data(data_args, args)
        processor = load_processor(model_args, splits)
        processor.max_words = data_args.max_words
        model, teacher = load_model(AlbefForImageTextRetrieval, model_args, processor.tokenizer)
        side = model.config.vision_config.image_size
        processor.image_processor.size = {"height": side, "width": side}
        train_dataset = None
        if "train" in splits:
            augmentation = TrainingAugmentation(side) if data_args.augmentation else None
            train_dataset = AugmentedDataset(one_caption_a_row(splits["train"]), augmentation, seed=args.seed)
        trainer = RetrievalTrainer(
            model,
            args,
            teacher=teacher,
            train_dataset=train_dataset,
            eval_dataset=splits.get("validation"),
            data_collator=RetrievalCollator(
                processor, data_args.max_words, max_length=model.config.text_config.max_position_embeddings
            ),
            processing_class=processor,
        )
    written = {}
    if args.do_train:
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.save_state()
        trainer.save_metrics("train", outcome.metrics)
        written["model"] = args.output_dir
    if args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if args.do_predict:
        tested = trainer.predict(splits["test"])
        trainer.log_metrics("test", tested.metrics)
        trainer.save_metrics("test", tested.metrics)
        if trainer.is_world_process_zero():
            path = Path(args.output_dir) / "predictions.json"
            predictions = cast(RetrievalResult, tested.predictions).top_predictions(image_names(splits["test"]))
            path.write_text(json.dumps(predictions, indent=1), encoding="utf-8")
            written["predictions"] = str(path)
    if args.do_eval or args.do_predict:
        written["metrics"] = str(Path(args.output_dir) / "all_results.json")
    if trainer.is_world_process_zero():
        for name, place in written.items():
            print(f"{name}: {place}")


if __name__ == "__main__":
    main()
