"""Fine-tune, evaluate, and apply an ALBEF for visual question answering.

    accelerate launch run_vqa.py configs/vqa.yaml --model_name_or_path MODEL --output_dir out

Every field of the YAML file can be given on the command line, which wins; a field of a mapping is changed alone by
`--model_config.vision_config.hidden_size 64`.
"""

from __future__ import annotations

from modeling_albef import AlbefForQuestionAnswering
from modeling_albef.training import VQATrainer, VQATrainingArguments
from modeling_albef.training import application as run
from processing import VQACollator


@run.exit_without_traceback
def main(argv: list[str] | None = None) -> None:
    """Run what the arguments ask for."""
    model_args, data_args, args = run.parse_arguments(
        (run.ModelArguments, run.VQADataArguments, VQATrainingArguments), argv
    )
    checkpoint = run.prepare_run(model_args, data_args, args)

    # Data: a row a question; and the candidate answers, which the evaluation ranks
    splits = run.load_splits(data_args, args, task="vqa")
    candidates = run.load_candidates(data_args, splits, model_args.model_name_or_path, checkpoint)

    # Processor and model; evaluation reads 50 words of a question, training `max_words` of them, both as published
    texts = run.training_texts(splits, "question", candidates)
    processor = run.load_processor(model_args, texts, checkpoint, text_type="question", max_words=50)
    run.check_vocabulary(processor, splits, "question")
    model, teacher = run.load_model(
        AlbefForQuestionAnswering, model_args, processor.tokenizer, needs_head=not args.do_train
    )
    run.check_answer_lengths(
        candidates, data_args, splits, processor, model.config.decoder_config.max_position_embeddings
    )
    image_size = model.config.vision_config.image_size
    processor.image_processor.size = {"height": image_size, "width": image_size}

    # Trainer
    collator = VQACollator(processor, data_args.max_words, share_images=args.group_by_image, with_names=True)
    trainer = VQATrainer(
        model,
        args,
        answer_list=candidates,
        teacher=teacher,
        train_dataset=run.training_rows(splits.get("train"), data_args, args, model, processor),
        eval_dataset=splits.get("validation"),
        data_collator=collator,
        processing_class=processor,
    )
    record = run.RunRecord(trainer, model_args, data_args, checkpoint)
    record.begin(splits)

    # Train and evaluate; beside the accuracy stands that of guesses that look at no image
    if args.do_train:
        record.add_training(trainer.train(resume_from_checkpoint=checkpoint))
    if args.do_eval:
        baselines = run.baseline_metrics(splits, "validation", args, processor.tokenizer)
        record.add_evaluation("eval", splits["validation"], **baselines)

    # Predict: answer the test questions
    if args.do_predict:
        baselines = run.baseline_metrics(splits, "test", args, processor.tokenizer)
        record.add_evaluation("test", splits["test"], **baselines)
    record.finish()


if __name__ == "__main__":
    main()
