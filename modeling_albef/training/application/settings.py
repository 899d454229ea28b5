"""Which model and which data: the two dataclasses that stand beside the training arguments."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

from ..lora import TARGETS
from .mappings import ENTRY_FIELDS, abbreviated, read_entries, source_names

SPLITS = ("train", "validation", "test")
FILES = tuple(f"{split}_files" for split in SPLITS)


@dataclass
class ModelArguments:
    """Which model."""

    _argument_group_name: ClassVar[str] = "model"
    DISPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "model_name_or_path": ("model_config", "vision_encoder", "text_encoder"),
        "model_config": ("model_name_or_path",),
        **dict.fromkeys(("vision_encoder", "text_encoder"), ("model_name_or_path",)),
    }
    # fields of model_config that a loaded model takes, too; all others are sizes of its weights
    OVERRIDES: ClassVar[tuple[str, ...]] = (
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "temperature_init"),
    )

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub name of a model."})
    model_config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of AlbefConfig, to start from scratch, or dropouts and temperature_init of a loaded model; "
            "one: --model_config.FIELD VALUE"
        },
    )
    vision_encoder: str | None = field(
        default=None, metadata={"help": "ViT, DeiT or DINOv2 to start from, folder or Hub name; needs text_encoder."}
    )
    text_encoder: str | None = field(
        default=None, metadata={"help": "BERT, RoBERTa or DistilBERT of any language to start from; likewise."}
    )
    num_text_layers: int | None = field(
        default=None, metadata={"help": "Layers that read text alone; default: the lower half of the text encoder's."}
    )
    num_fusion_layers: int | None = field(
        default=None, metadata={"help": "Layers above them, with cross-attention; default: the upper half."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder with vocab.txt or Hub name; default: the model's, or made of the training texts."},
    )
    image_size: int | None = field(default=None, metadata={"help": "Side of the images, pixels; default: the model's."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager, flash_attention_2 .."})
    lora_rank: int = field(
        default=0, metadata={"help": "Train adapters of this rank instead of all weights; 0 = none."}
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "Adapter scale: alpha / rank; default: 2 * rank."})
    lora_targets: list[str] = field(
        default_factory=lambda: list(TARGETS), metadata={"help": "Endings of the names of linear maps to adapt."}
    )

    def __post_init__(self) -> None:
        self.model_config = _mapping(self.model_config, "model_config")
        self._check_start()
        for path, value in _leaves("model_config", self.model_config) if self.model_name_or_path else ():
            if path.split(".")[-1] not in self.OVERRIDES:
                raise ValueError(
                    f"{path} is {abbreviated(value)}, but {self.model_name_or_path} has its own: leave it out, or "
                    f"leave model_name_or_path out to start from scratch; {', '.join(self.OVERRIDES)} can be changed."
                )
        for name, lowest in (("image_size", 1), ("lora_rank", 0)):
            if (value := getattr(self, name)) is not None and value < lowest:
                raise ValueError(f"{name} is {value}, but must be at least {lowest}.")

    @property
    def has_encoders(self) -> bool:
        """Whether the model starts from two encoders."""
        return self.vision_encoder is not None

    @property
    def start(self) -> list[str]:
        """What the model starts from: a model, two encoders, or nothing."""
        return [name for name in (self.model_name_or_path, self.vision_encoder, self.text_encoder) if name is not None]

    def _check_start(self) -> None:
        """Refuse arguments that name no start of the model, or more than one."""
        encoders = (self.vision_encoder, self.text_encoder)
        if not self.model_config and not self.model_name_or_path and encoders == (None, None):
            raise ValueError(
                "give either model_name_or_path, or vision_encoder and text_encoder, or model_config to start from "
                "scratch."
            )
        if None in encoders and encoders != (None, None):
            raise ValueError("give both vision_encoder and text_encoder, or none of them.")
        if self.has_encoders and self.model_name_or_path:
            raise ValueError("give either model_name_or_path, or vision_encoder and text_encoder.")
        for name in ("num_text_layers", "num_fusion_layers"):
            if getattr(self, name) is not None and not self.has_encoders:
                raise ValueError(f"{name} belongs to vision_encoder and text_encoder: give them, or leave it out.")


class Source(NamedTuple):
    """A data set of a mixture: what it is called, its weight, above 0, and where it is."""

    name: str
    weight: float
    data: DataArguments


@dataclass
class DataArguments:
    """Which data."""

    _argument_group_name: ClassVar[str] = "data"
    DISPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        "dataset": ("datasets", "dataset_weights", "dataset_config", "data_dir", *FILES),
        "datasets": ("dataset", "dataset_weights", "dataset_config", "data_dir", *FILES),
        **dict.fromkeys(FILES, ("dataset", "datasets", "dataset_weights", "dataset_config", "data_dir")),
    }
    # fields of builders that are fields here, too
    BUILDER_FIELDS: ClassVar[tuple[str, ...]] = ("data_dir", "image_root", "num_proc")

    dataset: list[str] | None | str = field(  # noqa: RUF036, in this order the parser takes several words
        default=None, metadata={"help": "Name of a builder in dataset_scripts; several are mixed."}
    )
    dataset_weights: list[float] | None = field(
        default=None, metadata={"help": "A weight for each of several names in dataset; default: equal ones."}
    )
    datasets: list[dict] | str | None = field(
        default=None,
        metadata={"help": "Data sets to mix, each a mapping: name, weight, source, dataset_config, data_dir, .."},
    )
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = field(
        default="first_exhausted", metadata={"help": "What ends an epoch of a mixture; see interleave_datasets."}
    )
    dataset_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the builder's configuration; one: --dataset_config.FIELD VALUE"}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the builder's annotations and images."})
    image_root: str | None = field(
        default=None, metadata={"help": "Folder that image paths start from; default: data_dir, or this folder."}
    )
    train_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for training."})
    validation_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for validation."})
    test_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for the test."})
    validation_share: float | None = field(
        default=None,
        metadata={"help": "Share of the training images that are held out where there is no validation data, 0..1."},
    )
    augmentation: bool = field(default=True, metadata={"help": "Augment training images as published."})
    augmentation_num_ops: int = field(default=2, metadata={"help": "Random operations on a training image."})
    augmentation_magnitude: float = field(default=7.0, metadata={"help": "Strength of these operations, 0..10."})
    augmentation_scale: list[float] = field(
        default_factory=lambda: [0.5, 1.0],
        metadata={"help": "Least and greatest share of a training image that a crop keeps."},
    )
    scaled_decoding: bool = field(
        default=True, metadata={"help": "Decode training images that are far larger than needed to a smaller size."}
    )
    max_words: int = field(default=30, metadata={"help": "Words of a training text that are read."})
    max_rows: int | None = field(default=None, metadata={"help": "Use at most this many rows of each split."})
    check_image_files: bool = field(default=True, metadata={"help": "Open all images before training."})
    max_image_pixels: int = field(default=178_956_970, metadata={"help": "Refuse larger images; default as in Pillow."})
    bad_images: str = field(
        default="stop",
        metadata={"help": "An image that training cannot read: stop, or replace its row by the next."},
    )
    drop_bad_rows: bool = field(default=False, metadata={"help": "Leave unusable rows out, and say how many."})
    merge_duplicates: bool = field(default=False, metadata={"help": "Take image files with the same bytes for one."})
    num_proc: int | None = field(default=None, metadata={"help": "Processes that prepare the data."})
    streaming: bool = field(default=False, metadata={"help": "Train on rows while they are read; needs max_steps."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows of a stream that are shuffled together."})
    store_image_states: bool = field(
        default=False, metadata={"help": "Encode training images once; needs freeze with vision_model."}
    )
    image_state_dir: str = field(
        default="output/image_states", metadata={"help": "Folder of the stored states; runs may share it."}
    )
    image_state_dtype: str = field(default="float16", metadata={"help": "Stored as float32, float16 or bfloat16."})
    image_state_variants: int = field(default=1, metadata={"help": "Augmented forms of an image that are stored."})
    image_state_gb: float = field(default=50.0, metadata={"help": "Most gigabytes that the states may take."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Train into a folder that is not empty."})

    def __post_init__(self) -> None:
        self.dataset_config = _mapping(self.dataset_config, "dataset_config")
        for name in FILES:
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        self.sources = self._read_sources()
        if self.dataset is not None and any(getattr(self, name) for name in FILES):
            raise ValueError(
                "give either dataset, or train_files, validation_files and test_files. Files of a dataset are named by "
                "dataset_config.train_files and so on."
            )
        if self.data_dir is not None and self.dataset is None:
            raise ValueError(
                "data_dir belongs to a dataset, such as own_data: give its name, too, and its files, if they are to be "
                "named, as dataset_config.train_files and so on."
            )
        self._check_augmentation()
        if self.bad_images not in ("stop", "replace"):
            raise ValueError(f"bad_images is {self.bad_images!r}, but must be stop or replace.")
        self._check_rows_are_counted()
        if self.image_state_variants > 1 and not self.augmentation:
            raise ValueError("image_state_variants is more than 1, but augmentation is false: set one of them.")
        for name in ("max_words", "max_rows", "num_proc", "shuffle_buffer", "max_image_pixels", "image_state_variants"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1.")

    def _check_rows_are_counted(self) -> None:
        """Refuse what needs the number of rows where there is none."""
        if self.store_image_states and self.streaming:
            raise ValueError("store_image_states needs rows that can be counted: leave streaming out.")
        share = self.validation_share
        if share is not None and not 0 < share < 1:
            raise ValueError(f"validation_share is {share}, but must lie between 0 and 1.")
        if share is not None and (self.streaming or self.sources):
            raise ValueError("validation_share needs one data set that is not streamed: give validation_files.")

    def _read_sources(self) -> list[Source]:
        """Return the data sets of a mixture; none where there is no mixture."""
        names, weights = self.dataset if isinstance(self.dataset, list) else [], self.dataset_weights
        if weights is not None and (len(names) < 2 or len(weights) != len(names)):
            number = len(names) or int(self.dataset is not None)
            raise ValueError(
                f"dataset_weights has {len(weights)} values, but dataset has {number} names: give a value for each of "
                "several names."
            )
        if len(names) > 1 and self.datasets is None:
            weights = weights or [1.0] * len(names)
            self.datasets = [{"name": name, "weight": one} for name, one in zip(names, weights, strict=True)]
            self.dataset = self.dataset_weights = None
        elif names:
            self.dataset = names[0]
        if self.datasets is None:
            return []
        rivals = [name for name in ("dataset", "dataset_config", "data_dir", *FILES) if getattr(self, name)]
        if rivals:
            raise ValueError(f"{rivals[0]} belongs to one data set: give it in the entries of datasets.")
        self.datasets = read_entries(self.datasets, ("dataset_config", *FILES, *self.BUILDER_FIELDS))
        names = source_names(self.datasets)
        return [self._source(*named) for named in zip(names, self.datasets, strict=True)]

    def _source(self, name: str, entry: dict[str, Any]) -> Source:
        given = {key: value for key, value in entry.items() if key not in ENTRY_FIELDS}
        builder = None if any(given.get(key) for key in FILES) else entry["name"]  # else the files are the data
        try:
            data = replace(self, dataset=builder, datasets=None, **given)
        except ValueError as error:
            raise ValueError(f"The source {name!r} of datasets: {error}") from error
        return Source(name, float(entry.get("weight", 1)), data)

    def _check_augmentation(self) -> None:
        """Refuse a strength that is out of range, or that has no effect."""
        number, magnitude, scale = self.augmentation_num_ops, self.augmentation_magnitude, self.augmentation_scale
        if not self.augmentation and (number, magnitude, scale) != (2, 7.0, [0.5, 1.0]):
            raise ValueError("augmentation is false, but its strength is given: leave one of them out.")
        if number < 0:
            raise ValueError(f"augmentation_num_ops is {number}, but must be at least 0.")
        if not 0 <= magnitude <= 10:
            raise ValueError(f"augmentation_magnitude is {magnitude}, but must lie between 0 and 10.")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"augmentation_scale is {scale}, but must be two rising shares above 0 and up to 1.")

    def builder_fields(self) -> dict[str, Any]:
        """Return the fields of a builder beside its split; only those that were set, since builders differ."""
        fields = {name: getattr(self, name) for name in self.BUILDER_FIELDS}
        fields |= {name: getattr(self, name) or None for name in ("drop_bad_rows", "merge_duplicates")}
        given = {name: value for name, value in fields.items() if value is not None}
        return given | _mapping(self.dataset_config, "dataset_config")


@dataclass
class VQADataArguments(DataArguments):
    """Which questions, and which candidate answers."""

    BUILDER_FIELDS: ClassVar[tuple[str, ...]] = (*DataArguments.BUILDER_FIELDS, "vqa_root", "vg_root", "vg_weight")

    vqa_root: str | None = field(
        default=None, metadata={"help": "Folder that VQA v2's image paths start from; default: image_root."}
    )
    vg_root: str | None = field(default=None, metadata={"help": "Folder that Visual Genome's image paths start from."})
    vg_weight: float | None = field(default=None, metadata={"help": "Weight of a Visual Genome answer; default: 0.5."})
    answer_list: str | None = field(
        default=None,
        metadata={"help": "JSON list of candidates; default: the training data's answers, else the model's."},
    )


@dataclass
class PreTrainingDataArguments(DataArguments):
    """Which pairs: a data set, or shards that are streamed."""

    DISPLACES: ClassVar[dict[str, tuple[str, ...]]] = {
        **DataArguments.DISPLACES,
        **{name: (*rivals, "shards") for name, rivals in DataArguments.DISPLACES.items() if name != "validation_files"},
        "shards": ("dataset", "datasets", "dataset_weights", "dataset_config", "data_dir", "train_files"),
    }

    shards: list[str] | None = field(
        default=None, metadata={"help": "Training pairs: tar (WebDataset) or Parquet files, paths or URLs; * {00..99}"}
    )
    max_bad_share: float = field(
        default=0.05, metadata={"help": "Stop where more of the samples of shards than this share cannot be used."}
    )

    def __post_init__(self) -> None:
        self.streaming = self.streaming or bool(self.shards)
        if self.shards and self.train_files:
            raise ValueError("give either shards, or train_files.")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {self.max_bad_share}, but must lie between 0 and 1.")
        super().__post_init__()


@dataclass
class ClassificationDataArguments(DataArguments):
    """Which images with texts, and which labels."""

    task: Literal["classification", "text_assignment"] = field(
        default="classification",
        metadata={"help": "text_assignment pre-trains a model of two images on images with captions, without labels."},
    )
    labels: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the labels in the order of their indices; default: the model's, else the data's."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_assignment and self.labels:
            raise ValueError("labels is given, but text_assignment has none: leave labels out.")

    @property
    def is_assignment(self) -> bool:
        """Whether captions are assigned to images, and no labels to texts."""
        return self.task == "text_assignment"

    @property
    def builder_task(self) -> str:
        """Return the configuration of the builders; see `load_splits`."""
        return "retrieval" if self.is_assignment else "classification"

    @property
    def text_column(self) -> str:
        """Return the column of the texts."""
        return "caption" if self.is_assignment else "text"


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise ValueError(f"{name} is {value!r}, but must be a mapping of fields to values.")
    return value or {}


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    """Return the values of nested mappings, named by their paths."""
    if not isinstance(value, dict):
        return [(path, value)]
    return [leaf for name, one in value.items() for leaf in _leaves(f"{path}.{name}", one)]
