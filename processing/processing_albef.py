"""Text and images for ALBEF in one object: clean-up, token layout, pixel values."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from tokenizers import processors
from transformers import AutoTokenizer, BatchFeature, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.dynamic_module_utils import custom_object_save
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs
from transformers.utils import PROCESSOR_NAME, cached_file

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT_TYPES = ("caption", "question")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

_DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")


def clean_caption(text: str, max_words: int = 30) -> str:
    """Clean a caption up as the published models were trained (salesforce/ALBEF `dataset/utils.py`, `pre_caption`).

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
    """Clean a question up as the published models were trained (salesforce/ALBEF `dataset/utils.py`, `pre_question`).

    Milder than `clean_caption`: leading and doubled spaces stay, and what lies between two of them counts as a word.

    Args:
        text: The question as annotated.
        max_words: Words that are kept, at least 1; published: 30 in training, 50 at test time.

    Returns:
        Lower case, without punctuation, hyphens and slashes as spaces. May be empty.
    """
    return " ".join(text.lower().translate(_DELETED).rstrip(" ").split(" ")[:max_words])


_CLEANERS = {"caption": clean_caption, "question": clean_question}


class AlbefProcessor(ProcessorMixin):
    """An image processor and a BERT tokenizer in the layout that ALBEF reads.

    Texts become `[CLS] w1 .. wn` without a closing `[SEP]` (salesforce/ALBEF `models/tokenization_bert.py`). The
    tokenizer is copied into that layout, as a class that keeps it in files: `processor.tokenizer(...)`, and the
    tokenizer that `AutoTokenizer` or a pipeline loads from a saved folder, give the same ids.

    Attributes:
        text_type: Which clean-up texts get: "caption" or "question".
        max_words: Words of a text that are read, at least 1.
        end_texts: Whether texts end in `[SEP]` after all, as models of LAVIS read them.

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
        """Join the two.

        Args:
            image_processor: An `AlbefImageProcessor` or another image processor.
            tokenizer: A tokenizer of the `tokenizers` library with `[CLS]` and `[SEP]`; it is left as it is.
            text_type: Which clean-up texts get unless a call says otherwise.
            max_words: Words of a text that are read unless a call says otherwise.
            end_texts: Whether texts end in `[SEP]`.

        Raises:
            TypeError: One of the two is of the wrong class.
            ValueError: The tokenizer lacks a token, or an option is out of range.
        """
        _check_text_options(text_type, max_words)
        super().__init__(image_processor, tokenizer)
        self.tokenizer = _in_albef_layout(tokenizer, end_texts)
        self.text_type, self.max_words, self.end_texts = text_type, max_words, end_texts

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Clean up and tokenise texts, turn images into pixel values.

        Args:
            images: One image source or a list: what the image processor takes.
            text: One text or a list.
            videos: Ignored, as by every image-text processor of the library.
            audio: Ignored, likewise.
            kwargs: `text_type` and `max_words` for this call; what tokenizers take (`padding`, `truncation`,
                `max_length`, which counts the `[CLS]`), what image processors take, `return_tensors`; or the same in
                `text_kwargs` and `images_kwargs`.

        Returns:
            `pixel_values` (images, 3, S, S) where images were given; `input_ids` and `attention_mask` (texts, L) where
            texts were given. A text that is empty after the clean-up is `[CLS]` alone.

        Raises:
            TypeError: An option is unknown.
            ValueError: Nothing was given, or `text` is no string or list of strings.
            UnreadableImageError: An image cannot be read.
        """
        _check_option_names(kwargs)
        text_type = kwargs.pop("text_type", self.text_type)
        max_words = kwargs.pop("max_words", self.max_words)
        _check_text_options(text_type, max_words)
        if isinstance(text, str):
            text = _CLEANERS[text_type](text, max_words)
        elif isinstance(text, list) and all(isinstance(one, str) for one in text):
            text = [_CLEANERS[text_type](one, max_words) for one in text]
        elif text is not None:
            raise ValueError("text must be a string or list of strings.")
        return super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> "AlbefProcessor":
        """Load both parts; its file is looked for once, before the library asks for other files one by one.

        Args:
            pretrained_model_name_or_path: Folder or Hub name.
            args: Those of `ProcessorMixin.from_pretrained`.
            kwargs: Likewise.

        Returns:
            The processor.

        Raises:
            OSError: There is none.
        """
        hub_kwargs = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        cached_file(str(pretrained_model_name_or_path), PROCESSOR_NAME, **hub_kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def encode_answers(
        self, answers: list[str], padding: bool | str = True, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """Tokenise answers for the answer decoder: `[CLS] a1 .. an [SEP]` (salesforce/ALBEF `VQA.py`).

        Answers get no clean-up; the tokenizer lower-cases them.

        Args:
            answers: A texts.
            padding: As in tokenizers; the longest of the answers by default.
            return_tensors: "pt", "np", or None for lists.

        Returns:
            `input_ids` and `attention_mask`, (A, L).

        Raises:
            ValueError: There are none.
        """
        if not answers:
            raise ValueError("There are no answers to encode: give one at least.")
        closed = answers if self.end_texts else [f"{answer} {self.tokenizer.sep_token}" for answer in answers]
        return BatchFeature(dict(self.tokenizer(closed, padding=padding, return_tensors=return_tensors)))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        save_code: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save both parts.

        The lengths that the last call padded and cut to stay out of the files; the library would load them as defaults.

        Args:
            save_directory: Folder; made where it does not exist.
            push_to_hub: Whether to upload the folder, too.
            save_code: Whether the Python files go beside the others, so that `trust_remote_code=True` loads the
                processor where this package is not installed. Default: only where it was itself loaded that
                way, or `register_for_auto_class` was called.
            kwargs: Those of `ProcessorMixin.save_pretrained`.

        Returns:
            Paths of the processor's own files.
        """
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        written = super().save_pretrained(str(save_directory), push_to_hub, **kwargs)
        if save_code is None:
            save_code = self._auto_class is not None
        self._write_code_references(Path(save_directory), save_code)
        return written

    def _write_code_references(self, folder: Path, save_code: bool) -> None:
        """Copy the Python files, and say in `processor_config.json` which class is in which; or drop what it says."""
        path = folder / "processor_config.json"
        fields = json.loads(path.read_text(encoding="utf-8"))
        for place in (fields, fields.get("image_processor", {})):
            place.pop("auto_map", None)
        if save_code:
            parts = {"AutoProcessor": type(self), "AutoImageProcessor": type(self.image_processor)}
            auto_map = {}
            for name, part in parts.items():
                if not part.__module__.startswith("transformers."):
                    custom_object_save(part, folder)
                    auto_map[name] = f"{part.__module__.split('.')[-1]}.{part.__name__}"
            fields["auto_map"] = auto_map
            fields["image_processor"]["auto_map"] = {k: v for k, v in auto_map.items() if k == "AutoImageProcessor"}
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        save_code: bool = True,
        private: bool | None = None,
        revision: str | None = None,
        token: bool | str | None = None,
        commit_message: str = "Upload processor",
        create_pr: bool = False,
        **kwargs: Any,
    ) -> CommitInfo:
        """Upload the processor and its code in one commit.

        Args:
            repo_id: `user/model`, or `model`; made where it does not exist.
            save_code: See `save_pretrained`.
            private: Whether a repository that is made is private.
            revision: Branch; made where it does not exist.
            token: For the Hub; default: the one of `hf auth login`.
            commit_message: Title of the commit.
            create_pr: Open a pull request instead.
            kwargs: Those of `HfApi.upload_folder`.

        Returns:
            The commit.

        Raises:
            HfHubHTTPError: The Hub refused or broke off; nothing has changed there then, so it can be tried again.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        target: dict[str, Any] = {"repo_id": repo_id, "revision": revision, "create_pr": create_pr}
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, save_code=save_code)
            return api.upload_folder(folder_path=folder, commit_message=commit_message, **target, **kwargs)


def build_tokenizer(texts: Iterable[str], min_count: int = 1) -> BertTokenizer:
    """Make a word-piece vocabulary from texts, the same one whatever their order.

    Args:
        texts: Captions, questions or answers; they get the clean-up of captions.
        min_count: How often a word must occur to become a token of its own.

    Returns:
        An uncased BERT tokenizer: special tokens, then characters, `##` characters, and words by falling frequency and
        alphabet. Characters are those of the texts and of ASCII, so any ASCII word of up to 100 letters has ids.
    """
    backend = BertTokenizer().backend_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        normal = backend.normalizer.normalize_str(clean_caption(text, max_words=len(text) + 1))
        counts.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
    ascii_characters = {chr(code).lower() for code in range(33, 127)}
    characters = sorted(ascii_characters.union(*counts))
    words = sorted((-count, word) for word, count in counts.items() if count >= min_count and len(word) > 1)
    pieces = [f"##{character}" for character in characters]
    tokens = [*SPECIAL_TOKENS, *characters, *pieces, *(word for _, word in words)]
    return BertTokenizer(vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))})


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Load a tokenizer from wherever it is.

    Args:
        name_or_path: Folder that `save_pretrained` wrote, folder with only a `vocab.txt` (one token a line, as Google
            published BERT), such a file itself, or a name on the Hub.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: A folder without a tokenizer, a path that does not exist, or a name the Hub does not give.
        ValueError: The vocabulary lacks a special token of BERT.
    """
    path = Path(name_or_path)
    if path.is_file():
        return _read_vocabulary(path)
    if path.is_dir():
        if any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            return AutoTokenizer.from_pretrained(str(path))
        if (path / "vocab.txt").is_file():
            return _read_vocabulary(path / "vocab.txt")
        raise FileNotFoundError(f"The folder {str(path)!r} holds no tokenizer: put a vocab.txt into it.")
    if path.is_absolute() or str(name_or_path).startswith(".") or len(path.parts) > 2:
        raise FileNotFoundError(f"There is no tokenizer at {str(name_or_path)!r}: give a folder or a name on the Hub.")
    try:
        return AutoTokenizer.from_pretrained(str(name_or_path))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"The tokenizer {str(name_or_path)!r} is no folder here, and the Hub does not give it: {reason} "
            "Give a folder with the vocab.txt of a BERT."
        ) from error


def _read_vocabulary(path: Path) -> BertTokenizer:
    with path.open(encoding="utf-8", newline="\n") as lines:
        tokens = [line.rstrip("\r\n") for line in lines]
    if missing := [token for token in SPECIAL_TOKENS if token not in tokens]:
        raise ValueError(f"The vocabulary {str(path)!r} lacks {', '.join(missing)}: give the one of a BERT model.")
    # `vocab_file=` would be ignored without a word by transformers 5, and every word become [UNK].
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def _in_albef_layout(tokenizer: PreTrainedTokenizerBase, end_texts: bool) -> PreTrainedTokenizerFast:
    """A copy that encodes `[CLS] w1 .. wn`, with a closing `[SEP]` where `end_texts` is set.

    Not a `BertTokenizer`: that class puts BERT's own layout back whenever it is loaded.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise TypeError(f"Need a tokenizer of the tokenizers library, not a {type(tokenizer).__name__}.")
    names = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
    special = {name: getattr(tokenizer, name) for name in names}
    if missing := [name for name, token in special.items() if token is None]:
        raise ValueError(f"The tokenizer lacks {', '.join(missing)}: use a BERT tokenizer.")
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


def _check_text_options(text_type: str, max_words: int) -> None:
    if text_type not in TEXT_TYPES:
        raise ValueError(f"text_type is {text_type!r}, but must be one of {', '.join(TEXT_TYPES)}.")
    if max_words < 1:
        raise ValueError(f"max_words is {max_words}, but must be at least 1.")


def _check_option_names(options: Mapping[str, Any]) -> None:
    """Refuse what would be ignored: the library only warns of an unknown option, or swallows it."""
    groups = ProcessingKwargs.__annotations__
    names = {name for group in groups.values() for name in getattr(group, "__annotations__", ())}
    unknown = set(options) - names - {"text_type", "max_words", "common_kwargs", *groups}
    unknown |= set(options.get("text_kwargs") or {}) - set(TextKwargs.__annotations__)
    if unknown:
        raise TypeError(f"AlbefProcessor does not know the option {', '.join(sorted(unknown))}: check the spelling.")
