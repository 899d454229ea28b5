"""The trainer of classification fine-tunes and evaluates a model of two images."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from classification_cases import make_processor, make_trainer
from PIL import Image
from safetensors.torch import load_file
from small_models import WORDS, _config

from modeling_albef import AlbefForTextAssignment, AlbefForVisualReasoning
from modeling_albef.training import (
    ClassificationEvaluator,
    MomentumTeacher,
    TextAssignmentTrainer,
    TextAssignmentTrainingArguments,
)
from modeling_albef.training.lora import add_lora, merged_state_dict
from modeling_albef.training.reasoning.text_assignment import TextAssignmentEvaluator
from modeling_albef.training.rows import classification_collator
from processing import AugmentedDataset, RetrievalCollator

LABELS = ("False", "True")


def make_reasoner(dropout: float = 0.0) -> AlbefForVisualReasoning:
    config = _config(make_processor())
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = dropout
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: index for index, name in enumerate(LABELS)}
    torch.manual_seed(0)
    return AlbefForVisualReasoning(config)


def pair_rows(folder: Path, count: int = 8) -> list[dict[str, Any]]:
    paths = []
    for number in range(4):
        paths.append(str(folder / f"image{number}.png"))
        Image.new("RGB", (40, 30), (80 * number, 90, 255 - 60 * number)).save(paths[-1])
    return [
        {
            "image": paths[number % 4],
            "image_2": paths[number * 3 % 4],
            "text": WORDS[number % len(WORDS)],
            "label": LABELS[number // 2 % 2],
        }
        for number in range(count)
    ]


def inputs_of(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The model's inputs without the collator: each pair on its own axis."""
    processor = make_processor()
    images = [row[name] for row in rows for name in ("image", "image_2")]
    batch = dict(processor(images=images, text=[row["text"] for row in rows], padding=True, return_tensors="pt"))
    return {**batch, "pixel_values": batch["pixel_values"].unflatten(0, (-1, 2))}


def test_steps_are_the_published_ones(tmp_path: Path) -> None:
    """Two steps by hand; the teacher starts as the loaded student and moves before its logits are taken."""
    model, rows = make_reasoner(), pair_rows(tmp_path, 4)
    expected = copy.deepcopy(model).train()
    options = {"optim": "sgd", "learning_rate": 0.2, "max_steps": 2, "weight_decay": 0.0, "save_strategy": "no"}
    options |= {"published_schedule": False, "lr_scheduler_type": "constant", "alpha_warmup": True}
    trainer = make_trainer(tmp_path / "out", model, rows, **options)
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    batch, labels = inputs_of(rows), torch.tensor([LABELS.index(row["label"]) for row in rows])
    teacher, losses = MomentumTeacher(expected, 0.995), []
    for alpha in (0.0, 0.4):  # an epoch is one step
        teacher.update(expected)
        with torch.no_grad():
            opinion = teacher.model(**batch).logits.softmax(1)
        targets = alpha * opinion + (1 - alpha) * torch.nn.functional.one_hot(labels, 2)
        loss = -(targets * expected(**batch).logits.log_softmax(1)).sum(1).mean()
        expected.zero_grad()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter -= 0.2 * parameter.grad
    trainer.train()
    lines = [line["classification_loss"] for line in trainer.state.log_history if "classification_loss" in line]
    assert lines == pytest.approx(losses, abs=1e-5)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-5, rtol=1e-4, msg=name)
        theirs = trainer.teacher.model.state_dict()[name]
        torch.testing.assert_close(theirs, teacher.model.state_dict()[name], atol=1e-6, rtol=0, msg=name)


def test_a_resumed_run_ends_bit_identical(tmp_path: Path) -> None:
    rows = pair_rows(tmp_path, 8)
    whole = make_trainer(tmp_path / "whole", make_reasoner(0.1), rows)
    whole.train()
    assert whole.state.global_step == 4
    (tmp_path / "whole/checkpoint-4").rename(tmp_path / "last")
    resumed = make_trainer(tmp_path / "whole", make_reasoner(0.1), rows)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    for file in ("model.safetensors", "teacher/model.safetensors"):
        one, other = load_file(tmp_path / "last" / file), load_file(tmp_path / "whole/checkpoint-4" / file)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_is_the_model_row_by_row(batch_size: int, tmp_path: Path) -> None:
    model, rows = make_reasoner().eval(), pair_rows(tmp_path)
    result = ClassificationEvaluator(model, make_processor(), batch_size=batch_size)(rows)
    right = []
    for number, row in enumerate(rows):
        with torch.no_grad():
            scores = model(**inputs_of([row])).logits.softmax(1)[0]
        torch.testing.assert_close(result.scores[number], scores, atol=1e-5, rtol=1e-5)
        right.append(LABELS[int(scores.argmax())] == row["label"])
    assert result.metrics["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    lines = result.write(rows, tmp_path)["predictions"].read_text().splitlines()
    assert [json.loads(line)["image_2"] for line in lines] == [row["image_2"] for row in rows]


def test_texts_longer_than_the_positions_are_cut(tmp_path: Path) -> None:
    """In the evaluations of both, as in training; a word that is not known is a token a letter."""
    rows = [{**row, "text": "unheardofwords " * 30} for row in pair_rows(tmp_path, 2)]
    model = make_reasoner().eval()
    assert len(ClassificationEvaluator(model, make_processor())(rows).predictions) == 2
    captions = [{"image": row["image"], "image_id": n, "caption": row["text"]} for n, row in enumerate(rows)]
    start = AlbefForTextAssignment(_config(make_processor())).eval()
    assert set(TextAssignmentEvaluator(start, make_processor())(captions).metrics) == {"assignment_accuracy"}


@pytest.mark.parametrize("with_teacher", [False, True])
def test_images_of_a_batch_are_shared(with_teacher: bool, tmp_path: Path) -> None:
    """Each is encoded once, whichever side it is on, and the logits stay."""
    model, rows = make_reasoner().eval(), pair_rows(tmp_path, 8)  # of four images
    shared, apart = (
        classification_collator(make_processor(), model.config, share_images=is_shared)(rows)
        for is_shared in (True, False)
    )
    assert len(shared["pixel_values"]) == 4 and len(apart["pixel_values"]) == 16 and "image_index" not in apart
    assert shared["image_index"].shape == (8, 2)
    shown = shared["pixel_values"][shared["image_index"]]  # (B, 2, 3, S, S)
    assert torch.equal(shown.transpose(0, 1).flatten(0, 1), apart["pixel_values"])
    with torch.no_grad():
        expected = model(**apart)
        torch.testing.assert_close(model(**shared).logits, expected.logits, atol=1e-5, rtol=0)
    if with_teacher:
        make_trainer(tmp_path / "out", model, rows, group_by_image=True, alpha_warmup=False).train()


def test_adapters_train_and_are_resumed_and_merged(tmp_path: Path) -> None:
    rows = pair_rows(tmp_path, 8)

    def adapted() -> AlbefForVisualReasoning:
        model = make_reasoner()
        add_lora(model, 2)
        return model

    whole = make_trainer(tmp_path / "whole", adapted(), rows)
    whole.train()
    (tmp_path / "whole/checkpoint-4").rename(tmp_path / "last")
    make_trainer(tmp_path / "whole", adapted(), rows).train(str(tmp_path / "whole/checkpoint-2"))
    one, other = (
        load_file(path / "model.safetensors") for path in (tmp_path / "last", tmp_path / "whole/checkpoint-4")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    whole.save_model(str(tmp_path / "merged"))
    merged = AlbefForVisualReasoning.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        expected = whole.model.eval()(**inputs_of(rows)).logits
        torch.testing.assert_close(merged(**inputs_of(rows)).logits, expected, atol=1e-5, rtol=1e-4)


def test_adapters_of_shared_maps_are_merged_once(tmp_path: Path) -> None:
    """Both layers of a pair read the keys and values of one map, and so of one adapter."""
    model, rows = make_reasoner().eval(), pair_rows(tmp_path)
    add_lora(model, 2, targets=("key", "value", "query"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    plain = make_reasoner().eval()
    plain.load_state_dict(merged_state_dict(model) or {})
    with torch.no_grad():
        expected, found = model(**inputs_of(rows)).logits, plain(**inputs_of(rows)).logits
        assert (expected - make_reasoner().eval()(**inputs_of(rows)).logits).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_both_images_are_augmented_apart(tmp_path: Path) -> None:
    rows = pair_rows(tmp_path, 1)
    rows[0]["image_2"] = rows[0]["image"]
    seen: list[float] = []

    def augmentation(image: Image.Image, rng: Any) -> Image.Image:
        seen.append(float(rng.random()))
        return image.resize((len(seen), 5))

    row = AugmentedDataset(rows, augmentation, seed=3)[0]
    assert (row["image"].size, row["image_2"].size) == ((1, 5), (2, 5)) and seen[0] != seen[1]


def test_text_assignment_is_learned_and_starts_visual_reasoning(tmp_path: Path) -> None:
    colors = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}
    captions = {"blue": "a blue circle", "green": "a green star above it", "red": "a red square"}
    rows = [
        {"image": Image.new("RGB", (40, 40), color), "image_id": number, "caption": captions[name]}
        for number, (name, color) in enumerate(colors.items())
    ]
    torch.manual_seed(0)
    config = _config(make_processor())
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    model = AlbefForTextAssignment(config)
    options = {"max_steps": 60, "per_device_train_batch_size": 3, "learning_rate": 3e-3, "use_cpu": True}
    options |= {"eval_strategy": "no", "save_strategy": "no", "warmup_steps": 0, "report_to": "none"}
    args = TextAssignmentTrainingArguments(str(tmp_path / "out"), **options, logging_steps=1)
    trainer = TextAssignmentTrainer(model, args, train_dataset=rows, processing_class=make_processor())
    trainer.train()
    losses = [line["assignment_loss"] for line in trainer.state.log_history if "assignment_loss" in line]
    assert sum(losses[-20:]) < sum(losses[:20]) - 2
    with torch.no_grad():
        outputs = model.eval()(**{**RetrievalCollator(make_processor())(rows)})
    right = (outputs.logits.argmax(1) == outputs.assigned_labels).float().mean().item()
    assert trainer.evaluate_dataset(rows).metrics["assignment_accuracy"] == pytest.approx(100 * right)
    trainer.save_model(str(tmp_path / "saved"))
    reasoning = AlbefForVisualReasoning.from_pretrained(tmp_path / "saved")
    first = model.albef.text_model.encoder.layer[-1].crossattention.self.query.weight
    assert torch.equal(reasoning.albef.text_model.encoder.layer[-1].crossattention.self.query.weight, first)


def test_the_published_recipe_of_text_assignment() -> None:
    args = TextAssignmentTrainingArguments("out", use_cpu=True)
    found = {name: getattr(args, name) for name in ("learning_rate", "min_learning_rate", "warmup_learning_rate")}
    assert found == {"learning_rate": 2e-5, "min_learning_rate": 1e-5, "warmup_learning_rate": 1e-5}
    assert (args.num_train_epochs, args.warmup_steps, args.weight_decay, args.distill) == (1, 100, 0.02, False)
    assert args.per_device_train_batch_size == 64
