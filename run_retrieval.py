"""Fine-tune, evaluate, and apply an ALBEF for image-text retrieval.

    accelerate launch run_retrieval.py configs/retrieval_coco.yaml --model_name_or_path MODEL --output_dir out

Every field of the YAML file can be given on the command line too, which wins. On two CPU processes:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        run_retrieval.py configs/demo_retrieval.yaml --use_cpu
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Image
from transformers import set_seed
from transformers.utils import logging

from dataset_scripts import CaptionRows, good_images, load_dataset_script, process_share, stream_captions
from dataset_scripts.commands.thumbnails import thumbnail
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.hub_albef import check_model_name
from modeling_albef.training import RetrievalResult, RetrievalTrainer, RetrievalTrainingArguments
from modeling_albef.training.application import run as steps
from modeling_albef.training.application.launch import (
    LaunchError,
    check_processes,
    end_in_a_sentence,
    parse_arguments,
    prepare_output,
    refuse_together,
)
from processing import (
    AlbefImageProcessor,
    AlbefProcessor,
    AugmentedDataset,
    AugmentedStream,
    RetrievalCollator,
    TrainingAugmentation,
    UnreadableImageError,
    build_tokenizer,
    load_tokenizer,
)

logger = logging.get_logger(__name__)


@dataclass
class DataArguments(steps.DataArguments):
    """Which data."""

    image_root: str | None = field(
        default=None, metadata={"help": "Folder that image paths start from; default: data_dir, or this folder."}
    )


def load_data(data_args: DataArguments, args: RetrievalTrainingArguments) -> dict[str, Dataset]:
    """The splits that this run needs, checked; a row an image with all its captions."""
    roots: dict[str, Any] = {} if data_args.image_root is None else {"image_root": data_args.image_root}
    load: Any = partial(load_dataset_script, config_name="retrieval", **roots)

    def from_files(name: str, files: list[str], **fields: Any) -> Any:
        return load("own_data", **{name: files}, **fields)

    splits = steps.load_splits(
        data_args,
        args,
        from_builder=load,
        from_files=from_files,
        check=partial(good_images, max_pixels=data_args.max_image_pixels, drop=data_args.drop_bad_rows),
    )
    return {split: dataset.cast_column("image", Image(decode=False)) for split, dataset in splits.items()}


def load_processor(model_args: steps.ModelArguments, splits: dict[str, Dataset]) -> AlbefProcessor:
    """The model's processor or, for a model from scratch, one made of a tokenizer or of the training captions."""
    if model_args.model_name_or_path is not None and model_args.tokenizer is None:
        return AlbefProcessor.from_pretrained(model_args.model_name_or_path)
    if model_args.tokenizer is not None:
        return AlbefProcessor(AlbefImageProcessor(), load_tokenizer(model_args.tokenizer))
    if not isinstance(splits.get("train"), Dataset):
        raise LaunchError("A model from scratch needs a --tokenizer, or training data, not streamed, to make it of.")
    rows = steps.progress(splits["train"]["caption"], "Counting words")
    captions = (caption for row in rows for caption in row)
    return AlbefProcessor(AlbefImageProcessor(), build_tokenizer(captions))


def write_predictions(
    dataset: Dataset, result: RetrievalResult, metrics: dict[str, float], folder: Path
) -> dict[str, Path]:
    """Writes the ten best candidates of every query; images that are not files go by their number."""
    names = [row["path"] or str(number) for number, row in enumerate(dataset["image"])]
    path = folder / "predictions.json"
    path.write_text(json.dumps(result.top_predictions(names), indent=1), encoding="utf-8")
    return {"predictions": path}


def main(argv: list[str] | None = None) -> None:
    """Runs what the arguments ask for."""
    classes = (steps.ModelArguments, DataArguments, RetrievalTrainingArguments)
    model_args, data_args, args = parse_arguments(classes, argv)
    check_processes(args)
    checkpoint = prepare_output(args, data_args.overwrite_output_dir)
    set_seed(args.seed)
    with refuse_together(args):
        check_model_name(model_args.model_name_or_path)
        with args.main_process_first(desc="preparing the data"):
            splits = load_data(data_args, args)
        processor = load_processor(model_args, splits)
        processor.max_words = data_args.max_words
        model, teacher = steps.load_model(AlbefForImageTextRetrieval, model_args, processor.tokenizer)
        if not args.do_train:
            model.check_head()
        side = model.config.vision_config.image_size
        processor.image_processor.size = {"height": side, "width": side}
        train_dataset: AugmentedDataset | AugmentedStream | None = None
        if "train" in splits:
            augmentation, bad_images = None, data_args.bad_images
            if data_args.augmentation:
                augmentation = TrainingAugmentation(side, scaled_decoding=data_args.scaled_decoding)
            if data_args.streaming:
                stream = process_share(stream_captions(splits["train"]), args, data_args.shuffle_buffer)
                train_dataset = AugmentedStream(stream, augmentation, args.seed, args.process_index, bad_images)
            else:
                train_dataset = AugmentedDataset(CaptionRows(splits["train"]), augmentation, args.seed, bad_images)
        longest = model.config.text_config.max_position_embeddings
        trainer = RetrievalTrainer(
            model,
            args,
            teacher=teacher,
            train_dataset=train_dataset,
            eval_dataset=splits.get("validation"),
            data_collator=RetrievalCollator(processor, data_args.max_words, max_length=longest, with_names=True),
            processing_class=processor,
        )
        captions = len(train_dataset) if isinstance(train_dataset, AugmentedDataset) else None
        if captions is not None and args.queue_size > captions:
            logger.warning(
                f"queue_size is {args.queue_size}, but there are {captions} training captions: lower it, or the queue "
                "holds them several times."
            )
        steps.describe(trainer, model_args, data_args)
    test = splits.get("test")
    steps.fill_queue(trainer.queue, model_args)
    with end_in_a_sentence(UnreadableImageError):
        steps.train_and_evaluate(trainer, checkpoint, test, partial(write_predictions, test), thumbnail)


if __name__ == "__main__":
    main()
