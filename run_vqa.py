"""Fine-tune, evaluate, and apply an ALBEF for visual question answering.

    accelerate launch run_vqa.py configs/vqa.yaml --model_name_or_path MODEL --output_dir out

Every field of the YAML file can be given on the command line too, which wins. On two CPU processes:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        run_vqa.py configs/demo_vqa.yaml --use_cpu
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Image
from transformers import set_seed

from dataset_scripts import good_images, load_answer_list, load_dataset_script, process_share
from dataset_scripts.commands.thumbnails import thumbnail
from modeling_albef import AlbefConfig, AlbefForQuestionAnswering
from modeling_albef.hub_albef import check_model_name
from modeling_albef.training import VQAResult, VQATrainer, VQATrainingArguments, question_only_accuracy
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
    TrainingAugmentation,
    UnreadableImageError,
    VQACollator,
    build_tokenizer,
    load_tokenizer,
)


@dataclass
class DataArguments(steps.DataArguments):
    """Which data."""

    image_root: str | None = field(
        default=None, metadata={"help": "Folder that image paths start from; default: data_dir, or this folder."}
    )
    vqa_root: str | None = field(
        default=None, metadata={"help": "Folder that VQA v2's image paths start from; default: image_root."}
    )
    vg_root: str | None = field(default=None, metadata={"help": "Folder that Visual Genome's image paths start from."})
    vg_weight: float | None = field(default=None, metadata={"help": "Weight of an answer of Visual Genome; 0.5."})
    answer_list: str | None = field(
        default=None,
        metadata={"help": "JSON list of candidates; default: the training data's answers, else the model's."},
    )


def load_data(data_args: DataArguments, args: VQATrainingArguments) -> dict[str, Dataset]:
    """The splits that this run needs, checked; a row a question."""
    settings = {name: getattr(data_args, name) for name in ("image_root", "vqa_root", "vg_root", "vg_weight")}
    given = {name: value for name, value in settings.items() if value is not None}
    load: Any = partial(load_dataset_script, config_name="vqa", **given)

    def from_files(name: str, files: list[str], **fields: Any) -> Any:
        return load("own_data", **{name: files}, **fields)

    splits = steps.load_splits(
        data_args,
        args,
        from_builder=load,
        from_files=from_files,
        check=partial(good_images, max_pixels=data_args.max_image_pixels, drop=data_args.drop_bad_rows),
    )
    return {split: known_columns(dataset) for split, dataset in splits.items()}


def known_columns(dataset: Dataset) -> Dataset:
    """Rows with undecoded images, without the types of questions where not all are known."""
    dataset = dataset.cast_column("image", Image(decode=False))
    if not isinstance(dataset, Dataset):
        return dataset
    columns = [name for name in ("question_type", "answer_type") if name in dataset.column_names]
    return dataset.remove_columns([name for name in columns if dataset.data.column(name).null_count])


def load_answers(data_args: DataArguments, splits: dict[str, Dataset], model_name: str | None = None) -> list[str]:
    """The candidate answers: of the list, of the training data, or those that the model was trained with."""
    if data_args.answer_list:
        return load_answer_list(data_args.answer_list)
    if "train" not in splits:
        decoder_config = AlbefConfig.from_pretrained(model_name).decoder_config if model_name else None
        if decoder_config is not None and decoder_config.answer_list:
            return decoder_config.answer_list
    if not isinstance(splits.get("train"), Dataset):
        raise LaunchError(
            "Candidate answers are needed: give --answer_list, or training data, not streamed, to take them from."
        )
    rows = steps.progress(splits["train"]["answers"], "Collecting answers")
    return sorted({answer for row in rows for answer in row})


def check_lengths(answers: list[str], splits: dict[str, Dataset], processor: AlbefProcessor, longest: int) -> None:
    """Refuses answers, of the candidates or of the training data, that are longer than the decoder reads.

    Args:
        answers: The candidates.
        splits: Training data whose answers are not all among them, or none.
        processor: Encodes answers.
        longest: Tokens that the decoder reads.

    Raises:
        LaunchError: There is one.
    """
    listed = set(answers)
    if isinstance(splits.get("train"), Dataset):
        rows = steps.progress(splits["train"]["answers"], "Measuring answers")
        listed.update(answer for row in rows for answer in row)
    known = sorted(listed)
    encoded = processor.encode_answers(known, padding=False, return_tensors=None)["input_ids"] if known else []
    for answer, ids in zip(known, encoded, strict=True):
        if len(ids) > longest:
            raise LaunchError(
                f"The answer {answer[:60]!r} .. has {len(ids)} tokens, but the model's decoder reads at most "
                f"{longest}: shorten it, or leave its row out."
            )


def load_processor(model_args: steps.ModelArguments, splits: dict[str, Dataset], answers: list[str]) -> AlbefProcessor:
    """The model's processor or, for a model from scratch, one made of a tokenizer or of questions and answers."""
    if model_args.model_name_or_path is not None and model_args.tokenizer is None:
        processor = AlbefProcessor.from_pretrained(model_args.model_name_or_path)
        parts = (processor.image_processor, processor.tokenizer)
        return AlbefProcessor(*parts, text_type="question", max_words=50, end_texts=processor.end_texts)
    if model_args.tokenizer is not None:
        tokenizer = load_tokenizer(model_args.tokenizer)
    elif isinstance(splits.get("train"), Dataset):
        texts = [*splits["train"]["question"], *answers]
        tokenizer = build_tokenizer(steps.progress(texts, "Counting words"))
    else:
        raise LaunchError("A model from scratch needs a --tokenizer, or training data, not streamed, to make it of.")
    return AlbefProcessor(AlbefImageProcessor(), tokenizer, text_type="question", max_words=50)


def write_answers(
    splits: dict[str, Dataset], result: VQAResult, metrics: dict[str, float], folder: Path
) -> dict[str, Path]:
    """Writes the answers in the VQA server's format; adds what the questions alone give away to the metrics."""
    written = {"predictions": folder / "vqa_result.json"}
    written["predictions"].write_text(json.dumps(result.answers), encoding="utf-8")
    if result.by_question_type:
        written["accuracy by question type"] = path = folder / "question_types.json"
        path.write_text(json.dumps(result.by_question_type, indent=1), encoding="utf-8")
    if result.metrics and isinstance(splits.get("train"), Dataset):
        metrics["test_question_only_accuracy"] = question_only_accuracy(splits["train"], splits["test"])
    return written


def main(argv: list[str] | None = None) -> None:
    """Runs what the arguments ask for."""
    classes = (steps.ModelArguments, DataArguments, VQATrainingArguments)
    model_args, data_args, args = parse_arguments(classes, argv)
    check_processes(args)
    checkpoint = prepare_output(args, data_args.overwrite_output_dir)
    set_seed(args.seed)
    with refuse_together(args):
        check_model_name(model_args.model_name_or_path)
        with args.main_process_first(desc="preparing the data"):
            splits = load_data(data_args, args)
        answers = load_answers(data_args, splits, model_args.model_name_or_path)
        processor = load_processor(model_args, splits, answers)
        model, teacher = steps.load_model(AlbefForQuestionAnswering, model_args, processor.tokenizer)
        if not args.do_train:
            model.check_head()
        decoder_config, tokenizer = model.config.decoder_config, processor.tokenizer
        others = splits if data_args.answer_list else {}  # else the candidates are the training data's answers
        check_lengths(answers, others, processor, decoder_config.max_position_embeddings)
        decoder_config.bos_token_id, decoder_config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        side = model.config.vision_config.image_size
        processor.image_processor.size = {"height": side, "width": side}
        train_dataset: AugmentedDataset | AugmentedStream | None = None
        if "train" in splits:
            augmentation, bad_images = None, data_args.bad_images
            if data_args.augmentation:
                augmentation = TrainingAugmentation(side, scaled_decoding=data_args.scaled_decoding)
            if data_args.streaming:
                stream = process_share(splits["train"], args, data_args.shuffle_buffer)
                train_dataset = AugmentedStream(stream, augmentation, args.seed, args.process_index, bad_images)
            else:
                train_dataset = AugmentedDataset(splits["train"], augmentation, args.seed, bad_images)
        trainer = VQATrainer(
            model,
            args,
            answer_list=answers,
            teacher=teacher,
            train_dataset=train_dataset,
            eval_dataset=splits.get("validation"),
            data_collator=VQACollator(
                processor, data_args.max_words, share_images=args.group_by_image, with_names=True
            ),
            processing_class=processor,
        )
        steps.describe(trainer, model_args, data_args)
    with end_in_a_sentence(UnreadableImageError):
        steps.train_and_evaluate(trainer, checkpoint, splits.get("test"), partial(write_answers, splits), thumbnail)


if __name__ == "__main__":
    main()
