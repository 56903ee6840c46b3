"""What is exported is read back and is the same."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

import highspy
import pandas as pd
import pytest
from builders import cluster, device, layer, workload
from typer.testing import CliRunner

import dora_nb as dora
from dora_nb.cli import app
from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.plan_file import load_plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.errors import DocumentError, InputError
from dora_nb.exporting import ExportFormat, export
from dora_nb.planning.exact.programs import program_of
from dora_nb.planning.plan import plan
from dora_nb.solvers import Options, solve


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    """Two devices with names that are not plain words."""
    work = workload([layer(f"l{n}", flops=(n + 1) * 1e9) for n in range(4)], batch=4)
    place = cluster([device("mini-pc", 1e9), device("hub 2", 2e9)], rates=4e6)
    return plan(work, place, QoE(latency_s=60.0), most_plans=1, gap=1e-6)


def write(plans: PlanSet, path: Path, to: ExportFormat, **options: object) -> dora.Exported:
    return export(path, plans.best, plans.workload, plans.cluster, plans.qoe, to=to, **options)  # type: ignore[arg-type]


def test_a_plan_file_reads_back_equal_and_its_commands_are_ours(plans: PlanSet, tmp_path: Path) -> None:
    done = write(plans, tmp_path / "a plan.json", "plan", coordinator="10.0.0.1:5000")
    content = load_plan(done.path)
    assert (content.plan, content.workload, content.cluster) == (plans.best, plans.workload, plans.cluster)
    assert content.qoe == plans.qoe
    here, waits, workers = (shlex.split(line.partition(": ")[2]) for line in done.lines)
    assert here == ["dora-nb", "execute", str(done.path)]
    assert waits[:3] == here
    assert waits[3:] == ["--listen", "10.0.0.1:5000", "--token-file", "token"]
    assert workers[:3] == ["torchrun", f"--nproc-per-node={len(plans.best.devices)}", "--no-python"]
    assert workers[3:5] == ["dora-nb", "worker"]
    assert workers[workers.index("--name") + 1].split(",") == list(plans.best.devices)
    commands = {command.callback.__name__: command for command in app.registered_commands if command.callback}
    for words in (waits, workers[3:]):  # every option there is
        text = CliRunner().invoke(app, [words[1], "--help"], terminal_width=200).output
        assert words[1] in commands
        assert all(option in text for option in words if option.startswith("--"))


def test_workers_connect_at_an_address(plans: PlanSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="coordinator: got 'foo'"):
        write(plans, tmp_path / "plan.json", "plan", coordinator="foo")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["lp", "mps"])
@pytest.mark.parametrize("program", ["joint", "partition", "transfers"])
def test_models_read_back_have_the_same_optimum(
    plans: PlanSet, form: ExportFormat, program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = write(plans, tmp_path / f"model.{form}", form, program=program)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    asked = program_of(plans.best, plans.workload, plans.cluster, plans.qoe, which=program)  # type: ignore[arg-type]
    ours = solve(asked.model, Options(mip_gap=0), solver="highs")
    reader = highspy.Highs()
    reader.silent()
    assert reader.readModel(str(done.path)).name == "kOk"
    assert (reader.getNumCol(), reader.getNumRow()) == (asked.model.nvars, asked.model.ncons)
    reader.setOptionValue("mip_rel_gap", 0.0)
    reader.run()
    assert reader.getInfo().objective_function_value == pytest.approx(ours.objective, rel=1e-6)
    text = done.path.read_text()
    assert asked.words in text.splitlines()[1]
    assert ("hub_2_" if program != "transfers" else "forward.s0.b0") in text
    assert [each.name for each in tmp_path.iterdir()] == [done.path.name]


def test_a_trace_holds_the_same_spans(plans: PlanSet, tmp_path: Path) -> None:
    done = write(plans, tmp_path / "trace.json", "perfetto")
    events = json.loads(done.path.read_text(encoding="utf-8"))["traceEvents"]
    found = sorted(
        (e["args"]["place"], e["cat"], e["args"]["stage"], e["args"]["micro_batch"], e["ts"], e["ts"] + e["dur"])
        for e in events
        if e["ph"] == "X"
    )
    timeline = evaluate(plans.best, plans.workload, plans.cluster).timeline
    expected = sorted(
        (place, each.kind, each.stage, each.micro_batch, each.start_s * 1e6, each.end_s * 1e6)
        for each in timeline
        for place in each.places
    )
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[:4] == theirs[:4]
        assert ours[4:] == pytest.approx(theirs[4:], abs=0.01)


@pytest.mark.parametrize("to", ["stages", "schedule"])
def test_tables_read_back_equal(plans: PlanSet, to: ExportFormat, tmp_path: Path) -> None:
    done = write(plans, tmp_path / f"{to}.csv", to)
    best = evaluate(plans.best, plans.workload, plans.cluster).scheduled
    frame = best.stage_frame() if to == "stages" else best.schedule_frame()
    assert len(frame) > 0
    types = {name: kind for name, kind in frame.dtypes.items() if kind != "str"}
    read = pd.read_csv(StringIO(done.path.read_text()), dtype=types)
    if to == "schedule":  # sums that move nothing hold no medium
        read["media"] = read["media"].astype("str").fillna("").replace("nan", "")
    pd.testing.assert_frame_equal(read.astype(frame.dtypes), frame)


def test_frames_of_a_plan_nobody_evaluated(plans: PlanSet) -> None:
    bare = plans.best.decisions()
    assert list(bare.stage_frame()["device"]) == list(bare.devices)
    assert bare.stage_frame()["busy_s"].isna().all()
    assert len(bare.schedule_frame()) == 0


def test_what_cannot_be_written_leaves_nothing(plans: PlanSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plan, pipelining, perfetto, lp, mps, stages, schedule"):
        write(plans, tmp_path / "x", "excel")  # type: ignore[arg-type]
    with pytest.raises(DocumentError, match="cannot be written"):
        write(plans, tmp_path / "nowhere" / "model.lp", "lp")
    asked = plans.workload.replace(mode="inference")
    bare = plans.best.decisions()
    with pytest.raises(InputError, match="training"):
        export(tmp_path / "x.csv", bare, asked, plans.cluster, to="pipelining")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_and_says_what_to_do(plans: PlanSet, tmp_path: Path) -> None:
    file = dora.save_plan(tmp_path / "plan.json", plans.best, plans.workload, plans.cluster, plans.qoe)
    out = tmp_path / "model.mps"
    ran = CliRunner().invoke(app, ["export", str(file), "--to", "mps", "--out", str(out), "--json"])
    assert ran.exit_code == 0, ran.output
    facts = json.loads(ran.stdout)
    assert facts["path"] == str(out)
    assert out.exists()
    ran = CliRunner().invoke(app, ["export", str(file), "--to", "plan", "--out", str(tmp_path / "copy.json")])
    assert "torchrun --nproc-per-node" in ran.stdout
    assert load_plan(tmp_path / "copy.json").plan == plans.best
    ran = CliRunner().invoke(app, ["export", str(file), "--to", "lp", "--out", str(tmp_path / "no" / "x.lp")])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("dora-nb: ")


@pytest.mark.skipif("DORA_NB_LONG" not in os.environ, reason="starts torchrun and three processes with torch")
def test_the_printed_commands_run_the_plan(plans: PlanSet, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    port = _free_port()
    work = dora.load_workload("vit-b-16", mode="inference", batch=2)
    home = plans.cluster
    best = dora.plan(work, home, most_plans=1, gap=0.01).best
    done = export(tmp_path / "plan.json", best, work, home, to="plan", coordinator=f"127.0.0.1:{port}")
    _, waits, workers = (shlex.split(line.partition(": ")[2]) for line in done.lines)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    options = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    with subprocess.Popen([*waits, "--json"], **options) as coordinator:  # type: ignore[call-overload]
        while not (tmp_path / "token").exists():
            assert coordinator.poll() is None, coordinator.stdout.read()
        started = subprocess.run(workers, timeout=240, check=False, **options)  # type: ignore[call-overload]
        said = coordinator.communicate(timeout=240)[0]
    assert coordinator.returncode == 0, said + started.stdout


def _free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
