"""Nothing forks but a process of its own, and what other systems lack is guarded: macOS, Windows are reasoned about."""

from __future__ import annotations

import ast
import functools
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "dora_nb"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Modules that Windows does not have.
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}

#: Names of ``os`` and ``signal`` that Windows does not have; the first ones are used in one place.
FORKS = {"fork", "forkpty", "posix_spawn", "posix_spawnp"}
POSIX_NAMES = {
    "SIGKILL", "SIGSTOP", "SIGCONT", "SIGHUP", "SIGUSR1", "SIGUSR2", "O_NOFOLLOW", "O_NONBLOCK", "getuid", "geteuid",
    "getpgid", "killpg", "mkfifo", "pthread_kill", "pthread_sigmask", "sched_getaffinity", "sched_setaffinity",
    "setsid", "setpgid", "sigwait", "sysconf", "uname", "wait3", "wait4", "waitpid",
}  # fmt: skip

OWNERS = ("os", "signal")

#: Runs in a process of its own that has one thread, on Linux only.
FORKING = "executor/fork_server.py"

#: Where POSIX and Linux keep things.
ROOTS = ("/proc", "/sys", "/dev", "/bin", "/tmp", "/etc", "/usr")

#: Files that use such names, and what keeps them from being reached where these are missing.
GUARDED = {
    "executor/control/join.py": "require_posix, its first line",
    "executor/control/token.py": "of a listener or a worker: behind require_posix of WorkerPool.open and join",
    "executor/control/forked.py": "started on Linux only, see FORKS of executor/control/process.py",
    "executor/emulation.py": "sysconf: behind a file of /proc, which then is there",
    "executor/fork_server.py": "started on Linux only, see FORKS of executor/control/process.py",
    "executor/measuring/real_size.py": "sysconf: behind try",
    "executor/system.py": "sched_getaffinity: behind hasattr",
    "reproduction/run.py": "pthread_sigmask: behind hasattr",
}

#: Files that name a place of POSIX's or Linux's own, and what happens where it is not there.
PLACES = {
    "executor/control/address.py": "no interface is named",
    "executor/control/scratch.py": "/bin/sh: behind require_posix of WorkerPool.open and join",
    "executor/emulation.py": "other programs' work counts as none",
    "executor/measuring/meters.py": "no meter is found: energy is estimated",
    "executor/measuring/real_size.py": "sysconf is asked, then memory is not checked",
    "executor/device/transport.py": "the host's name is asked; sockets are not woken one by one",
}


def relative(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def loaded_at_once(body: list[ast.stmt]) -> Iterator[str]:
    """Modules that are imported when a file is loaded, without a guard."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.ClassDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)
        ):
            yield from loaded_at_once(node.body)


def test_posix_is_used_behind_a_guard() -> None:
    for path in FILES:
        parsed, name = tree(path), relative(path)
        assert not POSIX_MODULES & set(loaded_at_once(parsed.body)), f"{name}: import it behind a guard"
        found = {
            node.attr
            for node in ast.walk(parsed)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OWNERS
        }
        assert not found & FORKS or name == FORKING, f"{name}: start processes anew instead of forking"
        assert not found & POSIX_NAMES or name in GUARDED, f"{name}: say in GUARDED what guards {found & POSIX_NAMES}"
        texts = {each.value for each in ast.walk(parsed) if isinstance(each, ast.Constant)}
        places = {text for text in texts if isinstance(text, str) and text.startswith(ROOTS)}
        assert not places or name in PLACES, f"{name}: say in PLACES what happens without {places}"


def test_the_lists_name_files_that_are_there() -> None:
    assert {*GUARDED, *PLACES} <= {relative(path) for path in FILES}


def test_processes_are_started_anew() -> None:
    """A pool of processes says how they start: what forks while threads run may hang, and Windows cannot fork."""
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).split(".")
                assert called[-2:] not in (["multiprocessing", "Process"], ["multiprocessing", "Pool"]), relative(path)
                if called[-1] == "ProcessPoolExecutor":
                    assert "mp_context" in {keyword.arg for keyword in node.keywords}, relative(path)
                if called[-1] in ("get_context", "set_start_method"):
                    assert ast.literal_eval(node.args[0]) == "spawn", relative(path)


def test_every_module_without_torch_is_imported_where_posix_modules_are_missing() -> None:
    code = (
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({sorted(POSIX_MODULES - {'posix'})!r}))\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    names = [
        "dora_nb." + relative(path)[:-3].replace("/", ".").removesuffix(".__init__")
        for path in FILES
        if not {"torch", "safetensors", "ipywidgets", "anywidget", "plotly"} & set(loaded_at_once(tree(path).body))
        and path.name not in ("__main__.py", "__init__.py")
        and not relative(path).startswith(("executor/networks", "explorer", "sweeps"))
    ]
    assert "dora_nb.executor.device.medium" in names
    ran = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_where_the_system_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from dora_nb.executor.control import address
    from dora_nb.executor.device.transport import _open_sockets, clock_id
    from dora_nb.executor.emulation import busy_core_s
    from dora_nb.executor.measuring import real_size
    from dora_nb.executor.system import usable_cores

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file")

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr("builtins.open", missing)
    monkeypatch.setattr(pathlib.Path, "exists", lambda _: False)
    monkeypatch.setattr(pathlib.Path, "is_dir", lambda _: False)
    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert usable_cores() >= 1
    assert busy_core_s() == 0
    assert clock_id.__wrapped__() == clock_id.__wrapped__()
    assert _open_sockets() == {}
    assert address.interface_of("::1") is None
    assert address.interface_of("127.0.0.1") is None
    assert real_size.available_memory_bytes() is None


def test_workers_are_refused_in_words_where_nothing_can_start_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from dora_nb.errors import ExecutionError
    from dora_nb.executor import WorkerPool
    from dora_nb.executor.control.join import join

    pool = WorkerPool(1)
    monkeypatch.setattr("dora_nb.executor.system.os", SimpleNamespace(name="nt"))
    with pytest.raises(ExecutionError, match="WSL 2"):
        pool.open()
    with pytest.raises(ExecutionError, match="WSL 2"):
        join("127.0.0.1:1", pathlib.PurePosixPath("token"))  # type: ignore[arg-type]
