# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Finding and loading a model, saving it with its code, and pushing both to the Hub, so that others can load them."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from huggingface_hub import CommitInfo, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from .configuration_albef import AlbefConfig, AlbefError, named_model_errors, one_line
from .model_card_albef import CardFacts, add_tags, make_model_card, origin

CHECKSUMS_FILE = "checksums.json"
_CHECKED_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")  # what a model's numbers depend on
_SHARDS = "model-?????-of-?????.safetensors"
# what an earlier push may have left: loading would take it for the model's, or compare the model with it
STALE_FILES = [CHECKSUMS_FILE, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, _SHARDS]
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def write_checksums(folder: str | os.PathLike) -> Path:
    """Write the SHA-256 of a model's weights and configuration into `folder/checksums.json`, and return its path."""
    files = sorted(path for pattern in _CHECKED_FILES for path in Path(folder).glob(pattern))
    path = Path(folder) / CHECKSUMS_FILE
    path.write_text(json.dumps({one.name: _sha256(one) for one in files}, indent=1) + "\n", encoding="utf-8")
    return path


def verify_checksums(folder: str | os.PathLike, is_whole: bool = True) -> None:
    """Compare the files of a folder with its `checksums.json`; without one nothing happens.

    This finds damage, and no forgery: who can change a file can change its checksum.

    Args:
        folder: A model's folder.
        is_whole: Whether each file of the list has to be there; in the Hub's cache are those that were asked for.

    Raises:
        AlbefError: A file has other content than was saved, or is missing, or the list itself is damaged.
    """
    path = Path(folder) / CHECKSUMS_FILE
    if not path.is_file():
        return
    try:
        entries = {str(name): str(digest) for name, digest in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise AlbefError(f"{path} is damaged: copy the folder again, or remove that file to do without.") from error
    for name, digest in entries.items():
        file = path.parent / Path(name).name
        if (is_whole or file.is_file()) and (not file.is_file() or _sha256(file) != digest):
            wrong = "has other content than was saved" if file.is_file() else "is missing"
            raise AlbefError(
                f"{file} {wrong}, by the list in {CHECKSUMS_FILE}: copy it again or, if you changed it yourself, "
                f"remove {CHECKSUMS_FILE}."
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def check_model_name(name: str | None) -> None:
    """Make sure that there is an ALBEF model (folder or Hub name), before its parts are asked for one by one.

    The Hub is asked for USER/NAME alone, where no folder is called so. None, of a run that starts from scratch, passes.
    """
    if name is None:
        return
    path = Path(name)
    if path.is_dir():
        if not (path / CONFIG_NAME).is_file():  # the library would take the published sizes
            raise AlbefError(f"The folder {name} has no {CONFIG_NAME}: give a folder that a model was saved to.")
    else:
        found = f"There is no model at {name!r}: there is no such folder here ({path.absolute()})"
        remedy = "Give a folder that a model was saved to (`make demo` makes one, docs/checkpoints.md converts one)"
        if path.is_absolute() or name.startswith(".") or len(path.parts) != 2:
            raise AlbefError(f"{found}. {remedy}, or USER/NAME of the Hub.")
        try:
            cached_file(name, CONFIG_NAME)
        except OSError as error:
            reason = one_line(error).rstrip(".")
            raise AlbefError(f"{found}, and the Hub does not give it ({reason}). {remedy}, or another name.") from error
    with named_model_errors(name, OSError):
        AlbefConfig.get_config_dict(name)  # refuses another type of model


def load_model(model_class: Any, name: str) -> Any:
    """Return the model `name` (folder or Hub name) with its head, which the library would start at random."""
    check_model_name(name)
    with named_model_errors(name, OSError, ImportError):  # a file or a package is missing
        model = model_class.from_pretrained(name)
    check_head(model)
    return model


def check_model_type(model: Any) -> None:
    """Refuse a model object that is no ALBEF; the class does not matter, of which there may be copies."""
    kind, name = getattr(model.config, "model_type", None), getattr(model.config, "_name_or_path", "")
    if kind != AlbefConfig.model_type:
        raise AlbefError(f"The model {name!r} is of the type {kind!r:.60}, not 'albef': give an ALBEF model.")


def check_head(model: Any, needs: str | None = None) -> None:
    """Refuse a model whose head the checkpoint lacked, and which was not trained since.

    Args:
        model: Any model.
        needs: A method that it must have.

    Raises:
        AlbefError: The head is still random, or this is a model of another task; the message says which.
    """
    kind, name = type(model).__name__, getattr(model.config, "_name_or_path", "")
    head = getattr(model, "_head", None)
    if needs is not None and not hasattr(model, needs):
        raise AlbefError(f"The model {name!r} is of the type {kind}, which has no {needs}(): give one of this task.")
    if head is not None and model._lacks_head:
        raise AlbefError(f"The model {name!r} has no {head[1]}: give one that was trained for this.")


class AlbefHubMixin:
    """Gives `save_pretrained` the choice of writing the model's code, and `push_to_hub` a model card.

    Attributes:
        auto_classes: The library's Auto classes of the task, beside `AutoModel`.
    """

    auto_classes: ClassVar[tuple[str, ...]] = ()
    config: Any

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a model as `AlbefAttentionModel.from_pretrained` does; where it has checksums, they are verified.

        Args:
            pretrained_model_name_or_path: Folder or Hub name.
            model_args: Those of `PreTrainedModel.from_pretrained`.
            kwargs: Likewise.

        Returns:
            The model in evaluation mode.

        Raises:
            AlbefError: The model cannot be used, or a file has other content than was saved.
        """
        name = pretrained_model_name_or_path
        if name is not None and os.path.isdir(name):
            verify_checksums(Path(name) / kwargs.get("subfolder", ""))
            return super().from_pretrained(name, *model_args, **kwargs)  # type: ignore[misc]
        loaded = super().from_pretrained(name, *model_args, **kwargs)  # type: ignore[misc]
        if name is not None:
            options = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
            optional = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
            if (path := cached_file(name, CHECKSUMS_FILE, **options, **optional)) is not None:
                verify_checksums(Path(path).parent, is_whole=False)
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        save_code: bool | None = None,
        checksums: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the model.

        Args:
            save_directory: Folder; made where it does not exist.
            args: Those of `PreTrainedModel.save_pretrained`.
            save_code: Whether the Python files go beside the weights, and the configuration says which class is in
                which; `trust_remote_code=True` then loads the model where this package is not installed. Default:
                only where the model itself was loaded that way, or `register_for_auto_class` was called.
            checksums: Whether `checksums.json` gets the SHA-256 of weights and configuration, which loading the model
                then verifies; without, one of an earlier model there is removed.
            kwargs: Those of `PreTrainedModel.save_pretrained`.
        """
        if save_code is None:
            save_code = self.is_remote_code()  # type: ignore[attr-defined]
        with self._code_registered(save_code):
            super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        saves = getattr(self, "should_save_on_this_rank", bool)  # from transformers 5.24 on
        if saves(kwargs.get("is_main_process", True)):
            (Path(save_directory) / CHECKSUMS_FILE).unlink(missing_ok=True)
            _remove_stale_weights(Path(save_directory))
            if checksums:
                write_checksums(save_directory)

    @contextmanager
    def _code_registered(self, save_code: bool) -> Iterator[None]:
        """Let the library save code or not: it does so for classes that are registered for an Auto class.

        Of all the Auto classes and pipelines it would only name one; the configuration names the others.
        """
        names = {type(self): (*self.auto_classes, "AutoModel")[0], type(self.config): "AutoConfig"}
        registered = {one: vars(one).get("_auto_class", ...) for one in names}
        fields = vars(self.config)
        kept = {name: fields.pop(name) for name in ("auto_map", "custom_pipelines") if name in fields}
        for one, name in names.items():
            one._auto_class = name if save_code else None
        if save_code:
            fields.update(self._code_references())
        try:
            yield
        finally:
            for name in ("auto_map", "custom_pipelines"):
                fields.pop(name, None)
            fields.update(kept)
            for one, before in registered.items():
                if before is ...:
                    del one._auto_class
                else:
                    one._auto_class = before

    def _code_references(self) -> dict[str, Any]:
        """Return which file has which class, in the library's fields of a configuration."""
        from .pipelines_albef import PIPELINES  # here: models do not need them, but their code is saved with a model's

        pipelines = {
            task: {"impl": f"pipelines_albef.{class_.__name__}", "pt": [auto_class], "type": "multimodal"}
            for task, (class_, auto_class) in PIPELINES.items()
            if auto_class in self.auto_classes
        }
        package, _, module = type(self).__module__.rpartition(".")
        auto_map = {"AutoConfig": "configuration_albef.AlbefConfig"}
        if module != "__main__":  # whose code the library does not save
            auto_map |= dict.fromkeys(self.auto_classes, f"{module}.{type(self).__name__}")
        if package != __name__.rpartition(".")[0]:  # a class of the user's, whose file does not bring the others along
            return {"auto_map": auto_map}
        auto_map["AutoModel"] = "modeling_albef.AlbefModel"
        return {"auto_map": auto_map, **({"custom_pipelines": pipelines} if pipelines else {})}

    def push_to_hub(
        self,
        repo_id: str,
        *,
        save_code: bool = True,
        private: bool | None = None,
        revision: str | None = None,
        token: bool | str | None = None,
        commit_message: str | None = None,
        tags: str | list[str] | None = None,
        **kwargs: Any,
    ) -> CommitInfo:
        """Upload weights, configuration, code, and a model card where the repository has none, in one commit.

        Weights and checksums of an earlier push that are not overwritten are deleted in the same commit.

        Args:
            repo_id: `user/model`, or `model`; made where it does not exist.
            save_code: See `save_pretrained`.
            private: Whether a repository that is made is private.
            revision: Branch; made where it does not exist.
            token: For the Hub; default: the one of `hf auth login`.
            commit_message: Title of the commit; default: "Upload model".
            tags: Of the card, beside those of `add_model_tags`; a card that is there keeps its own, too.
            kwargs: `commit_description`, more of the title; `create_pr`, True for a pull request in place of a commit;
                and those of `save_pretrained`, `max_shard_size` for example.

        Returns:
            The commit.

        Raises:
            HfHubHTTPError: The Hub refused or broke off; nothing has changed there then, so it can be tried again.
        """
        commit = {name: kwargs.pop(name) for name in ("commit_description", "create_pr") if name in kwargs}
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        make_branch(api, repo_id, revision, bool(commit.get("create_pr")))
        own_tags = [*(getattr(self, "model_tags", None) or ()), *([tags] if isinstance(tags, str) else tags or ())]
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, save_code=save_code, **kwargs)
            if not api.file_exists(repo_id, "README.md", revision=revision):
                facts = CardFacts(tags=tuple(own_tags), base_model=origin(self.config, repo_id), has_code=save_code)
                make_model_card(self.config, type(self).__name__, repo_id, facts).save(Path(folder) / "README.md")
            elif own_tags:
                card = ModelCard.load(api.hf_hub_download(repo_id, "README.md", revision=revision))
                add_tags(card.data, own_tags)
                card.save(Path(folder) / "README.md")
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload model",
                revision=revision,
                delete_patterns=STALE_FILES,
                **commit,
            )


def _remove_stale_weights(folder: Path) -> None:
    """Remove what an earlier model in fewer or more files left; the library would load one file rather than shards."""
    if any(folder.glob(_SHARDS)):  # the library removes those of an earlier model
        (folder / SAFE_WEIGHTS_NAME).unlink(missing_ok=True)
    else:
        (folder / SAFE_WEIGHTS_INDEX_NAME).unlink(missing_ok=True)


def make_branch(api: HfApi, repo_id: str, revision: str | None, create_pr: bool = False) -> None:
    """Make a branch where there is none; a user who may not make one can still open a pull request."""
    if revision is None or revision.startswith("refs/"):
        return
    try:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    except HfHubHTTPError as error:
        if not create_pr or error.response.status_code != 403:
            raise
