"""Texts and images for ALBEF in one object: clean-up, token layout, pixel values."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import walk_tb
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from tokenizers import processors
from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.dynamic_module_utils import custom_object_save
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs
from transformers.utils import PROCESSOR_NAME, cached_file, logging

from .image_processing_albef import AlbefImageProcessor, ProcessingError, as_list, is_many, one_line
from .image_processing_albef_torchvision import in_torchvision

TEXT_TYPES = ("caption", "question")
MAX_CHARACTERS = 10_000  # of a text; more would only keep the tokenizer busy
MAX_TOKENIZER_BYTES, MAX_TOKENS, MAX_ADDED_TOKENS = 50_000_000, 1_000_000, 10_000  # far above those of any BERT
MAX_GROWTH = 1000  # characters that the replacements of a tokenizer may make of one

MAX_UNKNOWN = 0.1  # share of the tokens of texts; with more, the vocabulary is hardly the texts' own
TOKENS_JUDGED = (50, 1000)  # of the first texts: the least number that is judged by, and where judging ends
READERS = ("transformers", "tokenizers", "huggingface_hub", "json", "codecs")  # whose errors are of a file
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

logger = logging.get_logger(__name__)

_DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")


def clean_caption(text: str, max_words: int = 30) -> str:
    """Clean up a caption as the published models were trained (salesforce/ALBEF `dataset/utils.py`, `pre_caption`).

    Args:
        text: The caption as annotated.
        max_words: Words that are kept, at least 1.

    Returns:
        Lower case, without punctuation, hyphens and slashes as spaces, `<person>` as `person`, runs of white space as
        one space. May be empty.
    """
    text = text.lower().translate(_DELETED).replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def clean_question(text: str, max_words: int = 30) -> str:
    """Clean up a question as the published models were trained (salesforce/ALBEF `dataset/utils.py`, `pre_question`).

    Milder than `clean_caption`: leading and doubled spaces stay, and the empty string between two spaces is a word.

    Args:
        text: The question as annotated.
        max_words: Words that are kept, at least 1; published: 30 in training, 50 at test time.

    Returns:
        Lower case, without punctuation, hyphens and slashes as spaces. May be empty.
    """
    return " ".join(text.lower().translate(_DELETED).rstrip(" ").split(" ")[:max_words])


_CLEANERS = {"caption": clean_caption, "question": clean_question}


class AlbefProcessor(ProcessorMixin):
    """An image processor and a BERT tokenizer in ALBEF's token layout.

    Texts become `[CLS] w1 .. wn` without a closing `[SEP]` (salesforce/ALBEF `models/tokenization_bert.py`). The
    tokenizer is a copy in that layout, of a class that keeps it in files: `processor.tokenizer(...)`, and the
    tokenizer that `AutoTokenizer` or a pipeline loads from a saved folder, give the same ids.

    Attributes:
        image_processor: An `AlbefImageProcessor` or another image processor.
        tokenizer: The copy; the given tokenizer, one of the `tokenizers` library with `[CLS]` and `[SEP]`, stays as it
            is.
        text_type: Which clean-up texts get unless a call says otherwise: "caption" or "question".
        max_words: Words of a text that are read unless a call says otherwise, at least 1.
        end_texts: Whether texts end in `[SEP]` after all, as models of LAVIS read them.
        judges_vocabulary: Whether texts of which the vocabulary knows little will cause a warning: until there was one,
            or 1,000 tokens were read. It is not saved.

    Raises:
        TypeError: `image_processor` or `tokenizer` is of the wrong class.
        ProcessingError: The tokenizer lacks a token, or an option is out of range.

    Example:
        >>> processor = AlbefProcessor(AlbefImageProcessor(), load_tokenizer("bert-base-uncased"))
        >>> batch = processor(images="photo.jpg", text="A man riding a wave!", return_tensors="pt")
        >>> sorted(batch)
        ['attention_mask', 'input_ids', 'pixel_values']
    """

    text_kwargs = {"return_token_type_ids": False}

    def __init__(
        self,
        image_processor: Any,
        tokenizer: PreTrainedTokenizerBase,
        text_type: str = "caption",
        max_words: int = 30,
        end_texts: bool = False,
    ) -> None:
        _check_text_options(text_type, max_words)
        super().__init__(image_processor, tokenizer)
        self.tokenizer = _in_albef_layout(tokenizer, end_texts)
        self.text_type, self.max_words, self.end_texts = text_type, max_words, end_texts
        self.judges_vocabulary = True
        self._unknown, self._tokens = 0, 0  # of the first texts

    def __call__(
        self,
        images: Any = None,
        text: str | Iterable[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Clean up and tokenise texts, and turn images into pixel values.

        Args:
            images: One image source or many: what the image processor takes. Many are a list, a column of a data set,
                or anything else that can be iterated over.
            text: One text or many. Of a text the first 10,000 characters are read.
            videos: Ignored, as by every image-text processor of the library.
            audio: Ignored, likewise.
            kwargs: `text_type` and `max_words` for this call; what tokenizers take (`padding`, `truncation`,
                `max_length`, which counts the `[CLS]`), what image processors take, `return_tensors`; or the same in
                `text_kwargs` and `images_kwargs`.

        Returns:
            `pixel_values` (images, 3, S, S) where images were given; `input_ids` and `attention_mask` (texts, L) where
            texts were given. A text that is empty after the clean-up is `[CLS]` alone. Where the vocabulary knows
            nothing of a call's texts, or lacks more than a tenth of the first texts' tokens, a warning says so once.

        Raises:
            TypeError: An option is unknown.
            ValueError: Nothing was given.
            ProcessingError: `text` is no string or strings, or it is empty.
            UnreadableImageError: An image cannot be read.
        """
        _check_option_names(kwargs)
        text_type = kwargs.pop("text_type", self.text_type)
        max_words = kwargs.pop("max_words", self.max_words)
        _check_text_options(text_type, max_words)
        cleaned: str | list[str] | None = None
        if isinstance(text, str):
            cleaned = _CLEANERS[text_type](text[:MAX_CHARACTERS], max_words)
        elif text is not None:
            texts: list[Any] = as_list(text, "texts") if is_many(text) else [text]
            if odd := [one for one in texts if not isinstance(one, str)]:
                raise ProcessingError(
                    f"text must be a string or list of strings, or another sequence of them, but has {odd[0]!r:.60}."
                )
            cleaned = [_CLEANERS[text_type](one[:MAX_CHARACTERS], max_words) for one in texts]
        inputs = super().__call__(images=images, text=cleaned, videos=videos, audio=audio, **kwargs)
        if cleaned is not None and self.judges_vocabulary:
            self._warn_of_unknown(cleaned, inputs["input_ids"])
        return inputs

    def _warn_of_unknown(self, text: str | list[str], input_ids: Any) -> None:
        """Warn once, where the vocabulary knows too few of the first texts' words."""
        unknown, tokens = count_unknown(self.tokenizer, input_ids)
        self._unknown, self._tokens = self._unknown + unknown, self._tokens + tokens
        knows_none = 0 < tokens == unknown
        if knows_none or (self._tokens >= TOKENS_JUDGED[0] and self._unknown > MAX_UNKNOWN * self._tokens):
            share = 1.0 if knows_none else self._unknown / self._tokens
            first = text if isinstance(text, str) else text[0]
            logger.warning(
                f"The vocabulary of the processor lacks {share:.0%} of the texts' tokens, such as {first[:60]!r}: "
                "take a tokenizer of their language. This warning is not repeated."
            )
            self.judges_vocabulary = False
        if self._tokens >= TOKENS_JUDGED[1]:
            self.judges_vocabulary = False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> "AlbefProcessor":
        """Load both parts; look for the processor's file first, before the library asks for other files one by one.

        Args:
            pretrained_model_name_or_path: Folder or Hub name.
            args: Those of `ProcessorMixin.from_pretrained`.
            kwargs: Likewise. Images are processed by Pillow, unless `backend="torchvision"` (or `use_fast=True`, which
                the library deprecates) asks for `AlbefImageProcessorTorchvision` and torchvision is installed.

        Returns:
            The processor.

        Raises:
            ProcessingError: There is none, the Hub cannot be reached, or a file is damaged.
        """
        hub_kwargs = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        name = str(pretrained_model_name_or_path)
        try:
            cached_file(name, PROCESSOR_NAME, **hub_kwargs)
        except OSError as error:
            hint = f"Give a folder, or a name on the Hub, with a {PROCESSOR_NAME}."
            raise ProcessingError(f"{name!r} gives no processor: {one_line(error)}. {hint}") from error
        _check_tokenizer_file(name, hub_kwargs)
        try:
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except Exception as error:  # the library raises nearly anything on damaged files
            *_, (frame, _) = walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").partition(".")[0] not in READERS:
                raise
            message = f"The processor in {name!r} cannot be used: {one_line(error)}. Copy it again."
            raise ProcessingError(message) from error
        backend = kwargs.get("backend") or ("torchvision" if kwargs.get("use_fast") else None)
        if backend == "torchvision" and isinstance(processor, cls):  # the library finds one class in the Hub's code
            processor.image_processor = in_torchvision(processor.image_processor)
        return processor

    @classmethod
    def from_encoders(
        cls, vision: str | os.PathLike[str], text: Any, image_size: int | None = None, **options: Any
    ) -> "AlbefProcessor":
        """Make the processor of a model that `from_encoders` makes.

        Args:
            vision: The vision encoder, folder or Hub name, with a `preprocessor_config.json`: its mean, deviation,
                resampling and scale of values are taken over. Images become squares, whatever it crops.
            text: The text encoder, folder or Hub name, whose tokenizer is taken; or a tokenizer.
            image_size: Side of the images, pixels; default: the vision encoder's.
            options: Arguments of the class, such as `text_type`.

        Returns:
            The processor.

        Raises:
            ProcessingError: A file is missing or damaged.
        """
        name = str(vision)
        try:
            fields, _ = AlbefImageProcessor.get_image_processor_dict(name)
            side = image_size or PreTrainedConfig.get_config_dict(name)[0].get("image_size")
        except (OSError, ValueError) as error:
            raise ProcessingError(
                f"The vision encoder {name!r} has no preprocessor_config.json with the image_mean and image_std that "
                f"it was trained with ({one_line(error)}): put one beside its weights."
            ) from error
        if not isinstance(side, int):
            raise ProcessingError(f"The vision encoder {name!r} has the image_size {side}: give image_size, a number.")
        kept = ("image_mean", "image_std", "resample", "rescale_factor", "do_rescale", "do_normalize")
        images = AlbefImageProcessor(
            size={"height": side, "width": side}, **{key: fields[key] for key in kept if fields.get(key) is not None}
        )
        if isinstance(text, (str, os.PathLike)):
            text = import_module("processing.tokenizer").load_tokenizer(text)  # the Hub has no copy of it
        return cls(images, text, **options)

    def encode_answers(
        self, answers: str | Iterable[str], padding: bool | str = True, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """Tokenise answers for the answer decoder: `[CLS] a1 .. an [SEP]` (salesforce/ALBEF `VQA.py`).

        Answers get no clean-up; the tokenizer lower-cases them.

        Args:
            answers: A texts; of each the first 10,000 characters are read.
            padding: As in tokenizers; the longest of the answers by default.
            return_tensors: "pt", "np", or None for lists.

        Returns:
            `input_ids` and `attention_mask`, (A, L).

        Raises:
            ProcessingError: `answers` is empty.
        """
        answers = [answers] if isinstance(answers, str) else as_list(answers, "answers to encode")
        closed = [answer[:MAX_CHARACTERS] for answer in answers]
        if not self.end_texts:
            closed = [f"{answer} {self.tokenizer.sep_token}" for answer in closed]
        return BatchFeature(dict(self.tokenizer(closed, padding=padding, return_tensors=return_tensors)))

    def answer_constraints(self) -> dict[str, list[int]]:
        """Return options of `generate` with which a written answer has at least one word and begins with a whole one.

        A model that has learned little may end an answer before its first word, or begin with the end of a word, such as
        `##le`, or with a special token, which decoding leaves out.
        """
        special = self.tokenizer.all_special_ids
        pieces = [index for word, index in self.tokenizer.get_vocab().items() if word.startswith("##")]
        return {
            "begin_suppress_tokens": sorted({*special, *pieces}),
            "suppress_tokens": sorted({*special} - {self.tokenizer.sep_token_id}),
        }

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, save_code: bool | None = None, **kwargs: Any
    ) -> Any:
        """Save both parts.

        The lengths that the last call padded and cut to stay out of the files; the library would load them as defaults.

        Args:
            save_directory: Folder; made where it does not exist.
            args: Those of `ProcessorMixin.save_pretrained`.
            save_code: Whether the Python files go beside the others, so that `trust_remote_code=True` loads the
                processor where this package is not installed. Default: only where it was itself loaded that
                way, or `register_for_auto_class` was called.
            kwargs: Those of `ProcessorMixin.save_pretrained`.

        Returns:
            Paths of the processor's own files.
        """
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        written = super().save_pretrained(str(save_directory), *args, **kwargs)
        self._write_code_references(
            Path(save_directory), self._auto_class is not None if save_code is None else save_code
        )
        return written

    def _write_code_references(self, folder: Path, save_code: bool) -> None:
        """Copy the Python files and name each class's file in `processor_config.json`, or remove such names there."""
        path = folder / "processor_config.json"
        fields = json.loads(path.read_text(encoding="utf-8"))
        for part in (fields, fields.get("image_processor", {})):
            part.pop("auto_map", None)
        if save_code:
            auto_map = {}
            for name, own in {"AutoProcessor": self, "AutoImageProcessor": self.image_processor}.items():
                module = type(own).__module__
                if not module.startswith("transformers."):
                    custom_object_save(type(own), folder)
                    auto_map[name] = getattr(own, "code_reference", f"{module.split('.')[-1]}.{type(own).__name__}")
            fields["auto_map"] = auto_map
            fields["image_processor"]["auto_map"] = {k: v for k, v in auto_map.items() if k == "AutoImageProcessor"}
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        save_code: bool = True,
        private: bool | None = None,
        revision: str | None = None,
        token: bool | str | None = None,
        commit_message: str = "Upload processor",
        **kwargs: Any,
    ) -> CommitInfo:
        """Upload the processor and its code in one commit; an existing model card stays as it is.

        Args:
            repo_id: `user/model`, or `model`; made where it does not exist.
            save_code: See `save_pretrained`.
            private: Whether a repository that is made is private.
            revision: Branch; made where it does not exist.
            token: For the Hub; default: the one of `hf auth login`.
            commit_message: Title of the commit.
            kwargs: Those of `HfApi.upload_folder`, `create_pr` for example.

        Returns:
            The commit.

        Raises:
            HfHubHTTPError: The Hub refused or the connection broke; the repository is unchanged, so try again.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        kwargs |= {"repo_id": repo_id, "revision": revision, "commit_message": commit_message}
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, save_code=save_code)
            return api.upload_folder(folder_path=folder, **kwargs)


def count_unknown(tokenizer: PreTrainedTokenizerBase, input_ids: Any) -> tuple[int, int]:
    """Return how many tokens of texts are not in the vocabulary, and how many there are; special ones do not count.

    Args:
        tokenizer: That made them.
        input_ids: Of one text or many, as lists, arrays or tensors.
    """
    rows = input_ids.tolist() if hasattr(input_ids, "tolist") else input_ids
    rows = [rows] if rows and isinstance(rows[0], int) else rows
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    tokens = sum(len(row) - sum(map(row.count, special)) for row in rows)
    return sum(row.count(tokenizer.unk_token_id) for row in rows), tokens


def _in_albef_layout(tokenizer: PreTrainedTokenizerBase, end_texts: bool) -> PreTrainedTokenizerFast:
    """Return a copy that encodes `[CLS] w1 .. wn`, with a closing `[SEP]` where `end_texts` is set.

    It is no `BertTokenizer`: that class restores BERT's own layout whenever it is loaded.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ProcessingError(
            f"The tokenizer is a {type(tokenizer).__name__}, not one of the tokenizers library: use a BERT tokenizer."
        )
    names = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
    special = {name: getattr(tokenizer, name) for name in names}
    if missing := [name for name, token in special.items() if token is None]:
        raise ProcessingError(f"The tokenizer lacks {', '.join(missing)}: use a BERT tokenizer.")
    defaults = {name: value for name, value in tokenizer.init_kwargs.items() if name in TextKwargs.__annotations__}
    copied = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=tokenizer.model_max_length,
        truncation_side=tokenizer.truncation_side,
        **{"padding_side": tokenizer.padding_side, **defaults, **special},
    )
    cls_token, sep_token = tokenizer.cls_token, tokenizer.sep_token
    copied.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls_token}:0 $A:0 {sep_token}:0" if end_texts else f"{cls_token}:0 $A:0",
        pair=f"{cls_token}:0 $A:0 {sep_token}:0 $B:1 {sep_token}:1",
        special_tokens=[(cls_token, tokenizer.cls_token_id), (sep_token, tokenizer.sep_token_id)],
    )
    return copied


def _check_tokenizer_file(name: str, hub_kwargs: dict[str, Any]) -> None:
    """Raise for a tokenizer that takes minutes or all memory to load or to use; damage is left to the library."""
    path = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **hub_kwargs)
    if path is None:
        return
    if (size := os.path.getsize(path)) > MAX_TOKENIZER_BYTES:
        raise _unusable(name, f"has {size:,} bytes, more than {MAX_TOKENIZER_BYTES:,}")
    try:
        fields = json.loads(Path(path).read_bytes())
        vocabulary, added = fields["model"]["vocab"], fields.get("added_tokens") or []
        ids = [*vocabulary.values(), *(token["id"] for token in added)] if isinstance(vocabulary, dict) else []
        growth = _growth(fields.get("normalizer"))
        highest = max(ids, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return
    if len(vocabulary) > MAX_TOKENS or len(added) > MAX_ADDED_TOKENS:
        most = f"more than {MAX_TOKENS:,} or {MAX_ADDED_TOKENS:,}"
        raise _unusable(name, f"has {len(vocabulary):,} tokens and {len(added):,} added ones, {most}")
    if highest > 2 * len(ids) + 1000:
        raise _unusable(name, f"has the id {highest}, but {len(ids)} tokens")
    if growth > MAX_GROWTH:
        raise _unusable(name, f"makes up to {growth:.0f} characters of one, more than {MAX_GROWTH}")
    if fields["model"].get("type") == "WordPiece" and fields["model"].get("unk_token") not in vocabulary:
        raise _unusable(name, f"has no {fields['model'].get('unk_token')} in its vocabulary")


def _growth(normalizer: Any) -> float:
    """Return how many characters the replacements of a tokenizer's normalizer may make of one."""
    steps, found = [normalizer], 1.0
    while steps:
        step = steps.pop() or {}
        steps += step.get("normalizers") or []
        if step.get("type") == "Replace":
            pattern = step["pattern"].get("String")
            found *= max(1.0, len(step["content"]) / len(pattern) if pattern else len(step["content"]) + 1)
    return min(found, 1e30)


def _unusable(name: str, what: str) -> ProcessingError:
    return ProcessingError(f"The tokenizer in {name!r} {what}: take one of BERT's kind, from a source that you trust.")


def _check_text_options(text_type: str, max_words: int) -> None:
    if text_type not in TEXT_TYPES:
        raise ProcessingError(f"text_type is {text_type!r}, but must be one of {', '.join(TEXT_TYPES)}.")
    if not isinstance(max_words, int) or max_words < 1:
        raise ProcessingError(f"max_words is {max_words!r}, but must be at least 1.")


def _check_option_names(options: Mapping[str, Any]) -> None:
    """Raise for an unknown option; the library only warns of it, or ignores it."""
    groups = ProcessingKwargs.__annotations__
    names = {name for group in groups.values() for name in getattr(group, "__annotations__", ())}
    unknown = set(options) - names - {"text_type", "max_words", "common_kwargs", *groups}
    unknown |= set(options.get("text_kwargs") or {}) - set(TextKwargs.__annotations__)
    if unknown:
        raise TypeError(f"AlbefProcessor does not know the option {', '.join(sorted(unknown))}: check the spelling.")
