"""The command line, in processes of its own where exit status and streams matter."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

SMART_HOME = ["--cluster", "smart-home", "--workload", "qwen3-0.6b", "--mode", "training", "--batch", "16"]
SMALL = ["--cluster", "traffic-analytics", "--workload", "vit-b-16", "--batch", "4", "--trade-offs", "0"]


def run(*arguments, cwd=None, prelude="", **environment):
    """Run ``dora-nb`` with some code before it; returns (exit status, standard output, standard error)."""
    program = textwrap.dedent(prelude) + "\nfrom dora_nb.cli import main\nmain()"
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=180,
    )
    return ran.returncode, ran.stdout, ran.stderr


def refused(outcome, *words):
    """One message, no traceback, nothing on standard output."""
    status, out, err = outcome
    assert status not in (0, 130), err
    assert out == ""
    assert "Traceback" not in err
    message = [line for line in err.splitlines() if not line.startswith("  planning:")]
    assert message, err
    for word in words:
        assert word in " ".join(message), (word, err)


def test_the_smart_home_question_is_answered_with_a_bound_and_a_small_gap():
    status, out, err = run("plan", *SMART_HOME, "--solver", "highs", "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["plans"]
    assert answer["baselines"]
    assert answer["wall_s"] > 0
    for plan in answer["plans"]:
        assert plan["unit"] == {"latency": "s", "energy": "J"}[plan["objective"]]
        assert plan["value"] == pytest.approx(plan["makespan_s"] if plan["unit"] == "s" else plan["energy_j"])
        assert 0 < plan["bound"] <= plan["value"]
        assert plan["gap"] == pytest.approx((plan["value"] - plan["bound"]) / plan["value"])
        assert plan["gap"] <= 0.15
        assert plan["status"] in ("optimal", "feasible")
        assert "HiGHS" in plan["solver"]
        assert plan["period_s"] > 0
    single = next(each for each in answer["baselines"] if each["label"].startswith("best single device"))
    assert min(plan["makespan_s"] for plan in answer["plans"]) < single["makespan_s"]


def test_without_gurobi_highs_answers_and_says_why():
    status, out, err = run("plan", *SMALL, "--json", prelude="import sys; sys.modules['gurobipy'] = None")
    assert status == 0, err
    for plan in json.loads(out)["plans"]:
        assert "HiGHS" in plan["solver"]
        assert "gurobipy is not installed" in plan["solver_reason"]


def test_with_a_licence_too_small_highs_answers_and_says_why():
    prelude = """
        import gurobipy
        class TooSmall(gurobipy.Model):
            def optimize(self, *arguments):
                raise gurobipy.GurobiError(10010, "Model too large for size-limited license")
        gurobipy.Model = TooSmall
    """
    status, out, err = run("plan", *SMALL, "--json", prelude=prelude)
    assert status == 0, err
    for plan in json.loads(out)["plans"]:
        assert "HiGHS" in plan["solver"]
        assert "too small" in plan["solver_reason"]


def test_without_torch_planning_works_and_running_says_what_to_install(tmp_path):
    no_torch = "import sys; sys.modules['torch'] = None"
    status, _, err = run("plan", *SMALL, "--out", "plan.json", cwd=tmp_path, prelude=no_torch)
    assert status == 0, err
    refused(run("execute", "plan.json", cwd=tmp_path, prelude=no_torch), "torch", "pip install 'dora-nb[exec]'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--latency", "80 ms"],
            ["latency of 80 ms is impossible", "the best plan takes 1", "none can take less than"],
        ),
        (["--energy", "100 J"], ["energy of 100 J is impossible", "the thriftiest plan takes"]),
        (["--latency", "80 MB"], ["latency_s", "80 MB", "ms"]),
        (["--energy=-3"], ["energy_j", "-3"]),
        (["--cluster", "smart-hom"], ["smart-hom", "smart-home"]),
        (["--workload", "gpt"], ["gpt", "qwen3-0.6b"]),
        (["--mode", "generate"], ["generate", "training", "inference"]),
        (["--batch", "0"], ["batch", "0"]),
        (["--source", "toaster"], ["source", "toaster", "laptop"]),
        (["--precision", "fp8"], ["precision", "fp8"]),
        (["--solver", "cplex"], ["cplex", "highs"]),
        (["--gap", "2"], ["gap", "2"]),
        (["--time-limit", "soon"], ["time_limit", "soon"]),
        (["--cluster", "nowhere/cluster.json"], ["nowhere/cluster.json"]),
        (["--out", "nowhere/plan.json"], ["nowhere/plan.json", "no folder nowhere"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_what_cannot_be_planned_is_one_clear_message(arguments, words, tmp_path):
    refused(run("plan", *SMART_HOME, "--out", "plan.json", "--json", *arguments, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_one_clear_message(tmp_path):
    (tmp_path / "plan.json").write_text('{"format": "dora-nb/plan", "version":')
    refused(run("execute", "plan.json", cwd=tmp_path), "plan.json", "line 1")
    refused(run("execute", "missing.json", cwd=tmp_path), "missing.json")
    (tmp_path / "cluster.json").write_text("[]")
    refused(run("plan", *SMART_HOME, "--json", "--cluster", "cluster.json", cwd=tmp_path), "cluster.json")


def test_an_interrupted_solve_is_one_clear_message(tmp_path):
    """Ctrl-C while the search runs: exit status 130, no traceback, no plan file."""
    slow = [*SMART_HOME, "--workload", "qwen3-1.7b", "--batch", "64", "--gap", "0.0001", "--out", "plan.json"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from dora_nb.cli import main\nmain()", "plan", *slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stderr is not None
    seen = process.stderr.readline()  # it has begun to plan
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, seen + err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_demo_does_the_whole_job(tmp_path):
    pytest.importorskip("torch")
    status, out, err = run("demo", "--json", cwd=tmp_path)
    assert status == 0, err
    facts = json.loads(out)
    labels = [plan["label"] for plan in facts["plans"]]
    assert labels[0] == "latency-optimal"
    assert labels[-1] == "energy-optimal"
    assert len(labels) >= 3
    for plan in facts["plans"]:
        assert plan["makespan_s"] <= facts["qoe"]["latency_s"]
        assert 0 < plan["bound"] <= plan["value"]
        assert plan["gap"] <= 0.15
        assert {"period_s", "energy_j", "status", "solver", "solver_reason", "devices"} <= set(plan)
    assert {label.split(",")[0] for label in (each["label"] for each in facts["baselines"])} == {
        "best single device",
        "even split",
    }
    execution = facts["execution"]
    assert execution["steps"] == 3
    assert len(execution["losses"]) == 3
    assert 0 <= execution["max_abs_diff"] <= 1e-9
    assert execution["predicted_s"] > 0
    assert execution["measured_s"] > 0

    assert sorted(path.name for path in (tmp_path / "dora-demo").iterdir()) == ["plan.json", "trace.json"]
    plan_file = json.loads((tmp_path / "dora-demo" / "plan.json").read_text())
    assert plan_file["plan"]["label"] == labels[-1]
    events = json.loads((tmp_path / "dora-demo" / "trace.json").read_text())["traceEvents"]
    processes = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert len(processes) == 2
    assert {event["ph"] for event in events} >= {"X", "M"}

    again = run("execute", "dora-demo/plan.json", "--steps", "1", "--json", "--trace", "run.json", cwd=tmp_path)
    assert again[0] == 0, again[2]
    assert json.loads(again[1])["max_abs_diff"] <= 1e-9
    assert (tmp_path / "run.json").exists()


def test_the_doctor_names_solvers_and_licence():
    status, out, err = run("doctor", "--json")
    assert status == 0, err
    findings = {finding["name"]: finding for finding in json.loads(out)["findings"]}
    assert findings["HiGHS"]["ok"]
    assert {"python", "torch", "gurobipy", "Gurobi", "chromium", "catalogue", "jupyterlab"} <= set(findings)


def test_the_doctor_says_what_to_install():
    status, out, err = run(
        "doctor",
        prelude="""
        import importlib.metadata
        found = importlib.metadata.version
        def version(name):
            if name == "papermill":
                raise importlib.metadata.PackageNotFoundError(name)
            return found(name)
        importlib.metadata.version = version
    """,
    )
    assert status == 0, err
    assert "pip install 'dora-nb[sweep]'" in out


def test_help_teaches():
    status, out, _ = run("--help")
    assert status == 0
    assert "dora-nb demo" in out
    for command in ("demo", "plan", "execute", "doctor"):
        assert run(command, "--help")[0] == 0
