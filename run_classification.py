"""Fine-tune, evaluate, and apply an ALBEF for the classification of images with texts, such as visual entailment.

    accelerate launch run_classification.py configs/snli_ve.yaml --model_name_or_path MODEL --data_dir FOLDER

A field of the YAML file can be given on the command line, which wins.
"""

from __future__ import annotations

from modeling_albef import AlbefForImageTextClassification, AlbefForVisualReasoning
from modeling_albef.training import ClassificationTrainer, ClassificationTrainingArguments
from modeling_albef.training.application import (
    ClassificationDataArguments,
    ModelArguments,
    RunRecord,
    exit_without_traceback,
    image_columns,
    label_baselines,
    load_labels,
    load_model,
    load_splits,
    load_text_processor,
    parse_arguments,
    prepare_run,
    training_rows,
)
from processing import ClassificationCollator


@exit_without_traceback
def main(argv: list[str] | None = None) -> None:
    """Run what the arguments ask for."""
    groups = (ModelArguments, ClassificationDataArguments, ClassificationTrainingArguments)
    model_args, data_args, args = parse_arguments(groups, argv)
    checkpoint = prepare_run(model_args, data_args, args)

    # Data: a row a text with its image, or `image` and `image_2`, and label; and the labels to choose from
    splits = load_splits(data_args, args, task="classification")
    labels = load_labels(data_args, splits, checkpoint or model_args.model_name_or_path)

    # Processor and model, of one image or of two; a run that does not train needs a checkpoint with a classifier
    processor = load_text_processor(model_args, data_args, splits, "text", checkpoint)
    needs_head = not args.do_train
    columns = image_columns(splits)
    model_class = AlbefForImageTextClassification if len(columns) == 1 else AlbefForVisualReasoning
    model, teacher = load_model(model_class, model_args, processor.tokenizer, needs_head, **labels)
    side = model.config.image_size
    processor.image_processor.size = {"height": side, "width": side}

    # Trainer
    collator = ClassificationCollator(
        processor,
        data_args.max_words,
        label2id=model.config.label2id,
        problem_type=model.config.problem_type,
        image_columns=columns,
        share_images=args.group_by_image,
        with_names=True,
    )
    train_dataset = training_rows(splits.get("train"), data_args, args, model, processor)
    trainer = ClassificationTrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=splits.get("validation"),
        data_collator=collator,
        processing_class=processor,
        teacher=teacher,
    )
    record = RunRecord(trainer, model_args, data_args, checkpoint)
    record.begin(splits)

    # Train, evaluate, predict; beside the accuracy stands that of a guesser that reads the text and sees no image
    if args.do_train:
        record.add_training(trainer.train(resume_from_checkpoint=checkpoint))
    for prefix, split, is_wanted in (("eval", "validation", args.do_eval), ("test", "test", args.do_predict)):
        if is_wanted:
            record.add_evaluation(prefix, splits[split], **label_baselines(splits, split))
    record.finish()


if __name__ == "__main__":
    main()
