# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Turn a released ALBEF checkpoint into a model folder, or a model folder back into the original's format.

    python -m modeling_albef.convert_albef_to_hf mscoco --output_dir albef-coco --tokenizer bert-base-uncased
    python -m modeling_albef.convert_albef_to_hf albef-coco --output_dir back --to salesforce

Reads files of salesforce/ALBEF, torchmultimodal and LAVIS, and models of this package. What is given by an address or
by the name of a released file is downloaded first.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import save_file

from processing import AlbefImageProcessor, AlbefProcessor, ProcessingError, load_tokenizer

from ..configuration_albef import AlbefConfig, AlbefError, exit_with_message, one_line
from ..hub_albef import STALE_FILES
from ..modeling_albef import AlbefPreTrainedModel
from ..training.momentum import QUEUE_FILE, TEACHER_FOLDER
from .checkpoint_card import write_card
from .checkpoint_download import digest
from .checkpoint_finding import find_checkpoint
from .checkpoint_names import LAVIS, OUTPUT_MAPS, ConvertedCheckpoint, restore_state_dict
from .checkpoint_reading import ConversionError, read_checkpoint
from .checkpoint_sizes import build_model, find_config, find_model_class

BERT = "bert-base-uncased"
ORIGINAL_FILE = "albef.pth"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line, by default that of this process."""
    parser = argparse.ArgumentParser("python -m modeling_albef.convert_albef_to_hf", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "checkpoint", help="file of PyTorch or safetensors, folder of a model, http address, or name of a released file"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--to", choices=("transformers", "salesforce"), default="transformers", help="format to write")
    parser.add_argument("--download_dir", type=Path, help="where downloads are kept; default: the cache of the Hub")
    parser.add_argument("--num_attention_heads", type=int, help="heads of the text layers; default: width / 64")
    parser.add_argument(
        "--vision_num_attention_heads", type=int, help="heads of the vision layers; default: width / 64"
    )
    parser.add_argument("--tokenizer", help=f"folder with vocab.txt, or Hub name; default: the folder's, or {BERT}")
    parser.add_argument("--push_to_hub", metavar="NAME", help="upload the folder to this Hub repository, too")
    parser.add_argument("--private", action="store_true", help="make the Hub repository private")
    parser.add_argument("--allow_leftover", action="store_true", help="leave out tensors that have no counterpart")
    parser.add_argument("--allow_missing", action="store_true", help="start missing tensors at random")
    return parser.parse_args(argv)


@exit_with_message(AlbefError, ProcessingError)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    convert(parse(argv))


def convert(args: argparse.Namespace) -> None:
    """Convert the checkpoint that the options name."""
    if args.output_dir.exists() and (not args.output_dir.is_dir() or any(args.output_dir.iterdir())):
        raise ConversionError(f"{args.output_dir} is not empty: name a new folder, so that nothing is overwritten.")
    args.checkpoint = find_checkpoint(args.checkpoint, args.download_dir)
    checkpoint = read_checkpoint(args.checkpoint)
    if checkpoint.leftover and not args.allow_leftover:
        names = ", ".join(checkpoint.leftover)
        raise ConversionError(
            f"{args.checkpoint} has tensors without a counterpart: {names}: --allow_leftover drops them."
        )
    with _naming(args.checkpoint):
        config = choose_config(args, checkpoint)
        student, teacher, notes = build_models(args, checkpoint, config)
    processor = None
    if args.to == "transformers":
        processor = make_processor(args, config, end_texts=checkpoint.source == LAVIS)
    with _naming(args.checkpoint), _moved_into_place(args.output_dir) as folder:
        if processor is None:
            write_original(folder, checkpoint)
        else:
            with_code = args.push_to_hub is not None  # it must load where this package is not
            _save(student, folder, save_code=with_code)
            write_teacher(folder / TEACHER_FOLDER, teacher, checkpoint.queue)
            processor.save_pretrained(folder, save_code=with_code)
            card = write_card(
                checkpoint,
                config,
                file_name=args.checkpoint.name,
                sha256=digest(args.checkpoint) if args.checkpoint.is_file() else "",
                model_class=type(student).__name__,
                repository=args.push_to_hub or args.output_dir.name,
                has_code=with_code,
                notes=notes,
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
    files = ", ".join(sorted(path.name for path in args.output_dir.iterdir()))
    print(*notes, f"{checkpoint.source}: {type(student).__name__} written to {args.output_dir}: {files}", sep="\n")
    if args.push_to_hub:
        upload(args.output_dir, args.push_to_hub, args.private)


@contextmanager
def _naming(checkpoint: Path) -> Iterator[None]:
    """Put the checkpoint's name before an error about its content that does not have it."""
    try:
        yield
    except AlbefError as error:
        if str(checkpoint) in str(error):
            raise
        raise ConversionError(f"{checkpoint}: {error}") from error


@contextmanager
def _moved_into_place(output: Path) -> Iterator[Path]:
    """Give a folder beside `output` to write into, which takes its place at the end, or disappears after an error."""
    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{output.name}.incomplete-", dir=output.parent) as beside:
            folder = Path(beside) / output.name
            folder.mkdir()
            yield folder
            folder.replace(output)  # an empty folder may be there
    except (OSError, SafetensorError) as error:  # the second: a full disk, too
        raise ConversionError(f"{output} cannot be written ({error}): make room, or name another folder.") from error


def _save(model: AlbefPreTrainedModel, folder: Path, **options: Any) -> None:
    try:
        model.save_pretrained(folder, **options)
    except RuntimeError as error:  # two names of one tensor
        raise ConversionError(one_line(error)) from error


def choose_config(args: argparse.Namespace, checkpoint: ConvertedCheckpoint) -> AlbefConfig:
    """Return the configuration in the folder, or one found from the shapes of the weights."""
    if (args.checkpoint / "config.json").is_file():
        try:
            return AlbefConfig.from_pretrained(args.checkpoint)
        except (StrictDataclassError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConversionError(f"{args.checkpoint / 'config.json'} cannot be used: {one_line(error)}") from error
    heads, vision_heads = args.num_attention_heads, args.vision_num_attention_heads
    if args.to == "salesforce":  # the format has no place for them
        heads, vision_heads = 1, 1
    config = find_config(checkpoint.student, heads, vision_heads)
    for owner, names in zip((config, config.decoder_config), OUTPUT_MAPS, strict=True):
        if owner is not None:
            owner.tie_word_embeddings = is_tied(checkpoint, *names)
    return config


def is_tied(checkpoint: ConvertedCheckpoint, words: str, output: str) -> bool:
    """Return whether an output map is the word embeddings in student and teacher, or is missing."""
    parts = [part for part in (checkpoint.student, checkpoint.teacher) if words in part and output in part]
    return all(part[words].dtype == part[output].dtype and torch.equal(part[words], part[output]) for part in parts)


def build_models(
    args: argparse.Namespace, checkpoint: ConvertedCheckpoint, config: AlbefConfig
) -> tuple[AlbefPreTrainedModel, AlbefPreTrainedModel | None, list[str]]:
    """Return the student, the teacher where there is one, and what was left out or started at random."""
    notes = []
    if checkpoint.leftover:
        notes.append(f"left out: {', '.join(checkpoint.leftover)}")
    model_class, allowed = find_model_class(checkpoint), (args.allow_leftover, args.allow_missing)
    student, more = build_model(model_class, config, checkpoint.student, f"The model in {args.checkpoint}", *allowed)
    notes += more
    teacher = None
    if checkpoint.teacher:
        what = f"The momentum model in {args.checkpoint}"
        teacher, more = build_model(model_class, config, checkpoint.teacher, what, *allowed)
        notes += more
    return student, teacher, notes


def make_processor(args: argparse.Namespace, config: AlbefConfig, end_texts: bool) -> AlbefProcessor:
    """Return the processor; the decoder's configuration takes the tokens of an answer from it."""
    name = args.tokenizer or BERT
    if args.tokenizer is None and (args.checkpoint / "processor_config.json").is_file():
        try:
            return AlbefProcessor.from_pretrained(args.checkpoint)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConversionError(f"The processor in {args.checkpoint} cannot be used: {one_line(error)}") from error
    try:
        tokenizer = load_tokenizer(name)
    except ProcessingError as error:
        raise ConversionError(
            f"{error} For --tokenizer that is the vocabulary which the checkpoint was trained with; the released files "
            "have that of bert-base-uncased."
        ) from error
    if len(tokenizer) != config.text_config.vocab_size:
        raise ConversionError(
            f"The tokenizer {name!r} knows {len(tokenizer)} tokens, the checkpoint {config.text_config.vocab_size}: "
            f"give --tokenizer the vocabulary that {args.checkpoint} was trained with."
        )
    side = config.vision_config.image_size
    image_processor = AlbefImageProcessor(size={"height": side, "width": side})
    if config.decoder_config is None:
        return AlbefProcessor(image_processor, tokenizer, end_texts=end_texts)
    config.decoder_config.bos_token_id = tokenizer.cls_token_id
    config.decoder_config.eos_token_id = tokenizer.sep_token_id
    return AlbefProcessor(image_processor, tokenizer, text_type="question", max_words=50, end_texts=end_texts)


def write_teacher(folder: Path, teacher: AlbefPreTrainedModel | None, queue: dict[str, torch.Tensor]) -> None:
    """Write the momentum model and the queue where the trainers look for them."""
    if teacher is not None:
        _save(teacher, folder)
    if queue:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(queue, folder / QUEUE_FILE)


def write_original(folder: Path, checkpoint: ConvertedCheckpoint) -> None:
    """Write a file that salesforce/ALBEF loads."""
    if not all(is_tied(checkpoint, *names) for names in OUTPUT_MAPS):
        raise ConversionError(
            "The output map of this language head differs from its word embeddings, but in salesforce/ALBEF the two "
            "are one tensor: the model cannot be written in that format."
        )
    try:
        torch.save({"model": restore_state_dict(checkpoint)}, folder / ORIGINAL_FILE)
    except RuntimeError as error:  # a full disk
        raise ConversionError(f"{ORIGINAL_FILE} cannot be written ({error!s:.300}): make room.") from error


def upload(folder: Path, name: str, private: bool) -> None:
    """Upload the folder, which holds nothing but what this command wrote; it stays as it is where that fails."""
    api = HfApi()
    try:
        name = api.create_repo(name, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(folder_path=folder, repo_id=name, delete_patterns=STALE_FILES)
        print(f"uploaded: {commit}")
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ConversionError(
            f"{folder} is complete, but was not uploaded to {name} ({reason}): try `hf upload {name} {folder}`."
        ) from error
