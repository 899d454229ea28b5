"""What two processes do together: run by `torch.distributed.run`, writes what it finds into a folder.

python -m torch.distributed.run --nproc_per_node 2 tests/two_process_cases.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from golden_cases import build, load_case
from PIL import Image
from small_models import ANSWERS, WORDS, _config, save_retrieval
from torch import distributed
from torch.utils.data import SequentialSampler
from trainer_cases import make_trainer, random_rows
from transformers import TrainerCallback

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.training import RetrievalTrainer, VQATrainer, VQATrainingArguments
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

SGD = {
    "optim": "sgd",
    "learning_rate": 0.5,
    "weight_decay": 0.0,
    "published_schedule": False,
    "lr_scheduler_type": "constant",
    "save_strategy": "no",
    "max_steps": 1,
}


class InOrderRetrieval(RetrievalTrainer):
    """Takes the rows as they come."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def retrieval_trainer(folder: Path, rows: Any, **options: Any) -> InOrderRetrieval:
    """A trainer of the recorded model, which has no dropout."""
    model = build(load_case("retrieval_plain")[1])[0]
    plain = make_trainer(folder, model, rows, **{"max_temperature": 10.0, **options})
    return InOrderRetrieval(model, plain.args, train_dataset=rows, data_collator=plain.data_collator)


def moved(trainer: Any) -> dict[str, torch.Tensor]:
    """How far each weight moves in training."""
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    return {name: value - start[name] for name, value in trainer.model.state_dict().items()}


def retrieval_step(folder: Path, parts: int, **options: Any) -> dict[str, torch.Tensor]:
    """One step over pairs of rows: each process, or each part of an accumulated step, has two."""
    alone = {"queue_size": 0, "distill": False, "per_device_train_batch_size": 2}
    return moved(
        retrieval_trainer(folder, random_rows(4), **SGD, **alone, gradient_accumulation_steps=parts, **options)
    )


def questions(count: int) -> list[dict[str, torch.Tensor]]:
    """Rows with a question and one weighted answer each."""
    rows = random_rows(count)
    for number, row in enumerate(rows):
        row["input_ids"] = row["input_ids"] % 20
        row["answer_input_ids"] = torch.tensor([2, 5 + number, 7, 3])
        row["answer_weights"] = torch.tensor(1.0 / (number + 1))
    return rows


def collate_questions(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    names = ("pixel_values", "input_ids", "attention_mask", "answer_input_ids", "answer_weights")
    batch = {name: torch.stack([row[name] for row in rows]) for name in names}
    batch["answer_attention_mask"] = torch.ones_like(batch["answer_input_ids"])
    return {**batch, "answers_per_question": torch.ones(len(rows), dtype=torch.long)}


class InOrderVQA(VQATrainer):
    """Takes the rows as they come."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def vqa_step(folder: Path, batch: int, parts: int) -> dict[str, torch.Tensor]:
    """One step over four questions."""
    processor = AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS))
    torch.manual_seed(0)
    config = _config(processor)
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    model = AlbefForQuestionAnswering(config)
    args = VQATrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=parts,
        **SGD,
    )
    trainer = InOrderVQA(
        model,
        args,
        answer_list=ANSWERS,
        train_dataset=questions(4),
        data_collator=collate_questions,
        processing_class=processor,
    )
    return moved(trainer)


def matching_gradients(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Gradients of the matching loss of two pairs: two in one process, or one in each of two, negatives shared.

    The second text is longer, so the first process has to fill up.
    """
    model = build(load_case("retrieval_plain")[1])[0]
    rows = random_rows(2)
    rows[0]["input_ids"], rows[0]["attention_mask"] = rows[0]["input_ids"].clone(), torch.tensor([1, 1, 1, 1, 0, 0])
    kept = rows if world == 1 else rows[rank : rank + 1]
    batch = {name: torch.stack([row[name] for row in kept]) for name in rows[0]}
    if world == 2 and rank == 0:
        batch["input_ids"], batch["attention_mask"] = batch["input_ids"][:, :4], batch["attention_mask"][:, :4]
    model(**batch, global_negatives=True).itm_loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            if world == 2:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= 2  # as DDP does
            gradients[name] = parameter.grad
    return gradients


class Watch(TrainerCallback):
    """Notes at the end of each step whether all processes have the same tensors."""

    def __init__(self, tensors: Any) -> None:
        self.tensors, self.equal = tensors, []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        own = torch.cat([tensor.flatten().double() for tensor in self.tensors()])
        all_of_them = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(all_of_them, own)
        self.equal.append(all(torch.equal(one, own) for one in all_of_them))


def whole_run(folder: Path, rank: int) -> dict[str, Any]:
    """An epoch whose last batch is uneven, with a loss that is not finite on one process alone."""
    rows = random_rows(9)
    rows[2]["pixel_values"] = torch.full_like(rows[2]["pixel_values"], float("nan"))  # second process, first step
    options = {"dataloader_drop_last": False, "non_finite_loss": "skip", "num_train_epochs": 1, "save_strategy": "no"}
    trainer = retrieval_trainer(folder, rows, per_device_train_batch_size=2, **options)
    watches = {
        "students": Watch(lambda: trainer.model.parameters()),
        "teachers": Watch(lambda: trainer.teacher.model.parameters()),
        "queues": Watch(lambda: trainer.queue.state_dict().values()),
    }
    for watch in watches.values():
        trainer.add_callback(watch)
    trainer.train()
    return {
        **{name: watch.equal for name, watch in watches.items()},
        "steps": trainer.state.global_step,
        "skipped": [line.get("skipped_steps") for line in trainer.state.log_history if "loss" in line],
        "queue_ids": trainer.queue.image_ids.tolist(),
        "finite": all(bool(value.isfinite().all()) for value in trainer.model.state_dict().values()),
    }


def own_rows(folder: Path) -> list[dict[str, Any]]:
    """Nine pictures with one to three captions each, in lists."""
    rows = []
    for number in range(9):
        path = folder / f"{number}.png"
        if not path.exists():
            Image.new("RGB", (40, 30), (28 * number, 90, 255 - 28 * number)).save(path)
        captions = [f"{WORDS[(number + k) % 4]} {number}{k}" for k in range(1 + number % 3)]
        rows.append({"image": str(path), "caption": captions, "image_id": ("own", path.name)})
    return rows


def own_data(folder: Path, world: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Trains on lists of captions, with ids that are no numbers, and evaluates the same as rows in disorder."""
    folder.mkdir(parents=True, exist_ok=True)
    if world == 1 or distributed.get_rank() == 0:
        save_retrieval(folder / "model")
        own_rows(folder)
    if world > 1:
        distributed.barrier()
    rows = own_rows(folder)
    flat = [{**row, "caption": caption} for row in rows for caption in row["caption"]]
    plain = make_trainer(folder / "out", None, random_rows(8), save_strategy="no", num_train_epochs=1, queue_size=18)
    plain.args.per_device_train_batch_size, plain.args.dataloader_drop_last = 3 if world == 2 else 6, False
    trainer = RetrievalTrainer(
        AlbefForImageTextRetrieval.from_pretrained(folder / "model"),
        plain.args,
        train_dataset=rows,
        processing_class=AlbefProcessor.from_pretrained(folder / "model"),
        compute_metrics=lambda result: {"images": len(result.image_rows)},
    )
    collator, seen = trainer.data_collator, list[str]()

    def collate(some: list[dict[str, Any]]) -> Any:
        seen.extend(row["caption"] for row in some)
        return collator(some)

    measured = trainer.evaluate({"flat": flat[::2] + flat[1::2], "lists": rows})
    trainer.data_collator = collate
    trainer.train()
    everything: list[Any] = [None] * world
    if world > 1:
        distributed.all_gather_object(everything, seen)
    else:
        everything = [seen]
    metrics = {name: value for name, value in measured.items() if "runtime" not in name and "per_second" not in name}
    facts = {"metrics": metrics, "seen": sorted(text for some in everything for text in some)}
    return facts, {"ids": trainer.queue.image_ids}


def main(folder: Path) -> None:
    """Runs the cases; the first process writes what came out."""
    facts, tensors = {}, {}
    tensors["retrieval"] = retrieval_step(folder / "retrieval", 1)
    tensors["vqa"] = vqa_step(folder / "vqa", 2, 1)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    tensors["matching"] = matching_gradients(rank, world)
    queued = retrieval_trainer(folder / "queue", random_rows(4), **SGD, per_device_train_batch_size=2)
    queued.train()
    tensors["queue"] = queued.queue.state_dict()
    facts["run"] = whole_run(folder / "run", rank)
    facts["own"], tensors["own"] = own_data(folder / "own", world)
    if rank == 0:
        torch.save(tensors, folder / "tensors.pt")
        (folder / "facts.json").write_text(json.dumps(facts))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
