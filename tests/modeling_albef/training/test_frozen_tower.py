"""What a frozen vision tower spares, and a training without the matching head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import tiny_config
from PIL import Image
from small_models import save_retrieval
from trainer_cases import logged, make_trainer

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import SettingError
from modeling_albef.training.application import DataArguments, image_store
from modeling_albef.training.evaluation.retrieval import RetrievalEvaluator
from processing import AlbefProcessor


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def count_calls(tower: torch.nn.Module) -> list[int]:
    """Images of every call of a tower from now on."""
    calls: list[int] = []
    tower.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    return calls


def test_without_the_matching_loss_the_head_is_neither_run_nor_trained(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, itm_weight=0, weight_decay=0.5)
    before, fused = weights(trainer.model), count_calls(trainer.model.itm_head)
    trainer.train()
    after = weights(trainer.model)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    start = trainer.model.config.text_config.num_text_layers
    served = {name for name in after if name.startswith("itm_head") or "crossattention" in name}
    served |= {name for name in after if f"text_model.encoder.layer.{start}." in name}
    assert served and not served & changed and not fused
    assert any("text_model" in name for name in changed) and any("vision_model" in name for name in changed)
    for line in logged(trainer):
        assert line["loss"] == pytest.approx(line["itc_loss"], abs=1e-4) and "itm_loss" not in line
    assert trainer.model.config.rerank_weight == 0 and trainer.rerank == "never"


def test_weight_of_the_matching_loss(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, itm_weight=0.25, max_steps=3)
    trainer.train()
    for line in logged(trainer):
        assert line["loss"] == pytest.approx(line["itc_loss"] + 0.25 * line["itm_loss"], abs=2e-4)
    assert trainer.model.config.rerank_weight is None  # as published


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="rerank is always, but itm_weight is 0"):
        make_trainer(tmp_path, itm_weight=0, rerank="always")
    with pytest.raises(SettingError, match="itm_weight is -1"):
        make_trainer(tmp_path, itm_weight=-1)


@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_teacher_and_student_share_the_states_of_a_frozen_tower(attention_dropout: float, tmp_path: Path) -> None:
    losses, images = [], []
    for shares in (True, False):
        torch.manual_seed(0)
        model = AlbefForImageTextRetrieval(tiny_config())
        trainer = make_trainer(tmp_path / str(shares), model, freeze=["vision_model"], max_steps=4)
        model.albef.vision_model.config.attention_dropout = attention_dropout
        if not shares:
            trainer.share_image_states = lambda model, inputs: inputs  # type: ignore[method-assign]
        calls = [count_calls(one.albef.vision_model) for one in (trainer.model, trainer.teacher.model)]
        trainer.train()
        losses.append([line["loss"] for line in logged(trainer)])
        images.append([sum(one) for one in calls])
    assert images[1] == [16, 16]
    assert images[0] == ([16, 16] if attention_dropout else [16, 0])
    assert losses[0] == losses[1]


def test_a_trained_tower_or_another_teacher_is_not_shared(tmp_path: Path) -> None:
    trained = make_trainer(tmp_path / "a", max_steps=1)
    calls = count_calls(trained.teacher.model.albef.vision_model)
    trained.train()
    assert sum(calls) == 4
    other = make_trainer(tmp_path / "b", freeze=["vision_model"], max_steps=1)
    with torch.no_grad():
        other.teacher.model.albef.vision_model.cls_token.add_(1)
    calls = count_calls(other.teacher.model.albef.vision_model)
    other.train()
    assert sum(calls) == 4


def test_an_evaluation_reads_stored_states(tmp_path: Path) -> None:
    """The tower runs once an image: in the first evaluation, and for the images that came since."""
    save_retrieval(tmp_path / "model")
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "model")
    processor = AlbefProcessor.from_pretrained(tmp_path / "model")
    rows = []
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        caption = [f"a {word} circle" for word in ("red", "blue", "green")[: 1 + number % 3]]
        rows.append({"image": {"path": str(tmp_path / f"{number}.png"), "bytes": None}, "caption": caption})
    args = make_trainer(tmp_path / "out", freeze=["vision_model"]).args
    data_args = DataArguments(
        store_image_states=True, image_state_dir=str(tmp_path / "states"), image_state_dtype="float32"
    )
    store = image_store(data_args, args, model, processor)
    plain = RetrievalEvaluator(model, processor, k_test=5)(rows)
    calls = count_calls(model.albef.vision_model)
    first = RetrievalEvaluator(model, processor, k_test=5, image_store=store)(rows[:6])
    again = RetrievalEvaluator(model, processor, k_test=5, image_store=store, image_memory=0)(rows)
    assert sum(calls) == 9 and len(first.captions) == 12
    assert again.metrics == plain.metrics
    torch.testing.assert_close(again.image_to_text.scores, plain.image_to_text.scores, atol=1e-5, rtol=1e-5)
    data_args.store_image_states = False
    assert image_store(data_args, args, model, processor) is None
