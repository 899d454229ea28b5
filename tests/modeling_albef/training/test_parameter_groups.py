"""Parts of a model that are not trained, and parts with rates of their own."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import tiny_config
from torch import nn
from trainer_cases import make_trainer
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import SettingError
from modeling_albef.training.parameter_groups import matching_names, parse_rates, rates_of


def moved(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Each weight's step of plain gradient descent: the rate times the gradient."""
    trainer = make_trainer(folder, optim="sgd", weight_decay=0.0, max_steps=1, max_temperature=10.0, **changes)
    start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    return {name: value.detach() - start[name] for name, value in trainer.model.named_parameters()}


def test_frozen_parts_stay_and_others_move_at_their_rates(tmp_path: Path) -> None:
    plain = moved(tmp_path / "plain", learning_rate=0.5)
    rates = "text_model=0.25, *crossattention*=1.0"
    changed = moved(tmp_path / "changed", learning_rate=0.5, freeze=["vision_model"], learning_rates=rates)
    seen = set()
    for name, step in plain.items():
        factor = 0.0 if ".vision_model." in name else 1.0
        if ".text_model." in name:
            factor = 2.0 if ".crossattention." in name else 0.5
        torch.testing.assert_close(changed[name], factor * step, atol=1e-6, rtol=1e-4, msg=name)
        seen |= {factor} if step.abs().max() > 1e-4 else set()
    assert seen == {0.0, 0.5, 1.0, 2.0}


def test_frozen_parts_get_no_gradients_and_no_optimizer_state(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, freeze=["vision_model", "*word_embeddings*"], max_steps=1)
    trainer.train()
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        is_frozen = ".vision_model." in name or "word_embeddings" in name
        assert parameter.requires_grad != is_frozen and (id(parameter) in trained) != is_frozen, name
    teacher, student = dict(trainer.teacher.model.named_parameters()), dict(trainer.model.named_parameters())
    assert all(torch.equal(teacher[name], value) for name, value in student.items() if ".vision_model." in name)


def test_resume_is_bit_identical(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "freeze": ["vision_model"],
        "learning_rates": {"text_proj": 1e-2, "*crossattention*": 1e-3},
        "max_steps": 4,
        "save_steps": 2,
        "save_strategy": "steps",
    }
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    pairs = zip(whole.teacher.model.parameters(), resumed.teacher.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_published_schedule_scales_every_rate(tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-3, "min_learning_rate": 1e-4, "num_train_epochs": 2}
    trainer = make_trainer(tmp_path, learning_rates={"itm_head": 1e-2}, **settings)
    trainer.train()
    lowest = 1e-4 + 0.5 * 9e-4  # half of the cosine
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert max(rates) == pytest.approx(10 * min(rates)) and min(rates) <= lowest + 1e-9


def _from_encoders() -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    vit = ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8))
    return AlbefForImageTextRetrieval.from_encoders(vit, BertModel(BertConfig(**sizes, vocab_size=20)))


def test_new_parts_learn_ten_times_faster_by_default() -> None:
    model = _from_encoders()
    rates = rates_of(model, 1e-5)
    for name, rate in rates.items():
        is_new = not re.search("vision_model|text_model", name) or "crossattention" in name
        assert rate == pytest.approx(1e-4 if is_new else 1e-5), name
    assert set(rates_of(model, 1e-5, {"new": 1e-5}).values()) == {1e-5}
    assert set(rates_of(AlbefForImageTextRetrieval(tiny_config()), 1e-5).values()) == {1e-5}


def test_the_last_pattern_counts_and_layer_decay_beside_it() -> None:
    model = AlbefForImageTextRetrieval(tiny_config())
    rates = rates_of(model, 1.0, {"*": 2.0, "vision_model": 3.0, "vision_model.norm": 4.0}, layer_decay=0.5)
    layers = tiny_config().vision_config.num_hidden_layers
    assert rates["albef.vision_model.norm.weight"] == 4.0
    assert rates["albef.vision_model.blocks.0.norm1.weight"] == 3.0 * 0.5**layers
    assert rates["itm_head.weight"] == 2.0


@pytest.mark.parametrize(
    ("pattern", "test"),
    [
        ("vision_model", lambda name: ".vision_model." in f".{name}"),
        ("encoder.layer.1", lambda name: ".encoder.layer.1." in name),
        ("itm_head.weight", lambda name: name == "itm_head.weight"),
        ("*.query.?????", lambda name: fnmatchcase(name, "*.query.?????")),
        ("vision", lambda name: False),
        ("layer.1.", lambda name: False),
    ],
)
def test_patterns(pattern: str, test: Any) -> None:
    model: nn.Module = AlbefForImageTextRetrieval(tiny_config())
    assert matching_names(model, pattern) == [name for name, _ in model.named_parameters() if test(name)]


@pytest.mark.parametrize(
    ("value", "rates"),
    [
        ("vision_model=1e-5, *crossattention*=1e-3", {"vision_model": 1e-5, "*crossattention*": 1e-3}),
        ("a=1e-5,b=0", {"a": 1e-5, "b": 0.0}),
        ("a=1 b=2,", {"a": 1.0, "b": 2.0}),
        ({"a": "1e-5"}, {"a": 1e-5}),
    ],
)
def test_rates_are_read(value: Any, rates: dict[str, float]) -> None:
    assert parse_rates(value) == rates


@pytest.mark.parametrize(
    "value", ["vision_model", "a=", "=1", "a=b", "a=-1", "a=nan", "a=inf", {"a": None}, {"a": True, "b": "x"}]
)
def test_wrong_rates_are_refused(value: Any) -> None:
    with pytest.raises(SettingError, match="learning_rates"):
        parse_rates(value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"freeze": ["vison_model"]}, ["freeze has 'vison_model'", " vision_model,"]),
        ({"freeze": ["*"]}, ["freeze is *", "nothing to train"]),
        ({"freeze": ["new"]}, ["new", "does not start from encoders"]),
    ],
)
def test_parts_that_do_not_exist_are_refused(changes: Any, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        make_trainer(tmp_path, **changes)
    assert all(word in str(caught.value) for word in words)


def test_rates_of_parts_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, learning_rates={"vison_model": 1.0})
    with pytest.raises(SettingError, match="learning_rates has 'vison_model'"):
        trainer.train()
