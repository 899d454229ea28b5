"""Classification of an image with a text: the recorded step of the public implementation, and the library's rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_cases import INDEX, assert_gradients, load_case, tiny_config
from head_cases import inputs, make_head
from transformers import AutoModelForSequenceClassification

from modeling_albef import AlbefConfig, AlbefForImageTextClassification, AlbefForImageTextRetrieval
from modeling_albef.losses_albef import classification_loss
from modeling_albef.training import MomentumTeacher


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_recorded_step_of_visual_entailment(attention: str) -> None:
    case, checkpoint = load_case("entailment")
    assert checkpoint.leftover == []
    student, twin = (AlbefForImageTextClassification(labelled(3)) for _ in range(2))
    student.load_state_dict(checkpoint.student)
    twin.load_state_dict(checkpoint.teacher)
    student.train().set_attn_implementation(attention)
    teacher = MomentumTeacher(student, INDEX["model"]["momentum"], twin)
    teacher.update(student)
    for name, tensor in teacher.model.state_dict().items():
        expected = 0.995 * checkpoint.teacher[name] + 0.005 * checkpoint.student[name]
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=0, msg=name)
    batch = {name: case[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        opinion = teacher.model(**batch).logits
    outputs = student(**batch, labels=case["labels"], teacher_logits=opinion, alpha=INDEX["model"]["alpha"])
    torch.testing.assert_close(outputs.logits, case["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.loss, case["loss"], atol=1e-5, rtol=0)
    outputs.loss.backward()
    assert_gradients(student, case)


def labelled(count: int, **fields: object) -> AlbefConfig:
    config = tiny_config()
    config.num_labels = count
    for name, value in fields.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("problem_type", "labels", "alone"),
    [
        ("single_label_classification", torch.tensor([2, 0]), torch.nn.CrossEntropyLoss()),
        ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 0, 1]]), torch.nn.BCEWithLogitsLoss()),
        ("regression", torch.tensor([[0.3, -1, 2], [0, 0.5, 1]]), torch.nn.MSELoss()),
    ],
)
def test_loss_is_the_librarys_and_its_teacher_pulls_towards_itself(
    problem_type: str, labels: torch.Tensor, alone: torch.nn.Module
) -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    torch.testing.assert_close(classification_loss(logits, labels, problem_type), alone(logits, labels))
    # of a teacher alone the loss is least where the student says the same
    whole = classification_loss(teacher.clone().requires_grad_(), labels, problem_type, teacher, alpha=1.0)
    other = classification_loss(logits, labels, problem_type, teacher, alpha=1.0)
    assert whole < other
    same = teacher.clone().requires_grad_()
    classification_loss(same, labels, problem_type, teacher, alpha=1.0).backward()
    torch.testing.assert_close(same.grad, torch.zeros(2, 3), atol=1e-6, rtol=0)
    # the gradient is the mixture of both
    gradients = []
    for targets, alpha in ((teacher, 0.4), (None, 0.0), (teacher, 1.0)):
        (gradient,) = torch.autograd.grad(classification_loss(logits, labels, problem_type, targets, alpha), logits)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], 0.6 * gradients[1] + 0.4 * gradients[2], atol=1e-6, rtol=0)


def test_rows_without_a_label_do_not_count() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, -100, 3])
    whole = classification_loss(logits, labels, "single_label_classification", logits, 0.5)
    kept = classification_loss(logits[[0, 2]], labels[[0, 2]], "single_label_classification", logits[[0, 2]], 0.5)
    torch.testing.assert_close(whole, kept)


def test_problem_type_is_found_as_the_library_does_and_not_kept() -> None:
    images = inputs()
    cases = [
        (3, torch.tensor([0, 1, 2]), "single_label_classification"),
        (3, torch.eye(3), "multi_label_classification"),
        (1, torch.tensor([0.1, 0.2, 0.3]), "regression"),
    ]
    for count, labels, problem_type in cases:
        torch.manual_seed(0)
        model = AlbefForImageTextClassification(labelled(count)).eval()
        outputs = model(**images, labels=labels)
        assert outputs.logits.shape == (3, count)
        torch.testing.assert_close(outputs.loss, classification_loss(outputs.logits, labels, problem_type))
        assert model.config.problem_type is None
    with pytest.raises(ValueError, match="must be one of single_label"):
        AlbefForImageTextClassification(labelled(3, problem_type="other"))(**images, labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"labels has the shape \(3, 3\)"):
        AlbefForImageTextClassification(labelled(2))(**images, labels=torch.eye(3))


def test_an_image_may_have_several_texts() -> None:
    model = make_head(AlbefForImageTextClassification)
    batch = inputs()
    index = torch.tensor([1, 1, 0])
    spread = model(**{**batch, "pixel_values": batch["pixel_values"][index]}).logits
    shared = model(**{**batch, "pixel_values": batch["pixel_values"][:2]}, image_index=index).logits
    torch.testing.assert_close(shared, spread)
    assert not torch.allclose(spread, model(**batch).logits)


def test_labels_are_kept_beside_the_weights(tmp_path: Path) -> None:
    names = ["contradiction", "neutral", "entailment"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    AlbefForImageTextRetrieval(tiny_config()).save_pretrained(tmp_path / "retrieval")
    model = AlbefForImageTextClassification.from_pretrained(tmp_path / "retrieval", **labels)
    assert model._lacks_head and model.classifier[2].out_features == 3
    model.train().save_pretrained(tmp_path / "classifier")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    assert isinstance(loaded, AlbefForImageTextClassification) and not loaded._lacks_head
    assert loaded.config.id2label == labels["id2label"] and loaded.config.label2id == labels["label2id"]
    torch.testing.assert_close(loaded(**inputs()).logits, model.eval()(**inputs()).logits)


def test_gradient_checkpointing_keeps_the_gradients() -> None:
    model = make_head(AlbefForImageTextClassification).train()
    labels = torch.tensor([0, 1, 0])
    found = []
    for turn in range(2):
        if turn:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**inputs(), labels=labels).loss.backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain)
