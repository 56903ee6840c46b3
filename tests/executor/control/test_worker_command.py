"""``dora-nb worker`` says what is wrong in one message."""

from __future__ import annotations

import socket

import pytest
from processes import until
from typer.testing import CliRunner

from dora_nb.cli import app
from dora_nb.errors import ExecutionError, InputError
from dora_nb.executor.control.join import _own_name, join
from dora_nb.executor.control.process import WORKER_ENVIRONMENT
from dora_nb.executor.control.token import create_token


@pytest.fixture(autouse=True)
def _as_started_anew(monkeypatch):
    for key, value in WORKER_ENVIRONMENT.items():
        monkeypatch.setenv(key, value)  # or this process would be replaced by a worker


def test_another_token_is_refused_on_both_sides(door, private):
    create_token(private / "other")
    with pytest.raises(ExecutionError, match=r"no agreement with 127.0.0.1.*when the token is another one"):
        join(str(door.listener.address), private / "other", name="phone")
    until(lambda: door.listener.refused == 1)
    assert door.guests == {}
    assert "does not know the token" in door.listener.last_refusals[-1]


def test_who_is_silent_may_wait_for_certificates(private, monkeypatch):
    monkeypatch.setattr("dora_nb.executor.control.handshake.STRANGER_S", 0.1)
    create_token(private / "token")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ExecutionError, match=r"no agreement with .* too slow; where it has certificates"):
            join(address, private / "token", name="phone")


def test_a_worker_nobody_waits_for_is_told_so(door):
    door.problem = InputError("name", "phone", "what the coordinator waits for: laptop")
    with pytest.raises(ExecutionError, match=r"refused this worker.*waits for: laptop"):
        join(str(door.listener.address), door.listener.token_file, name="phone")


def test_nobody_at_the_address(private):
    create_token(private / "token")
    with pytest.raises(ExecutionError, match=r"nobody answers at 127.0.0.1:1: .*refused"):
        join("127.0.0.1:1", private / "token", wait_s=0)


def test_names_under_torchrun_go_by_rank(monkeypatch):
    assert _own_name("phone") == "phone"
    with pytest.raises(InputError, match="one name"):
        _own_name("phone,laptop")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "1")
    assert _own_name("phone,laptop") == "laptop"
    assert _own_name(None).endswith("-1")
    with pytest.raises(InputError, match="this one has rank 1"):
        _own_name("phone")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--coordinator", "nonsense", "--token-file", "token"), "host:port"),
        (("--coordinator", "127.0.0.1:1", "--token-file", "missing"), "missing: the token file cannot be read"),
        (("--coordinator", "127.0.0.1:1", "--token-file", "t", "--tls-cert", "c"), "together, or none of them"),
    ],
)
def test_wrong_arguments_are_one_message(arguments, message):
    ran = CliRunner().invoke(app, ["worker", *arguments])
    assert ran.exit_code == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith("dora-nb: ")
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1
