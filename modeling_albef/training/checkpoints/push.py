"""Pushing a run to the Hub: the model, its processor, its code and a card. Nothing else leaves the machine unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from ...hub_albef import STALE_FILES, make_branch
from ...model_card_albef import CardFacts, make_model_card, origin
from ..arguments import AlbefTrainingArguments
from ..errors import PushError
from ..lora import merged_state_dict
from .manifest import STATE_FILE, write_manifest

logger = logging.get_logger(__name__)
FAILED_ON_THE_WAY = "A push during training failed, the next one has it all"


class HubPushMixin(Trainer):
    """Pushes of a trainer to the Hub.

    Each push is one commit of a folder that is made for it, so a push that breaks off leaves the repository as it was.
    `training_args.bin`, a pickle with paths and tokens, is never uploaded; the optimizer's state and the teacher only
    with the `hub_strategy` "checkpoint" or "all_checkpoints", which ask for them.
    """

    args: AlbefTrainingArguments
    model: Any
    hub_model_id: Any
    push_in_progress: Any
    dataset_names: tuple[str, ...] = ()  # of the card, without paths
    base_model: str | list[str] | None = None  # name on the Hub of what training started from, for the card
    card_arguments: Mapping[str, Any] = {}  # handed in so far, by the names of `Trainer.create_model_card`
    results: dict[str, dict[str, float]]  # metrics by split, measured on the model as it is

    def keep_final_results(self) -> None:
        """Keep, of the evaluations during training, only that of the final weights as a result."""
        step = self.state.best_global_step if self.args.load_best_model_at_end else self.state.global_step
        splits = [f"eval_{name}" for name in self.eval_dataset] if isinstance(self.eval_dataset, Mapping) else ["eval"]
        self.results = {}
        for line in self.state.log_history:
            for split in splits:
                metrics = {name: line[f"{split}_{name}"] for name in self.args.METRICS if f"{split}_{name}" in line}
                if metrics and line.get("step") == step:
                    self.results[split] = metrics

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository on the Hub where there is none; a PushError says why not. A push needs it first."""
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or self.args.output_folder.absolute().name
        private = self.args.hub_private_repo if private is None else private
        api = HfApi(token=token or self.args.hub_token)
        with _explained(
            f"push_to_hub needs the repository {name} on the Hub, which cannot be made or found ({{reason}}): log in "
            "with `hf auth login`, give another hub_model_id, or leave push_to_hub out."
        ):
            self.hub_model_id = api.create_repo(name, private=private, exist_ok=True).repo_id
        self.push_in_progress = None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the run into the output folder.

        Args:
            args: Those of `Trainer.create_model_card`: `language`, `license`, `tags`, `model_name`, `finetuned_from`,
                `tasks`, `dataset_tags` (data sets by their names on the Hub), `dataset`, `dataset_args`. What is left
                out is that of the run; what is handed in counts for later cards and pushes, too.
            kwargs: Likewise.
        """
        self._keep_card_arguments(*args, **kwargs)
        if self.is_world_process_zero():
            folder = self.args.output_folder
            folder.mkdir(parents=True, exist_ok=True)
            self._write_card(folder, self.hub_model_id or folder.absolute().name)

    def _keep_card_arguments(self, *args: Any, **kwargs: Any) -> None:
        bound = signature(Trainer.create_model_card).bind(self, *args, **kwargs).arguments
        self.card_arguments = {**self.card_arguments, **{key: bound[key] for key in bound if key != "self"}}

    def _write_card(self, folder: Path, name: str) -> None:
        said = self.card_arguments
        name = said.get("model_name") or name
        tags = (getattr(self.model, "model_tags", None), self.args.hub_tags, said.get("tags"))
        ids, names = _listed(said.get("dataset_tags")), _listed(said.get("dataset"))
        facts = CardFacts(
            datasets=tuple(names or ids) or self.dataset_names,
            dataset_ids=tuple(ids),
            dataset_args=", ".join(_listed(said.get("dataset_args"))) or None,
            results=self.results,
            arguments=self.args.recipe(),
            base_model=said.get("finetuned_from") or self.base_model or origin(self.model.config, name),
            license=said.get("license") or self.args.hub_license,
            tags=tuple(tag for some in tags for tag in _listed(some)),
            language=said.get("language"),
            task=next(iter(_listed(said.get("tasks"))), None),
            has_code=(folder / "modeling_albef.py").is_file(),
        )
        make_model_card(self.model.config, type(self.model).__name__, name, facts).save(folder / "README.md")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Upload the model as it is, the processor, the code (`push_code`) and the card; a PushError says what failed.

        The arguments are the library's: `kwargs` are those of `create_model_card`. A `revision` is made where it does
        not exist. The first process gets the commit, or a `Future` of it.
        """
        self._keep_card_arguments(**kwargs)
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self._finish_current_push()
        with _explained(
            f"The push to {self.hub_model_id} failed: {{reason}}\nThe repository is as it was, and the model is whole "
            f"in {self.args.output_dir}. To push it again, run the command with --model_name_or_path "
            f"{self.args.output_dir} --do_train false."
        ):
            return self._upload(commit_message, blocking, token, revision)

    def _upload(
        self,
        commit_message: str | None,
        blocking: bool,
        token: str | None = None,
        revision: str | None = None,
        checkpoint: Path | None = None,
    ) -> Any:
        """Upload all in one commit; a failure in the background is logged."""
        api = HfApi(token=token or self.args.hub_token)
        revision = revision or self.args.hub_revision
        make_branch(api, self.hub_model_id, revision)
        folder = TemporaryDirectory(prefix="albef-push-")
        self.model.save_pretrained(folder.name, state_dict=merged_state_dict(self.model), save_code=self.args.push_code)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder.name, save_code=self.args.push_code)
        self._write_card(Path(folder.name), self.hub_model_id)
        if checkpoint is not None:
            name = "last-checkpoint" if self.args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
            _copy_checkpoint(checkpoint, Path(folder.name) / name)
        options: Any = {"folder_path": folder.name, "commit_message": commit_message, "revision": revision}
        options["delete_patterns"] = STALE_FILES
        if blocking:
            with folder:
                try:
                    return api.upload_folder(repo_id=self.hub_model_id, **options)
                except RuntimeError as error:  # what the Hub's transfer library raises where the network breaks off
                    raise ConnectionError(str(error)) from error.__cause__
        job: Future[Any] = api.upload_folder(repo_id=self.hub_model_id, run_as_future=True, **options)
        job.add_done_callback(lambda _: folder.cleanup())
        job.add_done_callback(_log_failure)
        return job

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Push in the background what was just saved; a failure here does not end the training."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        is_busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        is_whole = strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
        message = f"Training in progress, step {self.state.global_step}"
        try:
            with _explained("{reason}"):
                job = self._upload(message, blocking=False, checkpoint=checkpoint if is_whole else None)
        except PushError as error:  # before the upload itself, such as at its branch
            logger.warning(f"{FAILED_ON_THE_WAY}: {error}")
            return
        running = self.push_in_progress.jobs if is_busy else []
        self.push_in_progress = PushInProgress(cast(Any, [*running, job]))


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


@contextmanager
def _explained(message: str) -> Iterator[None]:
    """Turn errors of the Hub, the network and the disk into a `PushError`; `{reason}` is replaced by their text."""
    try:
        yield
    except (OSError, HTTPError, HFValidationError) as error:
        reason = " ".join(str(one) for one in (error, error.__cause__) if one is not None)
        raise PushError(message.replace("{reason}", reason)) from error


def _log_failure(job: Future[Any]) -> None:
    if not job.cancelled() and job.exception() is not None:
        logger.warning(f"{FAILED_ON_THE_WAY}: {job.exception()}")


def _copy_checkpoint(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint without the pickled arguments and without this machine's paths."""
    shutil.copytree(checkpoint, target, ignore=shutil.ignore_patterns(TRAINING_ARGS_NAME, "README.md"))
    state_file = target / STATE_FILE
    state = json.loads(state_file.read_text(encoding="utf-8"))
    if state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    state_file.write_text(json.dumps(state, indent=2), encoding="utf-8")
    write_manifest(target)
