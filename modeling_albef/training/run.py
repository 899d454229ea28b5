"""The parts of a run that the tasks' scripts share: which model, which data, and train, evaluate, predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import IntervalStrategy

from ..configuration_albef import AlbefConfig
from .arguments import AlbefTrainingArguments
from .hub import PushError
from .launch import LaunchError, as_mapping, check_config_fields
from .lora import TARGETS, add_lora
from .momentum import TEACHER_FOLDER
from .trainer import AlbefTrainer

SPLITS = ("train", "validation", "test")


@dataclass
class ModelArguments:
    """Which model."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub name of a model."})
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of AlbefConfig, to start from scratch; JSON on the command line."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder with vocab.txt or Hub name; default: the model's, or made of the training texts."},
    )
    image_size: int | None = field(default=None, metadata={"help": "Side of the images; default: the model's."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager, flash_attention_2 .."})
    lora_rank: int = field(
        default=0, metadata={"help": "Train adapters of this rank instead of all weights; 0 = none."}
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "Adapters count alpha / rank; default: 2 * rank."})
    lora_targets: list[str] = field(
        default_factory=lambda: list(TARGETS), metadata={"help": "Ends of the names of the maps that get an adapter."}
    )

    def __post_init__(self) -> None:
        self.model_config = as_mapping(self.model_config, "model_config")
        if bool(self.model_config) == bool(self.model_name_or_path):
            raise ValueError("give either model_name_or_path, or model_config to start from scratch.")


def load_model(model_class: Any, model_args: ModelArguments, tokenizer: Any) -> tuple[Any, Any]:
    """Loads or makes the model, and loads its teacher where one was saved beside it; both get the asked adapters.

    Args:
        model_class: A model class with a head.
        model_args: Which model.
        tokenizer: Its tokenizer; a model from scratch takes its vocabulary from it.

    Returns:
        The model, and its teacher or None.
    """
    models = _load_models(model_class, model_args, tokenizer)
    if model_args.lora_rank:
        for model in filter(None, models):
            add_lora(model, model_args.lora_rank, model_args.lora_alpha, model_args.lora_targets)
    return models


def _load_models(model_class: Any, model_args: ModelArguments, tokenizer: Any) -> tuple[Any, Any]:
    """As `load_model`, without adapters."""
    name = model_args.model_name_or_path
    # whatever the file holds: in half precision the steps of fine-tuning would be lost to rounding
    options: dict[str, Any] = {"attn_implementation": model_args.attn_implementation, "dtype": torch.float32}
    if name is None:
        fields = as_mapping(model_args.model_config, "model_config")
        check_config_fields(fields, AlbefConfig, "model_config")
        if model_args.image_size is not None:
            fields["vision_config"] = {**(fields.get("vision_config") or {}), "image_size": model_args.image_size}
        config = AlbefConfig(**fields)
        config.text_config.vocab_size, config.text_config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        return model_class._from_config(config, **options), None
    model = model_class.from_pretrained(name, image_size=model_args.image_size, **options)
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise LaunchError(
            f"The tokenizer knows {len(tokenizer)} tokens, the model {model.config.text_config.vocab_size}: give the "
            "tokenizer that the model was trained with."
        )
    folder = Path(name) / TEACHER_FOLDER
    if not (folder / "config.json").is_file():
        return model, None
    return model, model_class.from_pretrained(folder, image_size=model_args.image_size, **options)


@dataclass
class DataArguments:
    """Which data; the tasks add where images are."""

    dataset: str | None = field(default=None, metadata={"help": "Name of a builder in dataset_scripts."})
    dataset_config: dict | str | None = field(default=None, metadata={"help": "Fields of the builder."})
    train_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for training."})
    validation_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for validation."})
    test_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for the test."})
    augmentation: bool = field(default=True, metadata={"help": "Augment training images as published."})
    max_words: int = field(default=30, metadata={"help": "Words of a training text that are read."})
    max_rows: int | None = field(default=None, metadata={"help": "Use only so many rows a split."})
    check_image_files: bool = field(default=True, metadata={"help": "Open all images before training."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Train into a folder that is not empty."})

    def __post_init__(self) -> None:
        self.dataset_config = as_mapping(self.dataset_config, "dataset_config")
        for name in ("train_files", "validation_files", "test_files"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if self.dataset is not None and (self.train_files or self.validation_files or self.test_files):
            raise ValueError("give either dataset, or train_files, validation_files and test_files.")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows is {self.max_rows}, but must be at least 1.")


def needed_splits(args: AlbefTrainingArguments) -> list[str]:
    """The splits that a run reads; without training there is nothing to evaluate in between."""
    if not args.do_train:
        args.eval_strategy = IntervalStrategy.NO
    wanted = {
        "train": args.do_train,
        "validation": args.do_eval or args.eval_strategy != IntervalStrategy.NO,
        "test": args.do_predict,
    }
    return [split for split in SPLITS if wanted[split]]


def load_splits(
    data_args: DataArguments,
    args: AlbefTrainingArguments,
    from_builder: Callable[..., Any],
    from_files: Callable[[str, list[str]], Any],
    check: Callable[..., None],
) -> dict[str, Any]:
    """Loads and checks the splits of a run.

    Args:
        data_args: Which data.
        args: What is done with it.
        from_builder: Makes a split of a builder: name, and `split` with the builder's fields by keyword.
        from_files: Makes a split of annotation files: split, files.
        check: Opens the images of a split; `decode` reads them wholly. Done by the first process.

    Returns:
        A data set for each split that the run needs.

    Raises:
        LaunchError: There is no data for a split.
    """
    splits = {}
    for split in needed_splits(args):
        if data_args.dataset is not None:
            fields = as_mapping(data_args.dataset_config, "dataset_config")
            dataset = from_builder(data_args.dataset, split=split, **fields)
        elif files := getattr(data_args, f"{split}_files"):
            dataset = from_files(split, files)
        else:
            without = "--eval_strategy no --do_eval false" if split == "validation" else f"--do_{split} false"
            if split == "test":
                without = "--do_predict false"
            raise LaunchError(f"There is no {split} data: give {split}_files, or leave the {split} out with {without}.")
        if data_args.max_rows is not None:
            dataset = dataset.select(range(min(data_args.max_rows, len(dataset))))
        if data_args.check_image_files and args.process_index == 0:
            check(dataset, decode=split != "train")  # a bad one there would cost a finished epoch
        splits[split] = dataset
    return splits


def describe(trainer: AlbefTrainer, model_args: ModelArguments, data_args: DataArguments) -> None:
    """Tells the trainer what its model card is to say of model and data; names only, no places on this machine."""
    files = [file for split in SPLITS for file in getattr(data_args, f"{split}_files") or ()]
    names = [data_args.dataset] if data_args.dataset is not None else [Path(file).stem for file in files]
    trainer.dataset_names = tuple(dict.fromkeys(names))
    name = model_args.model_name_or_path
    trainer.base_model = None if name is None or Path(name).exists() else name


def train_and_evaluate(
    trainer: AlbefTrainer,
    checkpoint: str | None,
    test_dataset: Any,
    write: Callable[[Any, dict[str, float], Path], dict[str, Path]],
) -> None:
    """Trains, evaluates, predicts and pushes as the arguments say, and prints where everything is.

    Args:
        trainer: The trainer, with its data.
        checkpoint: Where training goes on from, or None.
        test_dataset: Data of the predictions.
        write: Gets the outcome of the test, its metrics and the output folder; may add metrics; the first process then
            has the files that it returns, by what they hold.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    written: dict[str, Any] = {}
    if args.do_train:
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.save_state()
        trainer.save_metrics("train", outcome.metrics)
        written["model"] = folder
    if args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if args.do_predict:
        tested = trainer.predict(test_dataset)
        if trainer.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            written.update(write(tested.predictions, tested.metrics, folder))
        trainer.log_metrics("test", tested.metrics)
        trainer.save_metrics("test", tested.metrics)
    if args.do_eval or args.do_predict:
        written["metrics"] = folder / "all_results.json"
    if args.push_to_hub:
        try:
            pushed = trainer.push_to_hub()
        except PushError as error:
            raise LaunchError(str(error)) from error
        if pushed is not None:
            written["on the Hub"] = pushed.repo_url
    if trainer.is_world_process_zero():
        for name, place in written.items():
            print(f"{name}: {place}")
