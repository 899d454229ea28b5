"""Learning rates that fall layer by layer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from golden_cases import tiny_config
from trainer_cases import logged, make_trainer, weights

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.training import PublishedSchedule, SettingError, last_checkpoint
from modeling_albef.training.parameter_groups import rate_factors

DECAY = 0.5


def expected_factor(name: str, vision_layers: int, text_layers: int) -> float:
    """By hand: the last layer has one factor, each layer below one more, the embeddings one more than the first."""
    below_top = {"vision": vision_layers, "text": text_layers}
    tower = re.match(r"albef\.(vision|text)_model\.", name)
    if tower is None or name.startswith("albef.vision_model.norm."):
        return 1.0
    layer = re.search(r"\.(?:blocks|layer)\.(\d+)\.", name)
    return DECAY ** (below_top[tower[1]] - (-1 if layer is None else int(layer[1])))


def moved(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    trainer = make_trainer(folder, optim="sgd", learning_rate=0.5, weight_decay=0.0, max_steps=1, **changes)
    start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    return {name: value.detach() - start[name] for name, value in trainer.model.named_parameters()}


def test_a_step_of_each_layer_has_its_rate(tmp_path: Path) -> None:
    """The first step of gradient descent moves each weight by rate times gradient, and the gradients are the same."""
    plain = moved(tmp_path / "plain", max_temperature=10.0)
    decayed = moved(tmp_path / "decayed", max_temperature=10.0, layer_decay=DECAY)
    config, seen = tiny_config(), set()
    for name, step in plain.items():
        factor = expected_factor(name, config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers)
        torch.testing.assert_close(decayed[name], factor * step, atol=1e-6, rtol=1e-4, msg=name)
        seen |= {factor} if step.abs().max() > 1e-4 else set()
    assert len(seen) > 3 and {1.0, DECAY} <= seen


@pytest.mark.parametrize("model_class", [AlbefForImageTextRetrieval, AlbefForQuestionAnswering])
def test_factors_of_all_heads(model_class: type) -> None:
    config = tiny_config()
    factors = rate_factors(model_class(config), DECAY)
    layers = config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers
    assert factors == {name: expected_factor(name, *layers) for name in factors}
    assert min(factors.values()) == DECAY ** (max(layers) + 1)


def test_the_published_schedule_scales_every_rate(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, layer_decay=DECAY, min_learning_rate=1e-4, save_strategy="no")
    trainer.train()
    schedule = PublishedSchedule(1e-3, 1e-4, 1e-5, 0, steps_per_epoch=4, num_epochs=2)
    assert [line["learning_rate"] for line in logged(trainer)] == pytest.approx([schedule(step) for step in range(8)])
    factors = rate_factors(trainer.model, DECAY)
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups, last = trainer.optimizer.param_groups, schedule(8)
    rates = {names[one]: (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]}
    assert {name: rate for name, (rate, _) in rates.items()} == pytest.approx({n: last * f for n, f in factors.items()})
    decays = set(trainer.get_decay_parameter_names(trainer.model))
    assert all((decay > 0) is (name in decays) for name, (_, decay) in rates.items())


def test_resume_is_exact_with_a_rate_for_each_layer(tmp_path: Path) -> None:
    options = {"layer_decay": DECAY, "save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path / "whole", **options).train()
    shutil.copytree(tmp_path / "whole/checkpoint-3", tmp_path / "again/checkpoint-3")
    make_trainer(tmp_path / "again", **options).train(resume_from_checkpoint=last_checkpoint(tmp_path / "again"))
    expected, found = weights(tmp_path / "whole/checkpoint-8"), weights(tmp_path / "again/checkpoint-8")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_decay_that_cannot_be(value: float, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"layer_decay is {value}, but must be above 0 and at most 1"):
        make_trainer(tmp_path, layer_decay=value)
