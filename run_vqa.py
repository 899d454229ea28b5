"""Fine-tune, evaluate, and apply an ALBEF for visual question answering.

    accelerate launch run_vqa.py configs/vqa.yaml --model_name_or_path MODEL --output_dir out

Every field of the YAML file can be given on the command line too, which wins. On two CPU processes:

    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
        run_vqa.py configs/demo_vqa.yaml --use_cpu
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from datasets import Dataset, Image
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from dataset_scripts import check_images, load_answer_list, load_dataset_script, load_vqa_files
from modeling_albef import AlbefForQuestionAnswering
from modeling_albef.training import VQAResult, VQATrainer, VQATrainingArguments, question_only_accuracy
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
    TrainingAugmentation,
    VQACollator,
    build_tokenizer,
    load_tokenizer,
)


@dataclass
class DataArguments:
    """Which data."""

    dataset: str | None = field(default=None, metadata={"help": "Name of a builder in dataset_scripts."})
    dataset_config: dict | str | None = field(default=None, metadata={"help": "Fields of the builder."})
    train_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for training."})
    validation_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for validation."})
    test_files: list[str] | None = field(default=None, metadata={"help": "Annotation files for the test."})
    vqa_root: str = field(default=".", metadata={"help": "Folder that VQA v2's image paths start from."})
    vg_root: str | None = field(default=None, metadata={"help": "Folder that Visual Genome's image paths start from."})
    vg_weight: float = field(default=0.5, metadata={"help": "Weight of an answer of Visual Genome."})
    answer_list: str | None = field(
        default=None, metadata={"help": "JSON list of candidate answers; default: all answers of the training data."}
    )
    augmentation: bool = field(default=True, metadata={"help": "Augment training images as published."})
    max_words: int = field(default=30, metadata={"help": "Words of a training question that are read."})
    max_questions: int | None = field(default=None, metadata={"help": "Use only so many questions a split."})
    check_image_files: bool = field(default=True, metadata={"help": "Open all images before training."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Train into a folder that is not empty."})

    def __post_init__(self) -> None:
        self.dataset_config = as_mapping(self.dataset_config, "dataset_config")
        for name in ("train_files", "validation_files", "test_files"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if self.dataset is not None and (self.train_files or self.validation_files or self.test_files):
            raise ValueError("give either dataset, or train_files, validation_files and test_files.")


def load_data(data_args: DataArguments, args: VQATrainingArguments) -> dict[str, Dataset]:
    """The splits that this run needs, checked; a row a question."""
    needed = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    needed["validation"] |= args.do_train and args.eval_strategy != "no"
    splits = {}
    for split in [name for name, wanted in needed.items() if wanted]:
        if data_args.dataset is not None:
            config = as_mapping(data_args.dataset_config, "dataset_config")
            dataset = load_dataset_script(data_args.dataset, "vqa", split=split, **config)
        elif files := getattr(data_args, f"{split}_files"):
            dataset = load_vqa_files(
                files,
                data_args.vqa_root,
                data_args.vg_root,
                vg_weight=data_args.vg_weight,
                need_answers=split != "test",
            )
        else:
            raise LaunchError(
                f"There is no {split} data: give {split}_files, or leave the {split} out with "
                f"{'--eval_strategy no --do_eval false' if split == 'validation' else f'--do_{split} false'}."
            )
        dataset = dataset.cast_column("image", Image(decode=False))
        if data_args.max_questions is not None:
            dataset = dataset.select(range(min(data_args.max_questions, len(dataset))))
        if data_args.check_image_files and args.process_index == 0:
            check_images(dataset, decode=split != "train")  # a bad one there would cost a finished epoch
        splits[split] = dataset
    return splits


def load_answers(data_args: DataArguments, splits: dict[str, Dataset]) -> list[str]:
    """The candidate answers."""
    if data_args.answer_list is not None:
        return load_answer_list(data_args.answer_list)
    if "train" not in splits:
        raise LaunchError("Candidate answers are needed: give --answer_list, or training data to take them from.")
    return sorted({answer for row in splits["train"]["answers"] for answer in row})


def load_processor(model_args: ModelArguments, splits: dict[str, Dataset], answers: list[str]) -> AlbefProcessor:
    """The model's processor or, for a model from scratch, one made of a tokenizer or of questions and answers."""
    if model_args.model_name_or_path is not None and model_args.tokenizer is None:
        processor = AlbefProcessor.from_pretrained(model_args.model_name_or_path)
        return AlbefProcessor(processor.image_processor, processor.tokenizer, text_type="question", max_words=50)
    if model_args.tokenizer is not None:
        tokenizer = load_tokenizer(model_args.tokenizer)
    elif "train" in splits:
        tokenizer = build_tokenizer([*splits["train"]["question"], *answers])
    else:
        raise LaunchError("A model from scratch needs a --tokenizer, or training data to make it of.")
    return AlbefProcessor(AlbefImageProcessor(), tokenizer, text_type="question", max_words=50)


def main(argv: list[str] | None = None) -> None:
    """Runs what the arguments ask for."""
    model_args, data_args, args = parse_arguments((ModelArguments, DataArguments, VQATrainingArguments), argv)
    if not args.do_train:
        args.eval_strategy = IntervalStrategy.NO  # there is nothing to evaluate in between
    check_processes(args)
    checkpoint = prepare_output(args, data_args.overwrite_output_dir)
    set_seed(args.seed)
    with refuse_together(args):
        with args.main_process_first(desc="preparing the data"):
            splits = load_data(data_args, args)
        answers = load_answers(data_args, splits)
        processor = load_processor(model_args, splits, answers)
        model, teacher = load_model(AlbefForQuestionAnswering, model_args, processor.tokenizer)
        decoder_config, tokenizer = model.config.decoder_config, processor.tokenizer
        decoder_config.bos_token_id, decoder_config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        side = model.config.vision_config.image_size
        processor.image_processor.size = {"height": side, "width": side}
        train_dataset = None
        if "train" in splits:
            augmentation = TrainingAugmentation(side) if data_args.augmentation else None
            train_dataset = AugmentedDataset(splits["train"], augmentation, seed=args.seed)
        trainer = VQATrainer(
            model,
            args,
            answer_list=answers,
            teacher=teacher,
            train_dataset=train_dataset,
            eval_dataset=splits.get("validation"),
            data_collator=VQACollator(processor, max_words=data_args.max_words),
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
        if "train" in splits and "test_vqa_accuracy" in tested.metrics:  # what the questions alone give away
            tested.metrics["test_question_only_accuracy"] = question_only_accuracy(splits["train"], splits["test"])
        trainer.log_metrics("test", tested.metrics)
        trainer.save_metrics("test", tested.metrics)
        if trainer.is_world_process_zero():
            result = cast(VQAResult, tested.predictions)
            path = Path(args.output_dir) / "vqa_result.json"
            path.write_text(json.dumps(result.answers), encoding="utf-8")
            written["predictions"] = str(path)
            if result.by_question_type:
                path = Path(args.output_dir) / "question_types.json"
                path.write_text(json.dumps(result.by_question_type, indent=1), encoding="utf-8")
                written["accuracy by question type"] = str(path)
    if args.do_eval or args.do_predict:
        written["metrics"] = str(Path(args.output_dir) / "all_results.json")
    if trainer.is_world_process_zero():
        for name, place in written.items():
            print(f"{name}: {place}")


if __name__ == "__main__":
    main()
