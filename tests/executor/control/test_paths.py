"""Files pass between a worker of another host and the coordinator's private directory, and no others."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import pytest

from dora_nb.domain.record import Record
from dora_nb.errors import ExecutionError
from dora_nb.executor.control import files, paths
from dora_nb.executor.control.files import FileDesk
from dora_nb.executor.control.paths import RemoteFiles, SharedFiles
from dora_nb.executor.control.services import FileDelivery, FileRequest


class Order(Record):
    """Something with paths in it."""

    file: str
    deep: Mapping[str, tuple[str, ...]] = {}


class Directly:
    """The coordinator's end of the channel, without the channel; counts what passes."""

    def __init__(self, directory) -> None:
        self.desk, self.parts = FileDesk(directory), 0

    def ask_file(self, request):
        self.parts += 1
        answer = self.desk.serve(request)
        if answer.problem is not None:
            raise ExecutionError(answer.problem)
        return answer


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PART_BYTES", 1000)
    monkeypatch.setattr(paths, "PART_BYTES", 1000)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    coordinator = Directly(theirs)
    return theirs, ours, coordinator, RemoteFiles(coordinator, theirs, ours)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 4500])
def test_a_file_is_fetched_whole_and_once(hosts, size):
    theirs, ours, coordinator, remote = hosts
    content = secrets.token_bytes(size)
    (theirs / "weights").write_bytes(content)
    order = Order(file=str(theirs / "weights"), deep={"more": (str(theirs / "weights"), "relative", "/etc/hostname")})
    local = remote.localise(order)
    assert local.file == str(ours / "weights")
    assert local.deep == {"more": (local.file, "relative", "/etc/hostname")}
    assert (ours / "weights").read_bytes() == content
    parts = coordinator.parts
    remote.localise(order)
    assert coordinator.parts == parts + 2  # it is asked twice whether the file is another one
    assert [each.name for each in ours.iterdir()] == ["weights"]


def test_a_file_that_was_written_again_is_fetched_again(hosts):
    theirs, ours, _, remote = hosts
    order = Order(file=str(theirs / "weights"))
    for content in (b"first", b"second"):
        (theirs / "new").write_bytes(content)
        (theirs / "new").replace(theirs / "weights")
        remote.localise(order)
        assert (ours / "weights").read_bytes() == content


def test_a_directory_is_fetched_with_all_that_is_in_it(hosts):
    theirs, ours, _, remote = hosts
    (theirs / "model" / "deep").mkdir(parents=True)
    (theirs / "model" / "config.json").write_text("{}")
    (theirs / "model" / "deep" / "weights").write_bytes(b"w" * 1500)
    assert remote.localise(Order(file=str(theirs / "model"))).file == str(ours / "model")
    assert (ours / "model" / "config.json").read_text() == "{}"
    assert (ours / "model" / "deep" / "weights").read_bytes() == b"w" * 1500


@pytest.mark.parametrize("size", [0, 999, 1000, 2001])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_is_delivered_whole(hosts, size, absolute):
    theirs, ours, _, remote = hosts
    content = secrets.token_bytes(size)
    with remote.deliver(str(theirs / "results") if absolute else "results") as path:
        path.write_bytes(content)
        assert not (theirs / "results").exists()
    assert (theirs / "results").read_bytes() == content
    assert [each.name for each in theirs.iterdir()] == ["results"]
    assert list(ours.iterdir()) == []


def test_other_paths_are_files_of_the_workers_own_host(hosts, tmp_path):
    *_, coordinator, remote = hosts
    with remote.deliver(str(tmp_path / "mine")) as path:
        assert path == tmp_path / "mine"
        path.write_text("stays here")
    assert coordinator.parts == 0


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "link", "a/../../secret", ".", "", "link/../secret", "a\0b"]
)
def test_nothing_outside_the_directory_is_read_or_written(hosts, tmp_path, path):
    theirs, _, coordinator, _ = hosts
    (tmp_path / "secret").write_text("secret")
    (theirs / "link").symlink_to(tmp_path / "secret")
    for request in (
        FileRequest(request=1, path=path, offset=0),
        FileDelivery(request=1, path=path, offset=0, content=b"x", last=True),
    ):
        answer = coordinator.desk.serve(request)
        assert answer.problem
        assert answer.content == b""
    assert (tmp_path / "secret").read_text() == "secret"


def test_the_coordinator_cannot_make_a_worker_write_elsewhere(hosts, tmp_path):
    theirs, ours, _, remote = hosts
    (tmp_path / "theirs" / "x").write_text("x")
    with pytest.raises(ExecutionError, match="outside"):
        remote.localise(Order(file=f"{theirs}/../../{theirs.parent.name}/theirs/x"))
    with pytest.raises(ExecutionError, match="outside"), remote.deliver("../escaped"):
        pass
    assert list(ours.iterdir()) == []


def test_a_missing_file_is_an_error(hosts):
    theirs, _, _, remote = hosts
    with pytest.raises(ExecutionError, match="No such file"):
        remote.localise(Order(file=str(theirs / "missing")))


def test_on_the_same_host_the_files_are_the_same(tmp_path):
    shared = SharedFiles(tmp_path)
    order = Order(file="/anywhere")
    assert shared.localise(order) is order
    with shared.deliver("name") as path:
        assert path == tmp_path / "name"
    with shared.deliver("/elsewhere") as path:
        assert str(path) == "/elsewhere"
