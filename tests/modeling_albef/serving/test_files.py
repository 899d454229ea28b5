"""Which files a request may name, and that uploads keep their room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modeling_albef.serving.files import ServedFiles


def write(path: Path, size: int = 1, age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("uploads", "images", "other"):
        (tmp_path / name).mkdir()
    return tmp_path / "uploads", tmp_path / "images"


def test_what_is_found(folders: tuple[Path, Path]) -> None:
    uploads, images = folders
    files = ServedFiles(uploads, images, max_bytes=10)
    for path in (write(uploads / "a/x.txt"), write(images / "x.PNG"), write(images / "deep/x.jpg", 10)):
        assert files.find(str(path)) == path
    assert files.can_be_sent(str(images / "x.PNG")) and not files.can_be_sent(str(uploads / "a/x.txt"))
    inside = images / "inside.png"
    inside.symlink_to("x.PNG")
    assert files.find(str(inside)) == images / "x.PNG"
    hidden = images / "shown.png"
    write(images / ".git/x.png")
    hidden.symlink_to(".git/x.png")
    outside = write(images.parent / "other/x.png")
    for name in ("images/out.png", "uploads/out.png"):
        (images.parent / name).symlink_to(outside)
    no = [
        hidden,
        images / ".git/x.png",
        write(images / "x.txt"),
        write(images / "large.png", 11),
        images,
        uploads / "a",
    ]
    no += [images / "out.png", uploads / "out.png", outside, Path("/etc/passwd"), images / "none.png"]
    for path in no:
        assert files.find(str(path)) is None, path
    for text in (f"{images}/../images/x.PNG", f"{images}//x.PNG", f"{images}/x.PNG/", f"{images}/x.PNG\0", "x.PNG"):
        assert files.find(text) is None, text


def test_a_path_outside_is_not_even_looked_up(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files = ServedFiles(*folders, max_bytes=10)
    asked: list[str] = []
    resolve = Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda self, strict=False: (asked.append(str(self)), resolve(self, strict))[1])
    assert files.find("/etc/passwd") is None and asked == []
    assert files.find(str(folders[1] / "x.png")) is None and asked == [str(folders[1] / "x.png")]


def test_a_folder_that_is_named_by_a_link(folders: tuple[Path, Path]) -> None:
    uploads, images = folders
    (images.parent / "link").symlink_to(images)
    path = write(images / "x.png")
    files = ServedFiles(uploads, images.parent / "link", max_bytes=10)
    assert files.find(str(path)) == path


@pytest.mark.parametrize(
    ("limits", "left"), [((45, 100), [3, 4]), ((1000, 3), [2, 3, 4]), ((1000, 100), [0, 1, 2, 3, 4])]
)
def test_room_is_made_by_deleting_the_oldest(
    folders: tuple[Path, Path], limits: tuple[int, int], left: list[int]
) -> None:
    uploads, images = folders
    files = ServedFiles(uploads, images, 100, *limits)
    example = write(uploads / "example/x.png", 50, age=1000)
    files.keep_present()
    paths = [write(uploads / f"{number}/x.png", 20, age=10 - number) for number in range(5)]
    files.make_room()
    assert [number for number, path in enumerate(paths) if path.exists()] == left
    assert [number for number, path in enumerate(paths) if path.parent.exists()] == left
    assert example.exists()
    other = write(images / "x.png", 500)
    files.make_room()
    assert other.exists()


def test_both_folders_have_to_exist(folders: tuple[Path, Path]) -> None:
    uploads, images = folders
    for given in ((uploads / "none", images), (uploads, images / "none")):
        with pytest.raises(FileNotFoundError):
            ServedFiles(*given, max_bytes=10)


def test_a_loop_of_links_is_not_found(folders: tuple[Path, Path]) -> None:
    files = ServedFiles(*folders, max_bytes=10)
    (folders[1] / "loop.png").symlink_to("loop.png")
    (folders[1] / "broken.png").symlink_to("none.png")
    assert files.find(str(folders[1] / "loop.png")) is None and files.find(str(folders[1] / "broken.png")) is None


def test_uploads_have_a_gigabyte_by_default(folders: tuple[Path, Path]) -> None:
    files = ServedFiles(*folders, max_bytes=10)
    old, new = write(folders[0] / "old", 1, age=5), write(folders[0] / "new", 1)
    os.truncate(new, 2**30 - 1)  # without blocks on the disk
    os.utime(new, (1e9, 1e9))
    files.make_room()
    assert old.exists() and new.exists()
    os.truncate(new, 2**30)
    os.utime(new, (1e9, 1e9))
    files.make_room()
    assert not old.exists() and new.exists() and folders[0].exists()


def test_uploads_are_four_thousand_by_default(folders: tuple[Path, Path]) -> None:
    files = ServedFiles(*folders, max_bytes=10)
    oldest = write(folders[0] / "oldest", 0, age=9)
    for number in range(3999):
        (folders[0] / str(number)).touch()
    files.make_room()
    assert oldest.exists()
    (folders[0] / "more").touch()
    files.make_room()
    assert not oldest.exists() and len(list(folders[0].iterdir())) == 4000


def test_the_folder_of_uploads_stays_when_it_is_empty(folders: tuple[Path, Path]) -> None:
    write(folders[0] / "x", 20)
    ServedFiles(*folders, max_bytes=10, max_total=19).make_room()
    assert folders[0].exists() and not list(folders[0].iterdir())


def test_uploads_that_another_request_deletes_meanwhile(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One goes before it is looked at, one right after; the others are counted on."""
    files = ServedFiles(*folders, max_bytes=10, max_total=25)
    paths = [write(folders[0] / f"{number}", 20, age=number) for number in range(4)]
    lstat = os.lstat

    def look(path: str) -> os.stat_result:
        if path == str(first):
            os.unlink(path)
        status = lstat(path)
        if path == str(second):
            os.unlink(path)
        return status

    first, second = (folders[0] / name for name in next(os.walk(folders[0]))[2][:2])
    monkeypatch.setattr(os, "lstat", look)
    files.make_room()
    left = [path for path in paths if path not in (first, second)]
    expected = left[:1] if second != paths[0] else []  # the newest that was seen fills the room
    assert [path for path in paths if path.exists()] == expected
