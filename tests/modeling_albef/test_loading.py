"""Loading as the library does, and the refusal of what would silently be another model than was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import tiny_config
from run_cases import refused, write_config
from safetensors.torch import load_file, save_file
from small_models import save_pretraining, save_retrieval, save_vqa
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForZeroShotImageClassification,
    BertConfig,
    BertModel,
    ViTConfig,
    ViTModel,
    pipeline,
)

import run_retrieval
import run_vqa
from modeling_albef import (
    AlbefConfig,
    AlbefError,
    AlbefForImageTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefModel,
    AlbefTextConfig,
    AlbefTextDecoder,
    AlbefTextModel,
    AlbefVisionConfig,
    AlbefVisionModel,
)
from modeling_albef.hub_albef import check_model_name, load_model
from modeling_albef.modeling_albef_vision import interpolate_position_embeddings
from modeling_albef.training.application import ModelArguments
from modeling_albef.training.application import load_model as load_for_training
from processing import AlbefProcessor

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
HEADS = (
    AlbefModel,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForImageTextClassification,
)
PARTS = (AlbefVisionModel, AlbefTextModel, AlbefTextDecoder)
make_pipeline: Any = pipeline  # whose overloads know the library's own tasks alone


@pytest.fixture(scope="module", params=["bert", "vit"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder with another model of the library, and its type."""
    folder = tmp_path_factory.mktemp(request.param)
    model: Any = (
        BertModel(BertConfig(**SMALL, vocab_size=60)) if request.param == "bert" else ViTModel(ViTConfig(**SMALL))
    )
    model.save_pretrained(folder)
    return request.param, folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a model of each task."""
    folders = {}
    for task, save in (("retrieval", save_retrieval), ("vqa", save_vqa), ("pretraining", save_pretraining)):
        folders[task] = tmp_path_factory.mktemp(task)
        save(folders[task])
    return folders


def without(folder: Path, target: Path, *parts: str) -> Path:
    """A copy of a folder whose weights lack every name with one of these parts."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not any(part in name for part in parts)}
    assert len(kept) < len(weights)
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("loaded", [*HEADS, *PARTS, AlbefConfig, AlbefVisionConfig, AlbefTextConfig])
def test_another_model_is_refused_by_its_type(loaded: Any, foreign: tuple[str, Path]) -> None:
    kind, folder = foreign
    with pytest.raises(AlbefError, match=f"is of the type '{kind}', not 'albef") as error:
        loaded.from_pretrained(folder)
    assert str(folder) in str(error.value)


def test_whoever_loads_a_model_refuses_another(foreign: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = foreign
    message = f"is of the type '{kind}', not 'albef'"
    with pytest.raises(AlbefError, match=message):
        check_model_name(str(folder))
    with pytest.raises(AlbefError, match=message):
        load_model(AlbefForImageTextRetrieval, str(folder))
    with pytest.raises(AlbefError, match=message):
        load_for_training(AlbefForQuestionAnswering, ModelArguments(str(folder)), tokenizer=[])
    for task in ("albef-vqa", "image-text-retrieval"):
        with pytest.raises(AlbefError, match=message):
            make_pipeline(task, model=str(folder))
    for run in (run_retrieval, run_vqa):
        given = {"model_config": None, "model_name_or_path": str(folder), "output_dir": str(tmp_path / "out")}
        assert message in refused(run.main, [write_config(tmp_path, **given)])
    with pytest.raises(AlbefError, match=f"of the type '{kind}'"):
        AlbefConfig.from_dict(AutoConfig.from_pretrained(folder).to_dict())
    with pytest.raises(AlbefError, match=rf"config is a \w+ \(of the type '{kind}'\), but AlbefModel needs"):
        AlbefModel.from_pretrained(folder, config=AutoConfig.from_pretrained(folder))
    with pytest.raises(AlbefError, match="has no weights of the vision tower"):
        AlbefModel.from_pretrained(folder, config=tiny_config())
    with pytest.raises(AlbefError, match=f"The configuration for text_config is of the type '{kind}'"):
        AlbefConfig(text_config=AutoConfig.from_pretrained(folder))


def test_a_folder_without_a_type_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(saved["retrieval"], tmp_path / "old")
    (tmp_path / "old" / "config.json").write_text('{"hidden_size": 24}')
    with pytest.raises(AlbefError, match="is of the type None, not 'albef'"):
        AlbefModel.from_pretrained(tmp_path / "old")


@pytest.mark.parametrize("tower", ["vision", "text"])
@pytest.mark.parametrize("task", ["retrieval", "vqa", "pretraining"])
def test_a_checkpoint_without_a_tower_is_refused(saved: dict[str, Path], tmp_path: Path, tower: str, task: str) -> None:
    # the embeddings alone are no tower
    parts = ("vision_model.blocks.",) if tower == "vision" else ("text_model.",)
    folder = without(saved[task], tmp_path / "lame", *parts)
    loaders = (*HEADS, AutoModel, AutoModelForImageTextToText, AutoModelForZeroShotImageClassification)
    for loader in loaders:
        with pytest.raises(AlbefError, match=f"lame' has no weights of the {tower} tower"):
            loader.from_pretrained(folder)
    pipelines = {"vqa": "albef-vqa", "retrieval": "image-text-retrieval"}
    if task in pipelines:
        with pytest.raises(ValueError, match=f"has no weights of the {tower} tower"):
            make_pipeline(pipelines[task], model=str(folder))
    part = AlbefVisionModel if tower == "vision" else AlbefTextModel
    with pytest.raises(AlbefError, match=f"has no weights of the {tower} tower"):
        part.from_pretrained(folder)


def test_a_decoder_starts_from_fusion_layers_or_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = without(saved["vqa"], tmp_path / "lame", "text_decoder.layer.")
    model = AlbefForQuestionAnswering.from_pretrained(folder)
    fusion = model.albef.text_model.encoder.fusion_layers
    for layer, source in zip(model.text_decoder.layer, fusion, strict=True):
        assert torch.equal(layer.attention.self.query.weight, source.attention.self.query.weight)
    for change in ({"num_hidden_layers": 5}, {"intermediate_size": 8}):
        (name, value), *_ = change.items()
        config = AlbefConfig.from_pretrained(folder, decoder_config=change)
        with pytest.raises(AlbefError, match=rf"has no answer decoder, .*\({name} {value} for \d+\)"):
            AlbefForQuestionAnswering.from_pretrained(folder, config=config)
    with pytest.raises(AlbefError, match="has no decoder_config"):
        AlbefTextDecoder.from_pretrained(saved["retrieval"])


def test_a_missing_head_is_a_start_for_fine_tuning(saved: dict[str, Path]) -> None:
    """The library's warning, not an error; only who answers or searches refuses it."""
    model, info = AlbefForImageTextRetrieval.from_pretrained(saved["vqa"], output_loading_info=True)
    assert "itm_head.weight" in info["missing_keys"]
    processor = AlbefProcessor.from_pretrained(saved["vqa"])
    search = make_pipeline("image-text-retrieval", model=model, processor=processor)
    search.index_texts(["a blue circle"])
    with pytest.raises(AlbefError, match="has no matching head"):
        search(image="photo.jpg")
    model.train()
    answer = make_pipeline("albef-vqa", model=AlbefModel.from_pretrained(saved["vqa"]), processor=processor)
    with pytest.raises(AlbefError, match=r"of the type AlbefModel, which has no rank_answers\(\)"):
        answer(image="photo.jpg", question="what?")
    beside = make_pipeline("albef-vqa", model=AlbefForQuestionAnswering.from_pretrained(saved["vqa"])).processor
    assert beside.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


@pytest.mark.parametrize("task", ["retrieval", "vqa", "pretraining"])
def test_a_tower_is_loaded_from_a_whole_model(saved: dict[str, Path], task: str, tmp_path: Path) -> None:
    whole = AlbefModel.from_pretrained(saved[task])
    for part, ours in ((AlbefVisionModel, whole.vision_model), (AlbefTextModel, whole.text_model)):
        tower = part.from_pretrained(saved[task])
        tower.save_pretrained(tmp_path / part.__name__)
        names = set(load_file(tmp_path / part.__name__ / "model.safetensors"))
        assert names == set(ours.state_dict())
        for name, tensor in part.from_pretrained(tmp_path / part.__name__).state_dict().items():
            assert torch.equal(tensor, ours.state_dict()[name]), name


@pytest.mark.parametrize("shards", ["10KB", "50GB"])
@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_positions_are_resampled_however_the_size_is_given(
    saved: dict[str, Path], task: str, shards: str, tmp_path: Path
) -> None:
    model_class = AlbefForImageTextRetrieval if task == "retrieval" else AlbefForQuestionAnswering
    stored = model_class.from_pretrained(saved[task])
    stored.save_pretrained(tmp_path / "stored", max_shard_size=shards)
    expected = interpolate_position_embeddings(stored.albef.vision_model.pos_embed.data, 9)
    config = AlbefConfig.from_pretrained(tmp_path / "stored", image_size=48)
    assert config.vision_config.image_size == 48 and "image_size" not in config.to_dict()
    ways: list[dict[str, Any]] = [
        {"image_size": 48},
        {"vision_config": {"image_size": 48}},
        {"config": config},
        {"config": AlbefConfig.from_pretrained(tmp_path / "stored"), "image_size": 48},
    ]
    state = dict(stored.state_dict())
    loaded = [model_class.from_pretrained(tmp_path / "stored", **way) for way in ways]
    loaded.append(model_class.from_pretrained(None, config=config, state_dict=state))
    for model in loaded:
        assert model.config.vision_config.image_size == model.albef.vision_model.config.image_size == 48
        torch.testing.assert_close(model.albef.vision_model.pos_embed.data, expected, atol=0, rtol=0)
    half = model_class.from_pretrained(tmp_path / "stored", image_size=48, dtype=torch.bfloat16)
    assert half.albef.vision_model.pos_embed.dtype == torch.bfloat16
    torch.testing.assert_close(half.albef.vision_model.pos_embed.float(), expected, atol=0.02, rtol=0)
    loaded[0].save_pretrained(tmp_path / "resampled")
    again = model_class.from_pretrained(tmp_path / "resampled")
    assert torch.equal(again.albef.vision_model.pos_embed, loaded[0].albef.vision_model.pos_embed)
    assert ways[3]["config"].image_size == 32  # what was handed in stays as it is
    tower = AlbefVisionModel.from_pretrained(tmp_path / "stored", image_size=48)
    assert torch.equal(tower.pos_embed, loaded[0].albef.vision_model.pos_embed)


def test_a_wrong_image_size_is_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(AlbefError, match=r"image_size is 50, but must be a multiple of patch_size \(16\)"):
        AlbefModel.from_pretrained(saved["retrieval"], image_size=50)
    with pytest.raises(AlbefError, match="image_size"):
        AlbefModel.from_pretrained(saved["retrieval"], image_size="large")
    assert AlbefModel.from_pretrained(saved["retrieval"], image_size=None).config.image_size == 32


def test_a_wrong_value_of_the_configuration_names_the_model(saved: dict[str, Path], tmp_path: Path) -> None:
    """Where there is a folder; a model from scratch has none."""
    shutil.copytree(saved["retrieval"], tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "projection_dim": 0}))
    with pytest.raises(AlbefError, match="projection_dim is 0") as found:
        AlbefForImageTextRetrieval.from_pretrained(tmp_path / "model")
    assert str(tmp_path / "model") in str(found.value)
    with pytest.raises(AlbefError, match=r"^projection_dim is 0"):
        AlbefForImageTextRetrieval.from_pretrained(None, config=str(tmp_path / "model"))


def test_half_a_surrogate_pair_in_a_configuration_can_be_printed(saved: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(saved["retrieval"], tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "\ud800"}))
    with pytest.raises(AlbefError, match=r"The model in .* cannot be used: .*ud800") as error:
        AlbefForImageTextRetrieval.from_pretrained(tmp_path / "model")
    assert str(error.value).encode()


def test_parts_of_the_configuration_may_be_changed_by_mappings(saved: dict[str, Path]) -> None:
    decoder = {"num_hidden_layers": 1, "num_fusion_layers": 1}
    changed = {"text_config": {"hidden_dropout_prob": 0.5}, "decoder_config": decoder}
    model = AlbefForQuestionAnswering.from_pretrained(saved["vqa"], attn_implementation="eager", **changed)
    config, layers = model.albef.text_model.config, model.text_decoder.layer
    assert config.hidden_dropout_prob == 0.5 and config._attn_implementation == "eager" and len(layers) == 1
    assert config.hidden_size == 16 and model.config.decoder_config.hidden_size == 16  # the others stay as they are


@pytest.mark.parametrize(
    ("model_class", "start", "new"),
    [
        (AlbefForQuestionAnswering, "retrieval", "answer decoder"),
        (AlbefForImageTextRetrieval, "vqa", "projections, matching head"),
        (AlbefForPreTraining, "retrieval", "masked-language head"),
        (AlbefForImageTextRetrieval, "retrieval", None),
        (AlbefModel, "retrieval", None),
    ],
)
def test_a_checkpoint_of_another_task_is_said_in_a_sentence(
    model_class: Any, start: str, new: str | None, saved: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """In place of the library's table, and of its guess that the checkpoint is corrupted."""
    _, info = model_class.from_pretrained(saved[start], output_loading_info=True)
    said = caplog.messages
    if new is None:
        assert said == []
    else:
        assert info["missing_keys"] and len(said) == 1 and said[0].endswith(f"New, to be trained: {new}.")


def test_a_part_that_is_not_whole_keeps_the_table(
    saved: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = without(saved["vqa"], tmp_path / "damaged", "text_decoder.head.dense")
    AlbefForQuestionAnswering.from_pretrained(folder)
    said = "".join(caplog.messages)
    assert "text_decoder.head.dense.weight" in said and "MISSING" in said and "of another task" not in said
