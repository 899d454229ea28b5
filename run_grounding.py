"""Fine-tune, evaluate, and apply an ALBEF for grounding: where in an image is what a text refers to?

    accelerate launch run_grounding.py configs/refcoco_plus.yaml --model_name_or_path MODEL --output_dir out

Training sees images and texts; boxes are for the evaluation, unless `--box_loss_weight` is above 0. Every field of the
YAML file can be given on the command line, which wins.
"""

from __future__ import annotations

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import GroundingTrainer, GroundingTrainingArguments
from modeling_albef.training import application as run
from processing import GroundingCollator


@run.exit_without_traceback
def main(argv: list[str] | None = None) -> None:
    """Run what the arguments ask for."""
    arguments = run.parse_arguments((run.ModelArguments, run.DataArguments, GroundingTrainingArguments), argv)
    model_args, data_args, args = arguments
    checkpoint = run.prepare_run(*arguments)

    # Data: a row a text, with its box where there is one
    splits = run.load_splits(data_args, args, task="grounding")

    # Processor and model, which is that of retrieval
    processor = run.load_processor(
        model_args, run.training_texts(splits, "text"), checkpoint, max_words=data_args.max_words
    )
    run.check_vocabulary(processor, splits, "text")
    needs_head = not args.do_train
    model, teacher = run.load_model(AlbefForImageTextRetrieval, model_args, processor.tokenizer, needs_head)
    sizes = model.config.vision_config
    processor.image_processor.size = {"height": sizes.image_size, "width": sizes.image_size}

    # Trainer; its batches have boxes where they are trained on
    with_boxes = args.box_loss_weight > 0
    collator = GroundingCollator(processor, data_args.max_words, with_names=True, with_boxes=with_boxes)
    rows = run.training_rows(splits.get("train"), data_args, args, model, processor)
    trainer = GroundingTrainer(
        model,
        args,
        teacher=teacher,
        train_dataset=rows,
        eval_dataset=splits.get("validation"),
        data_collator=collator,
        processing_class=processor,
    )
    record = run.RunRecord(trainer, model_args, data_args, checkpoint=checkpoint)
    run.load_saved_queue(trainer.queue, model_args)
    record.begin(splits)

    # Train, then evaluate, then predict; the maps of both are in the report
    if args.do_train:
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        record.add_training(outcome)
    for split, name in (("eval", "validation"), ("test", "test")):
        if args.do_eval if split == "eval" else args.do_predict:
            record.add_evaluation(split, splits[name])
    record.finish()


if __name__ == "__main__":
    main()
