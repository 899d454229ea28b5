"""The data of a run: its checked splits, and the rows that it trains on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from datasets import Dataset, Image, IterableDataset
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from dataset_scripts import (
    CaptionRows,
    DataError,
    MissingSplitError,
    MixedRows,
    concatenate_sources,
    good_images,
    interleave_streams,
    load_dataset_script,
    process_share,
    stream_captions,
    stream_shards,
)
from dataset_scripts.mixtures import source_lengths
from processing import AugmentedDataset, AugmentedStream, TrainingAugmentation, WholeImageAugmentation
from processing.augmented_rows import IMAGE_COLUMNS
from processing.image_states import StoredImageRows, StoreOptions, states_folder, store_image_states

from ..arguments import AlbefTrainingArguments
from ..checkpoints.processes import gathered
from ..rows import as_rows, features_of, image_keys
from .errors import StartError, fail_on_all_ranks
from .settings import SPLITS, DataArguments

logger = logging.get_logger(__name__)
MAX_HELD_OUT = 1000  # images of `validation_share`
OPTIONAL_COLUMNS = ("question_type", "answer_type")


def load_splits(data_args: DataArguments, args: AlbefTrainingArguments, task: str) -> dict[str, Any]:
    """Load and check the splits that a run needs; the first process prepares them for all, and all check images.

    Args:
        data_args: Which data.
        args: What is done with it.
        task: Configuration of the builders: "retrieval" (a row an image with all its captions), "vqa" (a row a
            question), "classification" (a row a text with its label) or "grounding" (a row a text that refers to a
            part of an image).

    Returns:
        A data set for each split, with undecoded images; an `IterableDataset` where the split is streamed. Of a
        mixture the training split has the rows of all sources, see `concatenate_sources`, or is a stream that is mixed
        already; an evaluation split is a dictionary of the sources that have it.
    """
    wanted = {
        "train": args.do_train,
        "validation": args.do_eval or args.eval_strategy != IntervalStrategy.NO,
        "test": args.do_predict,
    }
    with fail_on_all_ranks(args):
        load = _load_mixture if data_args.sources else _load_split
        splits = dict[str, Any]()
        for split in filter(wanted.get, SPLITS):
            try:
                splits[split] = load(split, data_args, args, task)
            except MissingSplitError:
                if split != "validation" or data_args.validation_share is None:
                    raise
                rows = splits.get("train") or load("train", data_args, args, task)
                kept, splits["validation"] = hold_out(rows, data_args.validation_share)
                splits |= {"train": kept} if "train" in splits else {}
    return splits


def hold_out(rows: Any, share: float) -> tuple[Any, Any]:
    """Return the rows to train on, and those of a share of the images, at least one and at most 1,000.

    The same rows are held out in every run, whatever its seed.
    """
    keys = list(map(str, image_keys(as_rows(rows), warn=False)))
    images = sorted(set(keys))
    if len(images) < 2:
        raise StartError(f"validation_share is {share:g}, but there is {len(images)} training image: give more.")
    count = min(max(1, round(share * len(images))), MAX_HELD_OUT, len(images) - 1)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count].tolist()
    held_out = {images[index] for index in chosen}
    logger.warning(f"There is no validation data: {count} of {len(images)} training images are held out.")
    inside = [row for row, key in enumerate(keys) if key in held_out]
    return rows.select([row for row, key in enumerate(keys) if key not in held_out]), rows.select(inside)


def _load_mixture(split: str, data_args: DataArguments, args: AlbefTrainingArguments, task: str) -> Any:
    loaded, missing = dict[str, Any](), dict[str, str]()
    for source in data_args.sources:
        words = f"The {split} data of the source {source.name!r} cannot be used."
        try:
            loaded[source.name] = _load_split(split, source.data, args, task)
        except MissingSplitError as error:
            missing[source.name] = f"{words} {error}"
        except (DataError, StartError) as error:
            raise StartError(f"{words} {error}") from error
    if missing and (split == "train" or not loaded):
        raise StartError(next(iter(missing.values())))
    if missing and args.process_index == 0:
        logger.warning(f"No {split} data: {', '.join(missing)}. The metrics are those of {', '.join(loaded)}.")
    if split != "train":
        return loaded
    if data_args.streaming:
        weights = [source.weight for source in data_args.sources]
        return interleave_streams(loaded, weights, args.seed, data_args.stopping_strategy)
    return without_unknown_types(concatenate_sources(loaded))


def _load_split(split: str, data_args: DataArguments, args: AlbefTrainingArguments, task: str) -> Any:
    fields: dict[str, Any] = {"config_name": task, "split": split, **data_args.builder_fields()}
    is_stream = data_args.streaming and split == "train"
    if is_stream and (shards := getattr(data_args, "shards", None)):
        rows = stream_shards(shards, **_shard_columns(data_args))
        return rows if data_args.max_rows is None else rows.take(data_args.max_rows)
    if is_stream:
        parts = args.world_size * max(1, args.dataloader_num_workers)  # a part for every process's every worker
        fields |= {"streaming": True, "num_proc": parts}
    if data_args.dataset is None:
        files = getattr(data_args, f"{split}_files")
        if not files:
            without = "--eval_strategy no --do_eval false" if split == "validation" else f"--do_{split} false"
            without = "--do_predict false" if split == "test" else without
            raise MissingSplitError(
                f"There is no {split} data: give {split}_files, or leave the {split} out with {without}."
            )
        fields[f"{split}_files"] = files
    # all fail or none, since they check the images together
    with fail_on_all_ranks(args), args.main_process_first(desc="preparing the data"):
        dataset = load_dataset_script(**{"name": data_args.dataset or "own_data", **fields})
    if isinstance(dataset, IterableDataset):
        dataset = dataset if data_args.max_rows is None else dataset.take(data_args.max_rows)
        return undecoded(dataset)
    if data_args.max_rows is not None:
        dataset = dataset.select(range(min(data_args.max_rows, len(dataset))))
    if data_args.check_image_files:
        # an evaluation image that cannot be decoded would stop the run after an epoch, a stored one before that
        decode = split != "train" or data_args.store_image_states or data_args.validation_share is not None
        together: Any = {"share": (args.process_index, args.world_size), "gather": partial(gathered, args=args)}
        pixels, drop = data_args.max_image_pixels, data_args.drop_bad_rows
        dataset = good_images(dataset, decode, max_pixels=pixels, drop=drop, **together)
    return without_unknown_types(undecoded(dataset))


def _shard_columns(data_args: DataArguments) -> dict[str, Any]:
    """Return the columns of shards that `dataset_config` names."""
    fields: Any = data_args.dataset_config
    return {name: fields[name] for name in ("image_column", "caption_column") if name in fields}


def image_columns(splits: dict[str, Any]) -> tuple[str, ...]:
    """Return the columns of the images of a row: `image`, and `image_2` where there is one."""
    features = features_of(splits)
    return tuple(name for name in IMAGE_COLUMNS if name == "image" or name in features)


def undecoded(dataset: Any) -> Any:
    """Return a data set or a stream whose images are read by whoever uses them."""
    for name in IMAGE_COLUMNS:
        if name in dataset.features:
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset


def without_unknown_types(dataset: Dataset) -> Dataset:
    """Remove the columns `question_type` and `answer_type` where not all rows have a value."""
    columns = [name for name in OPTIONAL_COLUMNS if name in dataset.column_names]
    return dataset.remove_columns([name for name in columns if dataset.data.column(name).null_count])


def training_rows(rows: Any, data_args: DataArguments, args: AlbefTrainingArguments, model: Any, processor: Any) -> Any:
    """Return the rows that a trainer trains on: a caption or a question each, its image opened and augmented.

    Args:
        rows: The training split, or None.
        data_args: Augmentation, streaming, stored image states, and what happens to images that cannot be read.
        args: Seed and processes.
        model: The model, whose images have its size; its vision tower encodes those whose states are stored.
        processor: Its processor.
    """
    if rows is None:
        return None
    augmentation: TrainingAugmentation | None = None
    if data_args.augmentation and "box" in rows.features:  # a crop could lose what the text refers to
        number, magnitude = data_args.augmentation_num_ops, data_args.augmentation_magnitude
        augmentation = WholeImageAugmentation(model.config.image_size, number, magnitude)
    elif data_args.augmentation:
        least, most = data_args.augmentation_scale
        number, magnitude = data_args.augmentation_num_ops, data_args.augmentation_magnitude
        augmentation = TrainingAugmentation(
            model.config.image_size, (least, most), data_args.scaled_decoding, num_ops=number, magnitude=magnitude
        )
    has_captions = "caption" in rows.features
    if isinstance(rows, IterableDataset):
        shards = getattr(data_args, "shards", None)  # whose bad samples are left out, and counted
        is_spread = not has_captions or data_args.sources or shards
        stream = process_share(rows if is_spread else stream_captions(rows), args, data_args.shuffle_buffer)
        bad_images = "replace" if shards else data_args.bad_images
        share = getattr(data_args, "max_bad_share", 1.0) if shards else 1.0
        return AugmentedStream(stream, augmentation, args.seed, args.process_index, bad_images, share)
    spread: Any = CaptionRows(rows) if has_captions else rows
    if (store := image_store(data_args, args, model, processor, augmentation)) is not None:
        spread = store(spread)
    if data_args.sources:
        counts = source_lengths(rows)
        lengths = [counts.get(source.name, 0) for source in data_args.sources]
        weights = [source.weight for source in data_args.sources]
        spread = MixedRows(spread, lengths, weights, args.seed, data_args.stopping_strategy)
    if data_args.store_image_states:
        return spread
    return AugmentedDataset(spread, augmentation, args.seed, data_args.bad_images)


def image_store(
    data_args: DataArguments, args: AlbefTrainingArguments, model: Any, processor: Any, augmentation: Any = None
) -> Callable[[Any], StoredImageRows] | None:
    """Return what gives rows the states of their images, which the processes encode together once.

    Args:
        data_args: Where and how states are stored; None is returned where they are not.
        args: Seed and processes; what is frozen.
        model: Its vision tower encodes the images.
        processor: The model's.
        augmentation: Of training images; None leaves images as they are.
    """
    if not data_args.store_image_states:
        return None
    if args.do_train and "vision_model" not in (args.freeze or ()):
        raise StartError("store_image_states is true, but the vision tower is trained: add `--freeze vision_model`.")
    images = processor.image_processor
    settings = {"images": images.to_dict(), "dtype": data_args.image_state_dtype}
    if augmentation is not None:
        settings |= {"seed": args.seed, "scale": data_args.augmentation_scale}
        settings |= {"ops": data_args.augmentation_num_ops, "magnitude": data_args.augmentation_magnitude}
    options = StoreOptions(
        augmentation=augmentation,
        variants=1 if augmentation is None else data_args.image_state_variants,
        seed=args.seed,
        dtype=data_args.image_state_dtype,
        max_gb=data_args.image_state_gb,
        num_workers=args.dataloader_num_workers,
        share=(args.process_index, args.world_size),
    )
    return partial(
        _stored_rows,
        tower=model.base_model.vision_model,
        images=images,
        data_args=data_args,
        args=args,
        settings=settings,
        options=options,
    )


def _stored_rows(rows: Any, *, tower: Any, images: Any, data_args: Any, args: Any, settings: Any, options: Any) -> Any:
    """Return rows with the states of their images."""
    if IMAGE_COLUMNS[1] in (getattr(rows, "column_names", None) or ()):
        raise StartError("store_image_states is true, but a row has two images: leave it out.")
    was_training = tower.training
    tower.to(args.device).eval()

    def encode(pixel_values: torch.Tensor) -> torch.Tensor:
        return tower(pixel_values.to(args.device)).last_hidden_state

    with fail_on_all_ranks(args):
        folder = states_folder(data_args.image_state_dir, tower, **settings)
        stored = store_image_states(rows, encode, images, folder, options)
    stored.states.find_files()  # those of the other processes, too
    tower.train(was_training)
    return stored
