# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Finding a model, saving it with its code, pushing both to the Hub, so that machines without this package load it."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from huggingface_hub import CommitInfo, HfApi
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import CONFIG_NAME, cached_file

from .model_card_albef import make_model_card
from .pipelines_albef import PIPELINES


def check_model_name(name: str | None) -> None:
    """Makes sure that there is a model, before its parts are asked for one by one.

    Args:
        name: Folder or Hub name; the Hub is asked for USER/NAME alone, where no folder is called so. None, of a
            run that starts from scratch, passes.

    Raises:
        ValueError: There is none; the message says what was looked for, and how to get one.
    """
    if name is None:
        return
    path = Path(name)
    if path.is_dir():
        if not (path / CONFIG_NAME).is_file():  # the library would take the published sizes
            raise ValueError(f"The folder {name} has no {CONFIG_NAME}: give a folder that a model was saved to.")
        return
    found = f"There is no model at {name!r}: there is no such folder here ({path.absolute()})"
    remedy = "Give a folder that a model was saved to (`make demo` makes one, docs/checkpoints.md converts one)"
    if path.is_absolute() or name.startswith(".") or len(path.parts) != 2:
        raise ValueError(f"{found}. {remedy}, or USER/NAME of the Hub.")
    try:
        cached_file(name, CONFIG_NAME)
    except OSError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{found}, and the Hub does not give it ({reason}). {remedy}, or another name.") from error


class AlbefHubMixin:
    """Gives `save_pretrained` the choice of writing the model's code, and `push_to_hub` a model card.

    Attributes:
        auto_class: The library's Auto class of the task, beside `AutoModel`; None where there is none.
    """

    auto_class: ClassVar[str | None] = None
    config: Any

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, save_code: bool | None = None, **kwargs: Any
    ) -> None:
        """Saves the model.

        Args:
            save_directory: Folder; made where it does not exist.
            args: Those of `PreTrainedModel.save_pretrained`.
            save_code: Whether the Python files go beside the weights, and the configuration says which class is in
                which; `trust_remote_code=True` then loads the model where this package is not installed. Default:
                only where the model itself was loaded that way.
            kwargs: Those of `PreTrainedModel.save_pretrained`.
        """
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if save_code is None:
            save_code = self.is_remote_code()  # type: ignore[attr-defined]
        config_file = Path(save_directory) / "config.json"
        if not config_file.is_file():  # an adapter alone
            return
        fields = json.loads(config_file.read_text(encoding="utf-8"))
        for name in ("auto_map", "custom_pipelines"):  # of the folder that the model came from
            fields.pop(name, None)
        if save_code:
            custom_object_save(type(self), save_directory)
            fields |= self._code_references()
        config_file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _code_references(self) -> dict[str, Any]:
        """Which file has which class, in the library's fields of a configuration."""
        pipelines = {
            task: {"impl": f"pipelines_albef.{class_.__name__}", "pt": [auto_class], "type": "multimodal"}
            for task, (class_, auto_class) in PIPELINES.items()
            if auto_class == self.auto_class
        }
        own = type(self)
        auto_map = {"AutoConfig": "configuration_albef.AlbefConfig", "AutoModel": "modeling_albef.AlbefModel"}
        if self.auto_class is not None:
            auto_map[self.auto_class] = f"{own.__module__.split('.')[-1]}.{own.__name__}"
        return {"auto_map": auto_map, **({"custom_pipelines": pipelines} if pipelines else {})}

    def push_to_hub(
        self,
        repo_id: str,
        *,
        save_code: bool = True,
        private: bool | None = None,
        revision: str | None = None,
        token: bool | str | None = None,
        commit_message: str = "Upload model",
        commit_description: str | None = None,
        create_pr: bool = False,
        **save_kwargs: Any,
    ) -> CommitInfo:
        """Uploads weights, configuration, code, and a model card where the repository has none, in one commit.

        Args:
            repo_id: `user/model`, or `model`; made where it does not exist.
            save_code: See `save_pretrained`.
            private: Whether a repository that is made is private.
            revision: Branch; made where it does not exist.
            token: For the Hub; default: the one of `hf auth login`.
            commit_message: Title of the commit.
            commit_description: More of it.
            create_pr: Open a pull request instead.
            save_kwargs: Those of `save_pretrained`, `max_shard_size` for example.

        Returns:
            The commit.

        Raises:
            HfHubHTTPError: The Hub refused or broke off; nothing has changed there then, so it can be tried again.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, save_code=save_code, **save_kwargs)
            if not api.file_exists(repo_id, "README.md", revision=revision):
                make_model_card(self.config, type(self).__name__, repo_id).save(Path(folder) / "README.md")
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )
