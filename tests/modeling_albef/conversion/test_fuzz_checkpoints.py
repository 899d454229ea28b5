"""Any checkpoint file is read or refused by a sentence that names it; no code of it runs, nothing is half written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from fuzz_cases import COUNTS, VALUES, damaged, fuzz, mostly
from safetensors.torch import save
from transformers.utils import logging

from modeling_albef import AlbefConfig, AlbefError, AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.conversion.checkpoint_names import OWN, ConvertedCheckpoint, restore_state_dict
from modeling_albef.conversion.convert_albef_to_hf import main
from modeling_albef.training import FeatureQueue, MomentumTeacher, last_checkpoint
from modeling_albef.training.application import ModelArguments, load_model, load_saved_queue
from processing import build_tokenizer

TOWER = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
QUEUE_SIZE, WIDTH = 3, 4
TRACE = "trace"  # a file that code in a checkpoint would write into the working folder


class Foreign:
    """Unpickling it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (TRACE,)


@cache
def vocabulary() -> Any:
    return build_tokenizer(["a"])


@cache
def network(task: str) -> Any:
    config = AlbefConfig(
        vision_config={**TOWER, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4},
        text_config={
            **TOWER,
            "num_fusion_layers": 1,
            "vocab_size": len(vocabulary()),
            "max_position_embeddings": 6,
        },
        projection_dim=WIDTH,
    )
    torch.manual_seed(0)
    return (AlbefForQuestionAnswering if task == "vqa" else AlbefForImageTextRetrieval)(config).eval()


@cache
def state(task: str, layout: str) -> dict[str, torch.Tensor]:
    """Weights of a small model by the names of this package or of the original, with twin and queue."""
    own = {name: tensor.clone() for name, tensor in network(task).state_dict().items()}
    if layout == OWN:
        return own
    queue = FeatureQueue(QUEUE_SIZE, WIDTH).state_dict() if task == "retrieval" else {}
    twin = own if task == "retrieval" else {}
    return restore_state_dict(ConvertedCheckpoint(student=own, teacher=twin, queue=queue))


OTHER_TENSORS = st.sampled_from(
    [
        *(torch.ones(()), torch.ones(1), torch.ones(0), torch.ones(8), torch.ones(8, 8), torch.ones(1, 5, 8)),
        *(torch.ones(8, dtype=torch.int64), torch.ones(8, dtype=torch.bool), torch.ones(8, dtype=torch.complex64)),
        *(
            torch.ones(8, dtype=torch.bfloat16),
            torch.full((8,), float("nan")),
            torch.ones(1, 0, 8),
            torch.ones(1, 17, 8),
        ),
        *(torch.ones(2, 2, 3, 4, 5), torch.ones(8).to_sparse(), torch.ones(1).expand(8, 8)),
        *(torch.empty(8, device="meta"), torch.ones(8, dtype=torch.float64), torch.zeros(8, 3, 4, 4)),
        *(torch.nn.Parameter(torch.ones(8, 8))),
    ]
)
OTHER_NAMES = st.sampled_from(
    [
        *(
            "prompt",
            "",
            "a.b",
            "itm_head.weight",
            "temp",
            "module.temp",
            "cls_head.0.bias",
            "text_decoder.bert.x",
            "\0",
        ),
        *(
            "visual_encoder.blocks.7.norm1.bias",
            "text_encoder.encoder.layer.99999999.x",
            "text_encoder.encoder.layer.5.x",
        ),
        *("visual_encoder.blocks.99999999999.x", "image_queue", "text_queue", "idx_queue", "queue_ptr", "x" * 300),
        *("albef.text_model.encoder.layer.50000.crossattention.x", "text_decoder.bert.encoder.layer.123456.x"),
        *(
            "text_encoder.embeddings.word_embeddings.weight",
            "visual_encoder.pos_embed",
            "text_encoder.cls.predictions.x",
        ),
        *("vision_encoder.encoder.conv_proj.weight", "multimodal_encoder.layer.0.x", "albef.vision_model.x", "queue.x"),
    ]
)


@st.composite
def changed_states(draw: st.DrawFn) -> dict[Any, Any]:
    """A state dict in which tensors are missing, of other shapes and types, or have other names."""
    task, layout = draw(st.sampled_from(["retrieval", "vqa"])), draw(st.sampled_from([OWN, "salesforce"]))
    tensors: dict[Any, Any] = dict(state(task, layout))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        name, change = draw(st.sampled_from(sorted(tensors))), draw(st.sampled_from(["drop", "set", "rename", "add"]))
        if change == "drop":
            del tensors[name]
        elif change == "set":
            tensors[name] = draw(OTHER_TENSORS)
        elif change == "rename":
            tensors[draw(OTHER_NAMES)] = tensors.pop(name)
        else:
            tensors[draw(OTHER_NAMES)] = draw(OTHER_TENSORS)
    return tensors


@st.composite
def torch_files(draw: st.DrawFn) -> bytes:
    tensors = draw(changed_states())
    if draw(st.integers(0, 9)) == 0:
        tensors = {**tensors, draw(st.sampled_from([1, None, (1, 2), 2.5, "extra"])): draw(VALUES)}
    content: Any = draw(st.sampled_from([tensors, {"model": tensors}, {"state_dict": {"model": tensors}, "epoch": 3}]))
    odd = draw(st.integers(0, 19))
    if odd == 0:
        content = draw(st.one_of(VALUES, st.just([tensors]), st.just({"model": {"model": {}}}), st.just(torch.ones(2))))
    elif odd == 1:
        content = {
            "model": tensors,
            "other": draw(st.sampled_from([Foreign(), [Foreign()], {"a": os.getcwd}, {1j: 2}])),
        }
    elif odd == 2:
        content = {"model": {}}
        content["model"]["model"] = content["model"]  # within itself
    stream = io.BytesIO()
    try:
        torch.save(content, stream, _use_new_zipfile_serialization=draw(st.booleans()))
    except (UnicodeEncodeError, NotImplementedError, RuntimeError):
        return b""
    data = stream.getvalue()
    if draw(st.integers(0, 3)) == 0:
        data = draw(other_archive(data))
    return draw(damaged(data, most=draw(st.sampled_from([0, 0, 2]))))


@st.composite
def other_archive(draw: st.DrawFn, data: bytes) -> bytes:
    """The archive with a part that is damaged, foreign, compressed, missing, twice there, or of many zeros."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return pickle.dumps(Foreign(), protocol=draw(st.integers(0, 5))) if draw(st.booleans()) else data
    stream, change = io.BytesIO(), draw(st.sampled_from(["pickle", "foreign", "deflate", "missing", "twice", "bomb"]))
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = draw(st.sampled_from(old.namelist()))
        for name in old.namelist():
            part, kind = old.read(name), zipfile.ZIP_STORED
            if change == "pickle" and name.endswith("data.pkl"):
                part = draw(damaged(part))
            elif change == "foreign" and name.endswith("data.pkl"):
                part = pickle.dumps(Foreign(), protocol=2)
            elif change == "deflate":
                kind = zipfile.ZIP_DEFLATED
            elif change == "missing" and name == chosen:
                continue
            elif change == "twice" and name == chosen:
                new.writestr(name, part)
            elif change == "bomb" and name == chosen:
                part, kind = bytes(20_000_000), zipfile.ZIP_DEFLATED
            new.writestr(name, part, kind)
    return stream.getvalue()


@st.composite
def safetensors_files(draw: st.DrawFn, tensors: st.SearchStrategy[dict[Any, Any]]) -> bytes:
    made = {}
    for name, tensor in draw(tensors).items():
        if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu":
            made[str(name)] = tensor.detach().clone().contiguous() if not tensor.is_quantized else tensor.dequantize()
    data = save(made, metadata={"format": "pt"})
    if draw(st.integers(0, 2)) == 0:
        data = draw(other_header(data))
    return draw(damaged(data, most=draw(st.sampled_from([0, 0, 2]))))


@st.composite
def other_header(draw: st.DrawFn, data: bytes) -> bytes:
    """The file with a header that says something else."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = draw(st.sampled_from(sorted(header)))
    change = draw(st.sampled_from(["value", "dtype", "shape", "data_offsets", "length", "deep"]))
    if change == "value":
        header[name] = draw(VALUES)
    elif change in ("dtype", "shape", "data_offsets") and change in header[name]:
        value = st.sampled_from(
            ["F16", "I64", "BOOL", "F8_E4M3", "C64", [8], [-1], [2**63], [0], [0, 8], [8, 0], [2**32]]
        )
        header[name][change] = draw(st.one_of(value, VALUES))
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if change == "deep":
        text = b'{"a":' * 100_000
    length = len(text)
    if change == "length":
        length = draw(st.sampled_from([0, 1, 7, len(text) - 1, len(text) + 1, 100_000_001, 2**63, 2**64 - 1]))
    return struct.pack("<Q", length) + text + rest


class Case(NamedTuple):
    """What is read: a file for the converter, or files of a model's folder by name."""

    kind: str
    files: dict[str, bytes]
    options: tuple[str, ...]


@cache
def folder_files(task: str) -> dict[str, bytes]:
    """The files of a saved model, with the teacher and the queue of its training."""
    weights = save({n: t.contiguous() for n, t in state(task, OWN).items() if "head.decoder.weight" not in n})
    config = json.dumps(network(task).config.to_dict(), default=str).encode()
    files = {
        f"{where}{name}": data
        for where in ("", "teacher/")
        for name, data in (("config.json", config), ("model.safetensors", weights))
    }
    queue = {name: tensor.contiguous() for name, tensor in FeatureQueue(QUEUE_SIZE, WIDTH).state_dict().items()}
    trainer = json.dumps({"global_step": 3, "epoch": 1.0, "log_history": []}).encode()
    return files | {"teacher/queue.safetensors": save(queue), "trainer_state.json": trainer}


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """The files of a model's folder, one of them changed or missing."""
    files = dict(folder_files(draw(st.sampled_from(["retrieval", "vqa"]))))
    name = draw(st.sampled_from(sorted(files)))
    change = draw(st.sampled_from(["none", "missing", "damaged", "damaged", "other", "other"]))
    if change == "missing":
        del files[name]
    elif change == "damaged" and name.endswith("config.json"):  # with other names it is of the published size: slow
        files[name] = files[name][: draw(st.integers(0, len(files[name]) - 1))]
    elif change == "damaged":
        files[name] = draw(damaged(files[name]))
    elif change == "other" and name.endswith(".json"):
        files[name] = json.dumps(draw(changed_json(json.loads(files[name])))).encode()
    elif change == "other" and name.endswith("queue.safetensors"):
        files[name] = draw(safetensors_files(changed_queues()))
    elif change == "other":
        files[name] = draw(safetensors_files(changed_states()))
    return files


@st.composite
def changed_json(draw: st.DrawFn, content: dict[str, Any]) -> Any:
    """A configuration or a trainer's state with another value, at the top or in a part."""
    parts = [part for part in content.values() if isinstance(part, dict) and "hidden_size" in part]
    if not parts and draw(st.booleans()):
        return draw(VALUES)
    place = draw(st.sampled_from([content, *parts]))
    keys = sorted(key for key, value in place.items() if not isinstance(value, dict))
    place[draw(mostly(st.sampled_from(keys), st.just("other")))] = draw(VALUES)
    return content


@st.composite
def changed_queues(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    tensors = FeatureQueue(draw(st.sampled_from([0, 1, QUEUE_SIZE, 5])), draw(st.sampled_from([WIDTH, 5]))).state_dict()
    name = draw(st.sampled_from(sorted(tensors)))
    tensors[name] = draw(st.one_of(OTHER_TENSORS, st.just(tensors[name])))
    if draw(st.integers(0, 3)) == 0:
        del tensors[draw(st.sampled_from(sorted(tensors)))]
    return dict(tensors)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    flags = st.sampled_from(["--allow_leftover", "--allow_missing"])
    options = (*draw(st.lists(flags, max_size=2)), "--to", draw(st.sampled_from(["transformers", "salesforce"])))
    kind = draw(st.sampled_from(["torch", "torch", "torch", "safetensors", "safetensors", "folder", "training"]))
    if kind == "torch":
        name = draw(st.sampled_from(["file.pth", "file.pt", "file.bin", "file"]))
        return Case(kind, {name: draw(torch_files())}, options)
    if kind == "safetensors":
        return Case(kind, {"file.safetensors": draw(safetensors_files(changed_states()))}, options)
    return Case(kind, draw(folders()), options)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    vocabulary().save_pretrained(tmp_path / "vocabulary")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # reports of missing weights, thousands of them
    yield tmp_path
    logging.set_verbosity(verbosity)


def check_converter(case: Case, source: Path, folder: Path) -> None:
    checkpoint = source / next(iter(case.files)) if len(case.files) == 1 else source
    words = [str(checkpoint), "--output_dir", "out", "--tokenizer", "vocabulary", *case.options]
    words += ["--num_attention_heads", "2", "--vision_num_attention_heads", "2"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main(words)
    except SystemExit as error:
        assert not (folder / "out").exists()
        assert_sentence(str(error), source)
        return
    written = {path.name for path in (folder / "out").iterdir()}
    whole = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"}
    assert written == {"albef.pth"} if "salesforce" in case.options else written >= whole


def assert_sentence(message: str, source: Path) -> None:
    assert message and message.encode() and len(message) < 2000
    assert str(source) in message, message


def check_training(source: Path) -> None:
    """A run goes on from the checkpoint, and another starts from the model, its teacher and its queue."""
    checkpoint = source.rename(source.parent / "checkpoint-3")
    found = last_checkpoint(source.parent)
    assert found in (None, str(checkpoint))
    queue, task = FeatureQueue(QUEUE_SIZE, WIDTH), network("retrieval")
    teacher = MomentumTeacher(task, 0.9)
    weights = {name: tensor.clone() for name, tensor in queue.state_dict().items()}
    for load in (teacher.load, queue.load):
        try:
            load(checkpoint)
        except (ValueError, OSError) as error:
            assert_sentence(str(error), checkpoint)
    for name, tensor in queue.state_dict().items():
        assert tensor.shape == weights[name].shape and tensor.dtype == weights[name].dtype
    arguments = ModelArguments(model_name_or_path=str(checkpoint))
    try:
        model, _ = load_model(AlbefForImageTextRetrieval, arguments, vocabulary())
        load_saved_queue(queue, arguments)
    except (AlbefError, ValueError, OSError, TypeError) as error:
        assert_sentence(str(error), checkpoint)
        return
    assert isinstance(model, AlbefForImageTextRetrieval)


def check_case(case: Case, folder: Path) -> None:
    source = folder / "source"
    try:
        for name, data in case.files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        if case.kind == "training":
            check_training(source)
        else:
            check_converter(case, source, folder)
        assert not (folder / TRACE).exists()
    finally:
        for name in ("source", "checkpoint-3", "out", TRACE):
            shutil.rmtree(folder / name, ignore_errors=True)


@pytest.mark.parametrize("count", COUNTS)
def test_checkpoint_files(count: int, folder: Path) -> None:
    fuzz(count, cases(), lambda case: check_case(case, folder))
