"""The parts of a run that the tasks' scripts share: which model, which data, and train, evaluate, predict."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from accelerate import PartialState
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import cached_file, logging

from ...configuration_albef import AlbefConfig
from ..arguments import AlbefTrainingArguments
from ..checkpoints.push import PushError
from ..evaluation.base import Assessment
from ..lora import TARGETS, add_lora
from ..momentum import QUEUE_FILE, TEACHER_FOLDER, FeatureQueue
from ..queue_file import read_queue
from ..report.image_log import PictureLogCallback
from ..report.pages import Thumbnail
from ..report.run_report import RunReport
from ..trainer import AlbefTrainer
from .launch import LaunchError, as_mapping, check_config_fields

logger = logging.get_logger(__name__)
SPLITS = ("train", "validation", "test")


@dataclass
class ModelArguments:
    """Which model."""

    DISPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "model_name_or_path": ("model_config",),
        "model_config": ("model_name_or_path",),
    }

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
        for name, lowest in (("image_size", 1), ("lora_rank", 0)):
            if (value := getattr(self, name)) is not None and value < lowest:
                raise ValueError(f"{name} is {value}, but must be at least {lowest}.")


def load_model(model_class: Any, model_args: ModelArguments, tokenizer: Any) -> tuple[Any, Any]:
    """Loads or makes the model, and loads its teacher where one was saved beside it; both get the asked adapters.

    Args:
        model_class: A model class with a head.
        model_args: Which model.
        tokenizer: Its tokenizer; a model from scratch takes its vocabulary from it.

    Returns:
        The model, and its teacher or None.
    """
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # the library's own, of weights that are read and written
    try:
        models = _load_models(model_class, model_args, tokenizer)
    except (SafetensorError, StrictDataclassError, LookupError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())  # damaged weights or other shapes; damaged configuration
        raise LaunchError(f"The model in {model_args.model_name_or_path} cannot be used: {reason:.500}") from error
    if model_args.lora_rank:
        if model_args.model_name_or_path is None:
            logger.warning("lora_rank adapts a model from scratch, whose random weights stay: give model_name_or_path.")
        try:
            for model in filter(None, models):
                add_lora(model, model_args.lora_rank, model_args.lora_alpha, model_args.lora_targets)
        except RuntimeError as error:  # more memory than there is
            raise LaunchError(f"lora_rank {model_args.lora_rank} cannot be used ({error}): lower it.") from error
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
        try:
            config = AlbefConfig(**fields)
        except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
            raise LaunchError(f"model_config is refused: {' '.join(str(error).split())}") from error
        for part in filter(None, (config.text_config, config.decoder_config)):
            part.vocab_size, part.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        try:
            return model_class._from_config(config, **options), None
        except (RuntimeError, ValueError, AttributeError) as error:  # too large, or a decoder without layers
            raise LaunchError(f"No model can be made of model_config ({error}): change its sizes.") from error
    model = model_class.from_pretrained(name, image_size=model_args.image_size, **options)
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise LaunchError(
            f"The tokenizer knows {len(tokenizer)} tokens, the model {model.config.text_config.vocab_size}: give the "
            "tokenizer that the model was trained with."
        )
    if find_beside(name, "config.json") is None:
        return model, None
    options |= {"subfolder": TEACHER_FOLDER, "output_loading_info": True}
    teacher, info = model_class.from_pretrained(name, image_size=model_args.image_size, **options)
    if missing := info["missing_keys"]:  # the task's head is new: the student's, not another random one
        start = model.state_dict()
        known = {key: value for key, value in teacher.state_dict().items() if key not in missing}
        teacher.load_state_dict({**start, **known})
        if any(key.startswith("text_decoder.layer.") for key in missing):
            teacher.initialize_decoder()
    return model, teacher


def find_beside(name: str, file_name: str) -> Path | None:
    """A file in the teacher's folder beside a model; None where there is none.

    Args:
        name: Folder or Hub name of the model.
        file_name: Of the file.

    Returns:
        Its path on this machine.
    """
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(name, file_name, subfolder=TEACHER_FOLDER, **optional)
    return None if path is None else Path(path)


def fill_queue(queue: FeatureQueue, model_args: ModelArguments) -> None:
    """Starts the queue of a run from the one that was saved beside the model, where there is one.

    Args:
        queue: Changed in place.
        model_args: Which model.
    """
    name = model_args.model_name_or_path
    path = None if name is None else find_beside(name, QUEUE_FILE)
    if path is not None:
        queue.start_from(read_queue(path, width=queue.image_embeds.shape[1]))


@dataclass
class DataArguments:
    """Which data; the tasks add where images are."""

    DISPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "dataset": ("dataset_config", "data_dir", "train_files", "validation_files", "test_files"),
        **dict.fromkeys(("train_files", "validation_files", "test_files"), ("dataset", "dataset_config", "data_dir")),
    }

    dataset: str | None = field(default=None, metadata={"help": "Name of a builder in dataset_scripts."})
    dataset_config: dict | str | None = field(default=None, metadata={"help": "Fields of the builder."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the builder's annotations and images."})
    train_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for training."})
    validation_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for validation."})
    test_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for the test."})
    augmentation: bool = field(default=True, metadata={"help": "Augment training images as published."})
    scaled_decoding: bool = field(
        default=True, metadata={"help": "Decode training photos that are far larger than needed to a smaller size."}
    )
    max_words: int = field(default=30, metadata={"help": "Words of a training text that are read."})
    max_rows: int | None = field(default=None, metadata={"help": "Use only so many rows a split."})
    check_image_files: bool = field(default=True, metadata={"help": "Open all images before training."})
    max_image_pixels: int = field(default=178_956_970, metadata={"help": "Refuse larger images; Pillow's own limit."})
    bad_images: str = field(
        default="stop",
        metadata={"help": "An image that training cannot read: stop, or replace its row by the next."},
    )
    drop_bad_rows: bool = field(default=False, metadata={"help": "Leave unusable rows out, and say how many."})
    num_proc: int | None = field(default=None, metadata={"help": "Processes that prepare the data."})
    streaming: bool = field(default=False, metadata={"help": "Train on rows while they are read; needs max_steps."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows of a stream that are shuffled together."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Train into a folder that is not empty."})

    def __post_init__(self) -> None:
        self.dataset_config = as_mapping(self.dataset_config, "dataset_config")
        for name in ("train_files", "validation_files", "test_files"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if self.dataset is not None and (self.train_files or self.validation_files or self.test_files):
            raise ValueError("give either dataset, or train_files, validation_files and test_files.")
        if self.data_dir is not None and self.dataset is None:
            raise ValueError("data_dir belongs to a dataset, such as own_data: give its name, too.")
        if self.bad_images not in ("stop", "replace"):
            raise ValueError(f"bad_images is {self.bad_images!r}, but must be stop or replace.")
        for name in ("max_words", "max_rows", "num_proc", "shuffle_buffer", "max_image_pixels"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1.")

    def builder_fields(self) -> dict[str, Any]:
        """What a builder is told beside its split; only what was set, since not all builders have all fields."""
        fields = {"data_dir": self.data_dir, "num_proc": self.num_proc, "drop_bad_rows": self.drop_bad_rows or None}
        given = {name: value for name, value in fields.items() if value is not None}
        return given | as_mapping(self.dataset_config, "dataset_config")


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
    check: Callable[..., Any],
) -> dict[str, Any]:
    """Loads and checks the splits of a run.

    Args:
        data_args: Which data.
        args: What is done with it.
        from_builder: Makes a split of a builder: name, and `split` with the builder's fields by keyword.
        from_files: Makes a split of annotation files: name of the argument, files, and `split` and fields by keyword.
        check: Opens the images of a split and gives the rows to keep; `decode` reads them wholly. Done by the first
            process, and by all if rows may be dropped.

    Returns:
        A data set for each split that the run needs.

    Raises:
        LaunchError: There is no data for a split, or it cannot be streamed.
    """
    splits = {}
    for split in needed_splits(args):
        fields = data_args.builder_fields() | {"split": split}
        is_stream = data_args.streaming and split == "train"
        if is_stream:
            prepare_for_stream(args)
            parts = args.world_size * max(1, args.dataloader_num_workers)  # a part for every process's every worker
            fields |= {"streaming": True, "num_proc": parts}
        if data_args.dataset is not None:
            dataset = from_builder(data_args.dataset, **fields)
        elif files := getattr(data_args, f"{split}_files"):
            dataset = from_files(f"{split}_files", files, **fields)
        else:
            without = "--eval_strategy no --do_eval false" if split == "validation" else f"--do_{split} false"
            if split == "test":
                without = "--do_predict false"
            raise LaunchError(f"There is no {split} data: give {split}_files, or leave the {split} out with {without}.")
        if is_stream:
            splits[split] = dataset if data_args.max_rows is None else dataset.take(data_args.max_rows)
            continue
        if data_args.max_rows is not None:
            dataset = dataset.select(range(min(data_args.max_rows, len(dataset))))
        if data_args.check_image_files and (args.process_index == 0 or data_args.drop_bad_rows):
            kept = check(dataset, decode=split != "train")  # a bad one there would cost a finished epoch
            dataset = kept if data_args.drop_bad_rows else dataset
        splits[split] = dataset
    return splits


def prepare_for_stream(args: AlbefTrainingArguments) -> None:
    """Sets what training on a stream needs; each process reads a share of its own.

    Raises:
        LaunchError: `max_steps` is missing.
    """
    if args.max_steps < 1:
        raise LaunchError("A stream has no length: give max_steps, which are spread over num_train_epochs.")
    cast(
        AcceleratorConfig, args.accelerator_config
    ).dispatch_batches = False  # else one process opens the images of all


def describe(trainer: AlbefTrainer, model_args: ModelArguments, data_args: DataArguments) -> None:
    """Tells the trainer what its model card is to say of model and data; names only, no places on this machine."""
    files = [file for split in SPLITS for file in getattr(data_args, f"{split}_files") or ()]
    names = [data_args.dataset] if data_args.dataset is not None else [Path(file).stem for file in files]
    trainer.dataset_names = tuple(dict.fromkeys(names))
    name = model_args.model_name_or_path
    trainer.base_model = None if name is None or Path(name).exists() else name


def progress(items: Any, description: str) -> Any:
    """The same items; with a bar on the first process, where there is a terminal."""
    return tqdm(items, description, leave=False, disable=None if PartialState().is_main_process else True)


def train_and_evaluate(
    trainer: AlbefTrainer,
    checkpoint: str | None,
    test_dataset: Any,
    write: Callable[[Any, dict[str, float], Path], dict[str, Path]],
    thumbnail: Thumbnail | None = None,
) -> None:
    """Trains, evaluates, predicts, reports and pushes as the arguments say, and prints where everything is.

    Args:
        trainer: The trainer, with its data.
        checkpoint: Where training goes on from, or None.
        test_dataset: Data of the predictions.
        write: Gets the outcome of the test, its metrics and the output folder; may add metrics; the first process then
            has the files that it returns, by what they hold.
        thumbnail: Makes small pictures for the report and the log: image of a row, and pixels of the longer side -> a
            PNG or JPEG file. Without it they show none.

    Raises:
        LaunchError: The push failed.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    written: dict[str, Any] = {}
    if not (args.do_train or args.do_eval or args.do_predict or args.push_to_hub):
        logger.warning("There was nothing to do: give --do_train true, --do_eval true or --do_predict true.")
    report = RunReport(trainer, thumbnail)
    if thumbnail is not None and args.log_pictures:
        trainer.add_callback(PictureLogCallback(trainer, thumbnail, args.log_pictures))
    if args.do_train:
        state_file = None if checkpoint is None else Path(checkpoint) / TRAINER_STATE_NAME
        steps_before = 0 if state_file is None else TrainerState.load_from_json(str(state_file)).global_step
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.save_state()
        metrics, saved = outcome.metrics, folder / "train_results.json"
        if outcome.global_step == steps_before and saved.is_file():
            logger.warning(f"{checkpoint} is the end of the training: there was no step left to make.")
            metrics = json.loads(saved.read_text(encoding="utf-8"))
        trainer.save_metrics("train", metrics)
        report.add("train", metrics)
        written["model"] = folder
    if args.do_eval:
        evaluated = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
        trainer.log_metrics("eval", evaluated.metrics)
        trainer.save_metrics("eval", evaluated.metrics)
        report.add("eval", evaluated.metrics, Assessment("eval", trainer.eval_dataset, evaluated.predictions))
    if args.do_predict:
        tested = trainer.predict(test_dataset)
        if trainer.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            written.update(write(tested.predictions, tested.metrics, folder))
        trainer.log_metrics("test", tested.metrics)
        trainer.save_metrics("test", tested.metrics)
        report.add("test", tested.metrics, Assessment("test", test_dataset, tested.predictions))
    if args.do_eval or args.do_predict:
        written["metrics"] = folder / "all_results.json"
    reported = report.write()
    if args.push_to_hub:
        try:
            pushed = trainer.push_to_hub()
        except PushError as error:
            raise LaunchError(str(error)) from error
        if pushed is not None:
            written["on the Hub"] = pushed.repo_url
    if reported is not None:
        written["report"] = reported
    if trainer.is_world_process_zero():
        for name, place in written.items():
            print(f"{name}: {place}")
