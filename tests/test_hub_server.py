"""The stand-in of the Hub, used by the real client: what goes up comes down again, as regular and as large files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, serve

SCRIPT = """
import sys
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

api, folder = HfApi(), sys.argv[1]
assert api.create_repo("things", private=True).repo_id == "user/things"
api.upload_folder(repo_id="user/things", folder_path=folder, commit_message="Both kinds")
assert open(hf_hub_download("user/things", "sub/large.bin"), "rb").read() == b"0" * 1000
assert sorted(api.list_repo_files("user/things")) == [".gitattributes", "small.txt", "sub/large.bin"]
api.create_branch("user/things", branch="other")
api.upload_file(path_or_fileobj=b"new", path_in_repo="small.txt", repo_id="user/things", revision="other")
assert open(snapshot_download("user/things", revision="other") + "/small.txt").read() == "new"
assert open(hf_hub_download("user/things", "small.txt")).read() == "small"
for error, call in {
    RepositoryNotFoundError: lambda: api.model_info("user/nothing"),
    EntryNotFoundError: lambda: hf_hub_download("user/things", "nothing.txt"),
    RevisionNotFoundError: lambda: hf_hub_download("user/things", "small.txt", revision="nowhere"),
}.items():
    try:
        call()
    except error:
        continue
    raise AssertionError(error)
Dataset.from_dict({"caption": ["a", "b", "c"]}).push_to_hub("user/rows")
assert load_dataset("user/rows", split="train")["caption"] == ["a", "b", "c"]
assert [row["caption"] for row in load_dataset("user/rows", split="train", streaming=True)] == ["a", "b", "c"]
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve() as server:
        yield server


def test_the_real_client_pushes_and_pulls(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "small.txt").write_text("small")
    (tmp_path / "folder" / "sub" / "large.bin").write_bytes(b"0" * 1000)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "folder")]
    done = subprocess.run(command, env=hub.environment(tmp_path / "cache"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.repositories["models", "user/things"].private
    assert hub.repositories["models", "user/things"].messages[1] == "Both kinds"
    assert b"0" * 1000 in hub.lfs.values() and b"small" not in hub.lfs.values()  # each by its own way
    assert any(path.endswith(".parquet") for path in hub.files("user/rows", "datasets"))
