"""Pushing a run to the Hub: the model, its processor, its code and a card. Nothing else leaves the machine unasked."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from ...hub_albef import RunFacts, make_model_card
from ..arguments import AlbefTrainingArguments
from ..lora import merged_state_dict
from .whole_checkpoints import STATE_FILE, write_manifest

logger = logging.get_logger(__name__)

# What a card says of the arguments; none of them names a place on this machine.
CARD_ARGUMENTS = (
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size"),
    *("learning_rate", "min_learning_rate", "warmup_learning_rate", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("optim", "seed", "bf16", "fp16", "momentum", "alpha", "alpha_warmup", "distill", "queue_size", "k_test"),
)


class PushError(RuntimeError):
    """A push that failed; the message says what is safe and how to go on."""


class HubPushMixin(Trainer):
    """How a trainer pushes.

    Each push is one commit of a folder that is made for it, so a push that breaks off leaves the repository as it was.
    `training_args.bin`, a pickle with paths and tokens, is never uploaded; the optimizer's state and the teacher only
    with the `hub_strategy` "checkpoint" or "all_checkpoints", which ask for them.

    Attributes:
        dataset_names: Of the card, without paths.
        base_model: Name on the Hub of what training started from, for the card.
        results: Metrics by split, measured on the model as it is.
    """

    args: AlbefTrainingArguments
    model: Any
    processing_class: Any
    push_in_progress: Any
    dataset_names: tuple[str, ...] = ()
    base_model: str | None = None
    results: dict[str, dict[str, float]]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains; of the evaluations on the way only the one of the final weights counts as a result."""
        outcome = super().train(*args, **kwargs)
        step = self.state.global_step
        if self.args.load_best_model_at_end:
            step = self.state.best_global_step
        self.results = {}
        for line in self.state.log_history:
            metrics = {name: line[f"eval_{name}"] for name in self.args.METRICS if f"eval_{name}" in line}
            if metrics and line.get("step") == step:
                self.results = {"eval": metrics}
        return outcome

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository on the Hub where there is none; with `push_to_hub` before training.

        Args:
            token: For the Hub; default: `args.hub_token`, or the one of `hf auth login`.
            private: Whether a repository that is made is private; default: `args.hub_private_repo`.

        Raises:
            PushError: The Hub cannot be reached, or refuses.
        """
        try:
            super().init_hf_repo(token, private)
        except Exception as error:
            name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
            raise PushError(
                f"push_to_hub needs the repository {name} on the Hub, which cannot be made or found ({error}): log in "
                "with `hf auth login`, give another hub_model_id, or leave push_to_hub out."
            ) from error

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the card of the run into the output folder.

        Args:
            args: Not used here; see `dataset_names`, `base_model` and `results`.
            kwargs: Likewise, but for `model_name` and `license`.
        """
        if self.is_world_process_zero():
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            name = kwargs.get("model_name") or self.hub_model_id or Path(self.args.output_dir).absolute().name
            self._write_card(Path(self.args.output_dir), name, kwargs.get("license"))

    def _write_card(self, folder: Path, name: str, license: str | None = None) -> None:
        arguments = {name: getattr(self.args, name) for name in CARD_ARGUMENTS if hasattr(self.args, name)}
        facts = RunFacts(self.dataset_names, self.results, arguments, self.base_model, license)
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
        """Uploads the model as it is, the processor, the code (`push_code`) and the card.

        Args:
            commit_message: Title of the commit.
            blocking: Whether to wait for the end of the upload.
            token: For the Hub; default: `args.hub_token`, or the one of `hf auth login`.
            revision: Branch, made where it does not exist; default: `args.hub_revision`.
            private: Whether a repository that is made is private; default: `args.hub_private_repo`.
            kwargs: `license`, for the card.

        Returns:
            The commit, or a `Future` of it; None on all processes but the first.

        Raises:
            PushError: The upload failed.
        """
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        try:
            if self.hub_model_id is None:
                super().init_hf_repo(token, private)
            self._finish_current_push()
            return self._upload(commit_message, blocking, token, revision, license=kwargs.get("license"))
        except Exception as error:
            reason = " ".join(str(one) for one in (error, error.__cause__) if one is not None)
            raise PushError(
                f"The push to {self.hub_model_id or self.args.hub_model_id} failed: {reason}\n"
                f"The repository is as it was, and the model is whole in {self.args.output_dir}. To push it again, run "
                f"the command with --model_name_or_path {self.args.output_dir} --do_train false."
            ) from error

    def _upload(
        self,
        commit_message: str | None,
        blocking: bool,
        token: str | None = None,
        revision: str | None = None,
        license: str | None = None,
        checkpoint: Path | None = None,
    ) -> Any:
        api = HfApi(token=token or self.args.hub_token)
        revision = revision or self.args.hub_revision
        if revision is not None:
            api.create_branch(self.hub_model_id, branch=revision, exist_ok=True)
        folder = TemporaryDirectory(prefix="albef-push-")
        self.model.save_pretrained(folder.name, state_dict=merged_state_dict(self.model), save_code=self.args.push_code)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder.name, save_code=self.args.push_code)
        self._write_card(Path(folder.name), self.hub_model_id, license)
        if checkpoint is not None:
            name = "last-checkpoint" if self.args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
            _copy_checkpoint(checkpoint, Path(folder.name) / name)
        if blocking:
            with folder:
                return api.upload_folder(
                    repo_id=self.hub_model_id, folder_path=folder.name, commit_message=commit_message, revision=revision
                )
        job: Future[Any] = api.upload_folder(
            repo_id=self.hub_model_id,
            folder_path=folder.name,
            commit_message=commit_message,
            revision=revision,
            run_as_future=True,
        )
        job.add_done_callback(lambda _: folder.cleanup())
        return job

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes in the background what was just saved; a failure here does not end the training."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        is_busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_busy and not self.args.hub_always_push:
            return
        self._report_failed_pushes()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        whole = strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
        message = f"Training in progress, step {self.state.global_step}"
        job = self._upload(message, blocking=False, checkpoint=Path(checkpoint_folder) if whole else None)
        running = self.push_in_progress.jobs if is_busy else []
        self.push_in_progress = PushInProgress(cast(Any, [*running, job]))

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._report_failed_pushes()

    def _report_failed_pushes(self) -> None:
        if getattr(self, "push_in_progress", None) is None:
            return
        for job in [job for job in self.push_in_progress.jobs if job.done()]:
            self.push_in_progress.jobs.remove(job)
            if job.exception() is not None:
                logger.warning(f"A push during training failed, the next one has it all: {job.exception()}")


def _copy_checkpoint(checkpoint: Path, target: Path) -> None:
    """Copies what training goes on from, without the pickled arguments, and without this machine's paths."""
    shutil.copytree(checkpoint, target, ignore=shutil.ignore_patterns(TRAINING_ARGS_NAME, "README.md"))
    state_file = target / STATE_FILE
    state = json.loads(state_file.read_text(encoding="utf-8"))
    if state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    state_file.write_text(json.dumps(state, indent=2), encoding="utf-8")
    write_manifest(target)
