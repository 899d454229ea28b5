"""Fine-tune, evaluate, and apply an ALBEF for image-text retrieval.

    accelerate launch run_retrieval.py configs/retrieval_coco.yaml --model_name_or_path MODEL --output_dir out

Every field of the YAML file can be given on the command line, which wins; a field of a mapping is changed alone by
`--model_config.vision_config.hidden_size 64`. On two CPU processes:

    accelerate launch --config_file configs/accelerate/cpu_2.yaml run_retrieval.py configs/demo_retrieval.yaml --use_cpu
"""

from __future__ import annotations

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments
from modeling_albef.training import application as run
from processing import RetrievalCollator


@run.exit_without_traceback
def main(argv: list[str] | None = None) -> None:
    """Run what the arguments ask for."""
    classes = (run.ModelArguments, run.DataArguments, RetrievalTrainingArguments)
    model_args, data_args, args = run.parse_arguments(classes, argv)
    checkpoint = run.prepare_run(model_args, data_args, args)

    # Data: a row an image, with all its captions
    splits = run.load_splits(data_args, args, task="retrieval")

    # Processor and model; a run that does not train needs a checkpoint with a matching head
    texts = run.training_texts(splits, "caption")
    processor = run.load_processor(model_args, texts, checkpoint, max_words=data_args.max_words)
    run.check_vocabulary(processor, splits, "caption")
    model, teacher = run.load_model(
        AlbefForImageTextRetrieval, model_args, processor.tokenizer, needs_head=not args.do_train
    )
    image_size, max_length = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
    processor.image_processor.size = {"height": image_size, "width": image_size}

    # Trainer; its messages name image files, and its feature queue starts from one that was saved beside the model.
    # A frozen tower may have encoded the images once and for all
    trainer = RetrievalTrainer(
        model,
        args,
        teacher=teacher,
        train_dataset=run.training_rows(splits.get("train"), data_args, args, model, processor),
        eval_dataset=splits.get("validation"),
        data_collator=RetrievalCollator(processor, data_args.max_words, max_length=max_length, with_names=True),
        processing_class=processor,
    )
    trainer.image_store = run.image_store(data_args, args, model, processor)
    record = run.RunRecord(trainer, model_args, data_args, checkpoint)
    run.load_saved_queue(trainer.queue, model_args)
    record.begin(splits)

    # Train, evaluate, predict; each step writes its files into the output folder
    if args.do_train:
        record.add_training(trainer.train(resume_from_checkpoint=checkpoint))
    if args.do_eval:
        record.add_evaluation("eval", splits["validation"])
    if args.do_predict:
        record.add_evaluation("test", splits["test"])
    record.finish()


if __name__ == "__main__":
    main()
