"""Files that tfpyop writes: a failed write leaves what was there, and nothing else."""

import errno
import os
import threading
from pathlib import Path

import pytest
import tensorflow as tf

from tests.test_export import Classifier, module_of, softmax
from tfpyop import export
from tfpyop._atomic_files import require_writable, write_file, writing_directory


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("old", [b"old", None])
def test_a_failed_write_keeps_the_old_file(old, tmp_path, monkeypatch):
    if old is not None:
        (tmp_path / "page.html").write_bytes(old)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_file(str(tmp_path / "page.html"), b"new")
    assert contents(tmp_path) == ({} if old is None else {Path("page.html"): old})
    assert len(list(tmp_path.iterdir())) == (old is not None)


def test_links_and_permissions_of_a_file_are_kept(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    require_writable(str(tmp_path / "link"))
    assert (tmp_path / "real").read_bytes() == b"old"
    write_file(str(tmp_path / "link"), b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_a_device_is_written_directly():
    write_file(os.devnull, b"new")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("stage", ["graph", "flush", "move"])
def test_a_failed_save_keeps_the_old_model(native, is_there, stage, tmp_path, monkeypatch):
    path = tmp_path / "model"
    if is_there:
        export.save(Classifier(), path, native=True)
        (path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    if stage == "graph":
        monkeypatch.setattr(tf.saved_model, "save", full_disk)
    elif stage == "flush":
        monkeypatch.setattr(os, "fsync", full_disk)
    elif is_there:
        rename = Path.rename
        monkeypatch.setattr(
            Path,
            "rename",
            lambda self, to: full_disk() if self.name == "saved_model.pb" and "new" in self.parts else rename(self, to),
        )
    else:
        monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export.save(module_of(softmax), path, native=native)
    assert contents(tmp_path) == before
    assert {entry.name for entry in tmp_path.iterdir()} == ({"model"} if is_there else set())


def test_an_existing_target_keeps_foreign_files_link_and_permissions(tmp_path):
    (tmp_path / "real").mkdir(mode=0o750)
    (tmp_path / "real" / "notes.txt").write_text("mine")
    (tmp_path / "real" / "variables").mkdir()
    (tmp_path / "real" / "variables" / "stale").write_text("old")
    (tmp_path / "link").symlink_to("real")
    export.save(module_of(softmax), tmp_path / "link", native=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "real" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "real" / "variables" / "stale").exists()
    assert export.load(tmp_path / "real").call(tf.ones([2, 2])).shape == (2, 2)
    assert not list(tmp_path.rglob(".tfpyop-*"))


def test_a_new_directory_has_the_permissions_of_the_umask(tmp_path):
    export.save(module_of(softmax), tmp_path / "a" / "model", native=True)
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "a" / "model").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_target_that_is_a_file_is_kept(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is not a directory"):
        export.save(module_of(softmax), tmp_path / "model", native=True)
    assert (tmp_path / "model").read_text() == "mine"


def test_concurrent_writers_do_not_mix(tmp_path):
    def write(name):
        for _ in range(20):
            with writing_directory(str(tmp_path / "model"), owned=("a", "b"), last="b") as directory:
                (directory / "a").write_text(name)
                (directory / "b").write_text(name)

    writers = [threading.Thread(target=write, args=[name]) for name in "xyz"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    a, b = contents(tmp_path / "model").values()
    assert a == b
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_failed_copy_to_another_file_system_keeps_the_old_model(monkeypatch):
    path = "ram://atomic/model"
    export.save(Classifier(), path, native=True)
    before = export.required_ops(path), tf.io.gfile.listdir(path)
    monkeypatch.setattr(tf.io.gfile, "copy", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export.save(module_of(softmax), path, native=True)
    assert (export.required_ops(path), tf.io.gfile.listdir(path)) == before
    assert [name.rstrip("/") for name in tf.io.gfile.listdir("ram://atomic")] == ["model"]
