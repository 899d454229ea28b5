"""Fine-tune, evaluate, and apply an ALBEF for the classification of images with texts, such as visual entailment.

    accelerate launch run_classification.py configs/snli_ve.yaml --model_name_or_path MODEL --data_dir FOLDER

With `task: text_assignment` it pre-trains a model of two images. A field of the YAML file can be given on the command
line, which wins.
"""

from __future__ import annotations

from typing import Any

from modeling_albef import AlbefForImageTextClassification, AlbefForTextAssignment, AlbefForVisualReasoning
from modeling_albef.training import ClassificationTrainer, ClassificationTrainingArguments, TextAssignmentTrainer
from modeling_albef.training import application as run

CLASSES: dict[int, Any] = {  # images of a text -> model and trainer; 0: the texts are assigned to images
    0: (AlbefForTextAssignment, TextAssignmentTrainer),
    1: (AlbefForImageTextClassification, ClassificationTrainer),
    2: (AlbefForVisualReasoning, ClassificationTrainer),
}


@run.exit_without_traceback
def main(argv: list[str] | None = None) -> None:
    """Run what the arguments ask for."""
    groups = (run.ModelArguments, run.ClassificationDataArguments, ClassificationTrainingArguments)
    model_args, data_args, args = run.parse_arguments(groups, argv)
    checkpoint = run.prepare_run(model_args, data_args, args)

    # Data: a row a text with its image, or `image` and `image_2`, and label; of text assignment a row an image with its
    # captions; and the labels to choose from
    splits = run.load_splits(data_args, args, task=data_args.builder_task)
    labels = run.load_labels(data_args, splits, checkpoint or model_args.model_name_or_path)

    # Processor and model, of one image or of two; a run that does not train needs a checkpoint with a classifier
    processor = run.load_text_processor(model_args, data_args, splits, data_args.text_column, checkpoint)
    needs_head = not args.do_train
    model_class, trainer_class = CLASSES[0 if data_args.is_assignment else len(run.image_columns(splits))]
    model, teacher = run.load_model(model_class, model_args, processor.tokenizer, needs_head, **labels)
    side = model.config.image_size
    processor.image_processor.size = {"height": side, "width": side}

    # Trainer, whose collator knows the labels of the model
    train_dataset = run.training_rows(splits.get("train"), data_args, args, model, processor)
    trainer = trainer_class(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=splits.get("validation"),
        processing_class=processor,
        teacher=teacher,
    )
    trainer.data_collator.max_words = data_args.max_words
    record = run.RunRecord(trainer, model_args, data_args, checkpoint)
    record.begin(splits)

    # Train, evaluate, predict; beside the accuracy stands that of a guesser that reads the text and sees no image
    if args.do_train:
        record.add_training(trainer.train(resume_from_checkpoint=checkpoint))
    for prefix, split, is_wanted in (("eval", "validation", args.do_eval), ("test", "test", args.do_predict)):
        if is_wanted:
            record.add_evaluation(prefix, splits[split], **run.label_baselines(splits, split))
    record.finish()


if __name__ == "__main__":
    main()
