"""Classifiers of one image and of two as ONNX graphs: the same logits, for other numbers and lengths of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from classification_cases import make_classifier

from modeling_albef import AlbefError, AlbefForQuestionAnswering, AlbefForVisualReasoning
from modeling_albef.conversion.export_albef_to_onnx import export_parts, main


def make_model(images: int) -> Any:
    model = make_classifier().eval()
    torch.manual_seed(0)
    return model if images == 1 else AlbefForVisualReasoning(model.config).eval()


def inputs_of(model: Any, rows: int, length: int) -> dict[str, torch.Tensor]:
    vision, count = model.config.vision_config, model.config.text_config.images_per_text
    shape = (rows, *([count] if count > 1 else ()), vision.num_channels, vision.image_size, vision.image_size)
    ids = torch.randint(5, 20, (rows, length))
    mask = torch.ones_like(ids)
    mask[-1, length - 1 :] = 0
    return {"pixel_values": torch.randn(shape), "input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("images", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_program_gives_the_logits_of_the_model(images: int) -> None:
    model = make_model(images)
    parts = export_parts(model)
    assert list(parts) == ["classifier"] and parts["classifier"].outputs == ["logits"]
    for rows, length in ((1, 4), (3, 9)):
        inputs = inputs_of(model, rows, length)
        with torch.no_grad():
            found = parts["classifier"].program.module()(*inputs.values())
            torch.testing.assert_close(found, model(**inputs).logits, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("images", [1, 2])
def test_the_command_writes_what_onnxruntime_reads(images: int, tmp_path: Path) -> None:
    import onnxruntime

    model = make_model(images)
    model.save_pretrained(tmp_path / "model")
    main([str(tmp_path / "model"), str(tmp_path / "onnx")])
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx/classifier.onnx"))
    inputs = inputs_of(model, 3, 9)
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(found), model(**inputs).logits, atol=1e-4, rtol=0)


def test_a_model_of_another_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AlbefForQuestionAnswering(make_model(1).config).save_pretrained(tmp_path)
    with pytest.raises((AlbefError, SystemExit), match="has no matching head"):
        main([str(tmp_path), str(tmp_path / "onnx")])
