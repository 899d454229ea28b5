"""The models with other libraries, as the README shows them: the same scores by other means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import GOLDEN
from run_cases import readme_block, refused, write_config
from safetensors.torch import load_file
from small_models import save_retrieval

import run_retrieval
from modeling_albef import AlbefForImageTextRetrieval
from processing import AlbefProcessor

TEXTS = ["a red circle", "what is left of a blue square", "star"]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the README's lines start from."""
    monkeypatch.chdir(tmp_path)
    save_retrieval(Path("output/demo_retrieval"))
    model = AlbefForImageTextRetrieval.from_pretrained("output/demo_retrieval")
    return {"torch": torch, "model": model, "AlbefForImageTextRetrieval": AlbefForImageTextRetrieval}


@pytest.fixture
def inputs(names: dict[str, Any]) -> dict[str, torch.Tensor]:
    processor = AlbefProcessor.from_pretrained("output/demo_retrieval")
    return dict(processor(images=GOLDEN / "image.png", text=TEXTS, padding=True, return_tensors="pt"))


@torch.no_grad()
def difference(model: Any, names: dict[str, Any], inputs: dict[str, torch.Tensor]) -> float:
    """Largest difference of a matching logit, as a share of the spread of the logits."""
    expected = names["model"](**inputs).itm_logits
    found = model(**inputs).itm_logits.float()
    assert expected.std() > 0.01
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.slow
def test_compiled(names: dict[str, Any], inputs: dict[str, torch.Tensor]) -> None:
    exec(readme_block("torch.compile("), names)
    assert difference(names["compiled"], names, inputs) < 1e-4


@pytest.mark.slow
def test_compiled_training_is_the_same(names: dict[str, Any], tmp_path: Path) -> None:
    """Through the run script; the graphs are run without C++, which would take minutes."""
    changes: dict[str, Any] = {"model_config": None, "model_name_or_path": "output/demo_retrieval", "queue_size": 8}
    changes |= {"max_steps": 3, "eval_strategy": "no", "do_eval": False, "do_predict": False}
    for name, compiled in {"plain": {}, "compiled": {"torch_compile": True, "torch_compile_backend": "eager"}}.items():
        run_retrieval.main([write_config(tmp_path, **changes, **compiled, output_dir=name)])
    plain, compiled = (load_file(f"{name}/model.safetensors") for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    for weights in (plain, compiled):
        # the gradient of a key's bias is 0 but for rounding, of which Adam makes whole steps
        for name in list(weights):
            if name.endswith("key.bias"):
                del weights[name]
            elif name.endswith("qkv.bias"):
                query, _, value = weights[name].chunk(3)
                weights[name] = torch.cat([query, value])
    assert all(torch.allclose(value, compiled[name], atol=1e-4) for name, value in plain.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_eight_bits(names: dict[str, Any], inputs: dict[str, torch.Tensor]) -> None:
    exec(readme_block("quantize_dynamic"), names)
    assert 0 < difference(names["quantized"], names, inputs) < 0.5
    assert "DynamicQuantizedLinear" in repr(names["quantized"].itm_head)


def test_devices_shards_and_half_precision(names: dict[str, Any], inputs: dict[str, torch.Tensor]) -> None:
    exec(readme_block('device_map="auto"').replace("200MB", "100KB"), names)
    assert difference(names["spread"], names, inputs) == 0
    spread = AlbefForImageTextRetrieval.from_pretrained(
        "output/demo_retrieval", device_map="auto", max_memory={"cpu": 120_000}, offload_folder="offload"
    )
    assert set(spread.hf_device_map.values()) == {"cpu", "disk"} and difference(spread, names, inputs) == 0
    index = json.loads(Path("sharded/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert names["half"].dtype == torch.bfloat16 and 0 < difference(names["half"], names, inputs) < 0.5
    names["half"].save_pretrained("half")
    for dtype, expected in (("auto", torch.bfloat16), ("float16", torch.float16), (None, torch.float32)):
        given = {} if dtype is None else {"dtype": dtype}
        folder = "sharded" if dtype is None else "half"
        assert AlbefForImageTextRetrieval.from_pretrained(folder, **given).dtype == expected
    whole = AlbefForImageTextRetrieval.from_pretrained("sharded", image_size=48)
    assert whole.albef.vision_model.pos_embed.shape[1] == 1 + (48 // 16) ** 2  # the shard with the positions was found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx(names: dict[str, Any], inputs: dict[str, torch.Tensor], capfd: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    capfd.readouterr()
    exec(readme_block("export_onnx"), names)
    said = capfd.readouterr()
    assert "torchvision" not in said.err and "[torch.onnx]" not in said.out
    run = {path.stem: onnxruntime.InferenceSession(str(path)).run for path in names["files"]}
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    image_embeds, image_states = run["image_encoder"](None, {"pixel_values": arrays.pop("pixel_values")})
    text_embeds, text_states = run["text_encoder"](None, arrays)
    pairs = {"text_hidden_states": text_states, "attention_mask": arrays["attention_mask"]}
    (logits,) = run["matcher"](None, {**pairs, "image_hidden_states": image_states.repeat(len(TEXTS), axis=0)})
    with torch.no_grad():
        expected = names["model"](**inputs)
        exported = names["programs"]["image_encoder"][0].module()(inputs["pixel_values"])
    close = {"atol": 1e-4, "rtol": 0.0}
    torch.testing.assert_close(torch.tensor(logits), expected.itm_logits[0], **close)
    torch.testing.assert_close(torch.tensor(image_embeds), expected.image_embeds, **close)
    torch.testing.assert_close(torch.tensor(text_embeds), expected.text_embeds, **close)
    torch.testing.assert_close(exported[0], expected.image_embeds, **close)


def test_adapters_through_the_run_script(names: dict[str, Any], tmp_path: Path) -> None:
    """Only the adapters move, the teacher follows, the saved model is whole, and the adapter alone gives the same."""
    from peft import PeftModel

    changes: dict[str, Any] = {"model_config": None, "model_name_or_path": "output/demo_retrieval", "lora_rank": 2}
    changes |= {"queue_size": 8, "num_train_epochs": 2, "save_strategy": "epoch", "learning_rate": 1e-2}
    run_retrieval.main([write_config(tmp_path, **changes)])
    before = load_file("output/demo_retrieval/model.safetensors")
    after = load_file("out/model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    ends = ("qkv.weight", "query.weight", "value.weight", "_proj.weight", "itm_head.weight")
    assert moved and all(name.endswith(ends) for name in moved)
    last = max(Path("out").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    teacher, student = (load_file(folder / "model.safetensors") for folder in (last / "teacher", last))
    name = "albef.text_model.encoder.layer.0.attention.self.query.lora_B.default.weight"
    assert 0 < teacher[name].abs().max() < student[name].abs().max()  # it started at zero and follows
    own = AlbefForImageTextRetrieval.from_pretrained("output/demo_retrieval")
    adapted = PeftModel.from_pretrained(own, "out/adapter").merge_and_unload().state_dict()
    assert all(torch.allclose(value, adapted[name], atol=1e-6) for name, value in after.items())


def test_adapters_that_cannot_be_are_refused(names: dict[str, Any], tmp_path: Path) -> None:
    changes = {"model_config": None, "model_name_or_path": "output/demo_retrieval", "queue_size": 8}
    config = write_config(tmp_path, **changes, lora_rank=2, lora_targets=["querry"])
    assert "lora_targets has querry, of which the model has none" in refused(run_retrieval.main, [config])
    config = write_config(tmp_path, **changes, lora_rank=10**12)
    assert "lora_rank 1000000000000 cannot be used" in refused(run_retrieval.main, [config])
