"""Pre-train an ALBEF on images with captions, and measure it without fine-tuning.

    accelerate launch run_pretraining.py configs/pretrain_own.yaml --model_name_or_path MODEL --data_dir FOLDER

Contrast, matching and masked words are learned together, with momentum distillation. Every field of the YAML file can
be given on the command line, which wins. The output folder is the `--model_name_or_path` of all other run scripts.
"""

from __future__ import annotations

from modeling_albef import AlbefForPreTraining
from modeling_albef.training import PreTrainingTrainer, PreTrainingTrainingArguments
from modeling_albef.training import application as run
from processing import PreTrainingCollator


@run.exit_without_traceback
def main(argv: list[str] | None = None) -> None:
    """Run what the arguments ask for."""
    groups = (run.ModelArguments, run.PreTrainingDataArguments, PreTrainingTrainingArguments)
    model_args, data_args, args = run.parse_arguments(groups, argv)
    checkpoint = run.prepare_run(model_args, data_args, args)

    # Data: a row an image, with all its captions; of tar shards a row a pair
    splits = run.load_splits(data_args, args, task="retrieval")

    # Processor and model, with both heads: that of matching and that of masked words
    words = run.training_texts(splits, "caption")
    processor = run.load_processor(model_args, words, checkpoint, max_words=data_args.max_words)
    run.check_vocabulary(processor, splits, "caption")
    model, teacher = run.load_model(AlbefForPreTraining, model_args, processor.tokenizer, needs_head=not args.do_train)
    processor.image_processor.size = dict.fromkeys(("height", "width"), model.config.vision_config.image_size)

    # Trainer; the masks of a row depend on the seed, the epoch and the row
    masking = {"mlm_probability": args.mlm_probability, "whole_word_masking": args.whole_word_masking}
    collator = PreTrainingCollator(processor, data_args.max_words, with_names=True, seed=args.seed, **masking)
    trainer = PreTrainingTrainer(
        model,
        args,
        train_dataset=run.training_rows(splits.get("train"), data_args, args, model, processor),
        eval_dataset=splits.get("validation"),
        processing_class=processor,
        data_collator=collator,
        teacher=teacher,
    )
    run.load_saved_queue(trainer.queue, model_args)
    record = run.RunRecord(trainer, model_args, data_args, checkpoint)
    record.begin(splits)

    # Train; then measure losses and recalls
    if args.do_train:
        record.add_training(trainer.train(resume_from_checkpoint=checkpoint))
    wanted = {"eval": args.do_eval and "validation", "test": args.do_predict and "test"}
    for prefix, split in wanted.items():
        if split:
            record.add_evaluation(prefix, splits[split])
    record.finish()


if __name__ == "__main__":
    main()
