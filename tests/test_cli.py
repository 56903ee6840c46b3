"""The command line: in this process, and in one of its own where imports, streams or signals of a process matter."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from builders import cluster, device, workload
from runs import made_up_plan, made_up_run
from typer.testing import CliRunner

from dora_nb.cli import app
from dora_nb.costs.comparison import compare
from dora_nb.domain.cluster_file import save_cluster
from dora_nb.domain.plan_file import load_plan, save_plan
from dora_nb.domain.profile import LayerProfile, Profile
from dora_nb.domain.profile_file import save_profile
from dora_nb.domain.run_file import save_run
from dora_nb.domain.serving_file import load_serving

SMART_HOME = ["--cluster", "smart-home", "--workload", "qwen3-0.6b", "--mode", "training", "--batch", "16"]
SMALL = ["--cluster", "traffic-analytics", "--workload", "vit-b-16", "--batch", "4", "--most-plans", "2"]


def run(*arguments, cwd=None):
    """Run ``dora-nb`` in this process; returns (exit status, standard output, standard error)."""
    with contextlib.chdir(cwd or "."):
        ran = CliRunner().invoke(app, arguments)
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran.exit_code, ran.stdout, ran.stderr


def run_apart(*arguments, cwd=None, prelude=""):
    """The same in a process of its own, with some code before it."""
    program = textwrap.dedent(prelude) + "\nfrom dora_nb.cli import main\nmain()"
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=cwd, timeout=180
    )
    return ran.returncode, ran.stdout, ran.stderr


def refused(outcome, *words):
    """One message, no traceback, nothing on standard output."""
    status, out, err = outcome
    assert status not in (0, 130), err
    assert out == ""
    assert "Traceback" not in err
    message = [line for line in err.splitlines() if not line.startswith(("  planning:", "  composing:"))]
    assert message, err
    for word in words:
        assert word in " ".join(message), (word, err)


def test_the_smart_home_question_is_answered_with_a_bound_and_a_small_gap():
    status, out, err = run_apart("plan", *SMART_HOME, "--solver", "highs", "--json")
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


def test_a_composition_is_answered_with_weights_counts_and_a_bound(tmp_path):
    question = ["--cluster", "smart-home", "--workload", "bert-base", "--batch", "4", "--source", "phone"]
    options = ["--conditions", "smart-home-evening", "--latency", "400 ms", "--window", "10", "--json"]
    status, out, err = run("compose", *question, *options)
    assert status == 0, err
    answer = json.loads(out)
    assert [each["name"] for each in answer["conditions"]] == ["calm", "busy Wi-Fi", "laptop away"]
    for each in answer["conditions"]:
        assert sum(each["counts"]) == 10
        assert each["weights"] == [count / 10 for count in each["counts"]]
        assert len(each["counts"]) == len(each["makespan_s"]) == len(answer["plans"])
        assert each["kept"]
        assert each["mean_s"] <= 0.4 * (1 + 1e-6)
    shares = [each["probability"] * each["mean_j"] for each in answer["conditions"]]
    assert sum(shares) == pytest.approx(answer["value"])
    assert 0 < answer["bound"] <= answer["value"]
    assert answer["gap"] == pytest.approx(1 - answer["bound"] / answer["value"])
    refused(run("compose", *question, "--conditions", "smart-home-morning"), "conditions", "smart-home-evening")


def test_tokens_are_planned_and_executed_and_their_pace_is_told(tmp_path):
    asked = ["--cluster", "smart-home", "--workload", "qwen3-0.6b", "--mode", "generate", "--new-tokens", "16"]
    status, out, err = run("plan", *asked, "--most-plans", "2", "--out", "plan.json", "--json", cwd=tmp_path)
    assert status == 0, err
    answer = json.loads(out)
    assert answer["workload"]["new_tokens"] == 16
    for plan in answer["plans"]:
        assert plan["makespan_s"] == pytest.approx(plan["first_token_s"] + 15 * plan["token_s"])
    pytest.importorskip("torch")
    files = ["--trace", "trace.json", "--out", "run.json"]
    status, out, err = run_apart("execute", "plan.json", "--steps", "1", "--json", *files, cwd=tmp_path)
    assert status == 0, err
    facts = json.loads(out)
    assert facts["max_abs_diff"] <= 1e-9
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert facts["differences"]["tokens"] == 0
    for pace in (facts["predicted_tokens"], facts["measured_tokens"]):
        assert pace["first_token_s"] > 0
        assert pace["token_s"] > 0
    assert facts["measured_stream"] is None

    status, out, err = run("compare", "plan.json", "run.json", "--json", cwd=tmp_path)
    assert status == 0, err
    compared = json.loads(out)
    assert compared["measured_s"] == facts["measured_s"]
    assert compared["error"] == pytest.approx(facts["measured_s"] / facts["predicted_s"] - 1)
    assert all(each["error"] is not None for each in compared["stages"])
    refused(run("compare", "run.json", "run.json", cwd=tmp_path), "is not a plan of dora_nb")


def test_a_stream_is_planned_and_its_pace_is_told(tmp_path):
    asked = ["--cluster", "traffic-analytics", "--workload", "vit-b-16", "--mode", "stream", "--rate", "50 /s"]
    status, out, err = run("plan", *asked, "--most-plans", "2", cwd=tmp_path)
    assert status == 0, err
    assert "a request every 20 ms" in out
    assert "would keep up with a request every" in out


def test_without_gurobi_highs_answers_and_says_why():
    status, out, err = run_apart("plan", *SMALL, "--json", prelude="import sys; sys.modules['gurobipy'] = None")
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
    status, out, err = run_apart("plan", *SMALL, "--json", prelude=prelude)
    assert status == 0, err
    for plan in json.loads(out)["plans"]:
        assert "HiGHS" in plan["solver"]
        assert "too small" in plan["solver_reason"]


def test_without_torch_planning_works_and_running_says_what_to_install(tmp_path):
    no_torch = "import sys; sys.modules['torch'] = None"
    status, _, err = run_apart("plan", *SMALL, "--out", "plan.json", cwd=tmp_path, prelude=no_torch)
    assert status == 0, err
    refused(run_apart("execute", "plan.json", cwd=tmp_path, prelude=no_torch), "torch", "pip install 'dora-nb[exec]'")


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
        (["--throughput", "9 samples/s"], ["throughput of 9 samples/s", "is impossible: the best plan takes 1"]),
        (["--throughput", "9 J"], ["samples_per_s", "9 J", "samples/s"]),
        (["--battery", "phone"], ["battery", "phone=300 J"]),
        (["--battery", "toaster=3 J"], ["battery_j", "toaster", "laptop"]),
        (["--battery", "phone=3 s"], ["battery_j", "3 s", "kJ"]),
        (
            [part for name in ("phone", "laptop", "minipc", "tvbox", "hub") for part in ("--battery", f"{name}=1 J")],
            ["battery limits", "is impossible", "without that the best plan takes 1"],
        ),
        (["--headroom", "10 J"], ["headroom", "10 J", "GB"]),
        (["--headroom", "99.9%"], ["keeps the memory headroom is impossible"]),
        (["--objective", "price"], ["joules_per_s", "exactly when"]),
        (["--joules-per-second", "5"], ["joules_per_s", "exactly when"]),
        (["--latency-price", "5"], ["latency_price", "next to the limit"]),
        (["--latency", "20 s", "--latency-price", "5 J/s"], ["latency_price", "'J' is not a unit of time"]),
        (["--most-plans", "0"], ["most_plans", "1 or more"]),
        (["--cluster", "smart-hom"], ["smart-hom", "smart-home"]),
        (["--workload", "gpt"], ["gpt", "qwen3-0.6b"]),
        (["--mode", "generate"], ["new_tokens", "at least 1 in mode 'generate'"]),
        (["--mode", "stream"], ["requests_per_s", "a rate in mode 'stream'"]),
        (["--mode", "stream", "--rate", "5 W"], ["requests_per_s", "5 W", "/s"]),
        (["--mode", "stream", "--rate", "1000 /s"], ["keeps up with a request every 1 ms", "none can keep up"]),
        (["--batch", "0"], ["batch", "0"]),
        (["--source", "toaster"], ["source", "toaster", "laptop"]),
        (["--precision", "fp8"], ["precision", "fp8"]),
        (["--solver", "cplex"], ["cplex", "highs"]),
        (["--gap", "2"], ["gap", "2"]),
        (["--time-limit", "soon"], ["time_limit", "soon"]),
        (["--cluster", "nowhere/cluster.json"], ["nowhere/cluster.json"]),
        (["--out", "nowhere/plan.json"], ["nowhere/plan.json", "no folder nowhere"]),
        (["--out", "."], [".: cannot be written", "it is a folder"]),
        (["--batch", "100000000"], ["batch: got 100000000", "at most"]),
        (["--mode", "generate", "--new-tokens", "100000000"], ["new_tokens: got 100000000", "at most"]),
        (["--problem", "mine.json"], ["nothing with --problem"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_what_cannot_be_planned_is_one_clear_message(arguments, words, tmp_path):
    refused(run("plan", *SMART_HOME, "--out", "plan.json", "--json", *arguments, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("--most-plans", "0"), ("--gap", "2"), ("--time-limit", "soon"), ("--time-limit", "0 s")]
)
def test_what_is_refused_is_refused_before_the_question_is_told(arguments, tmp_path):
    refused(run("plan", *SMART_HOME, *arguments, cwd=tmp_path), arguments[0].strip("-").replace("-", "_"))


def test_every_term_of_the_qoe(tmp_path):
    terms = ["--objective", "price", "--joules-per-second", "5 J/s", "--latency", "14 s", "--latency-price", "40 J/s"]
    terms += ["--throughput", "0.5 samples/s", "--battery", "phone=400 J", "--headroom", "10%", "--energy", "2 kJ"]
    status, out, err = run("plan", *SMART_HOME, *terms, "--most-plans", "3", "--json", cwd=tmp_path)
    assert status == 0, err
    facts = json.loads(out)
    assert 1 <= len(facts["plans"]) <= 3
    assert facts["coverage"]["most_plans"] == 3
    assert facts["coverage"]["proven"]
    assert facts["coverage"]["delta"] >= 0
    best = next(plan for plan in facts["plans"] if plan["label"] == facts["best"])
    assert (best["objective"], best["unit"], best["with_prices"]) == ("price", "J", True)
    limits = {limit["term"]: limit for limit in best["limits"]}
    assert set(limits) == {"latency", "throughput", "energy", "battery", "headroom"}
    assert all(limit["kept"] for limit in best["limits"] if limit["price"] is None)
    late_s = max(0.0, best["makespan_s"] - 14)
    assert best["value"] == pytest.approx(best["energy_j"] + 5 * best["makespan_s"] + 40 * late_s)
    assert best["bound"] <= best["value"]
    assert best["gap"] <= 0.15


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
    told = """
        import atexit, sys
        atexit.register(lambda: print("loaded:", *{"torch._dynamo", "sympy"} & {*sys.modules}, file=sys.stderr))
    """
    status, out, err = run_apart("demo", "--json", cwd=tmp_path, prelude=told)
    assert status == 0, err
    assert err.splitlines()[-1] == "loaded:", "a second of a core more, for compiling that nobody does"
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
    compared = {label.split(",")[0] for label in (each["label"] for each in facts["baselines"])}
    assert compared > {"best single device", "even split"}
    assert compared & {"Asteroid", "EdgeShard", "PipeEdge", "PipeDream/Alpa"}
    execution = facts["execution"]
    assert execution["steps"] == 3
    assert len(execution["losses"]) == 3
    assert 0 <= execution["max_abs_diff"] <= 1e-9
    assert execution["predicted_s"] > 0
    assert execution["measured_s"] > 0
    assert not execution["ordering"]["asked"]

    assert sorted(path.name for path in (tmp_path / "dora-demo").iterdir()) == ["plan.json", "trace.json"]
    plan_file = json.loads((tmp_path / "dora-demo" / "plan.json").read_text())
    assert plan_file["plan"]["label"] == labels[-1]
    events = json.loads((tmp_path / "dora-demo" / "trace.json").read_text())["traceEvents"]
    processes = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert len(processes) == 2
    assert {event["ph"] for event in events} >= {"X", "M"}


def test_the_doctor_names_solvers_and_licence():
    status, out, err = run("doctor", "--json")
    assert status == 0, err
    findings = {finding["name"]: finding for finding in json.loads(out)["findings"]}
    assert findings["HiGHS"]["ok"]
    assert {"python", "torch", "gurobipy", "Gurobi", "chromium", "catalogue", "jupyterlab", "nvidia-ml-py"} <= set(
        findings
    )


def test_a_run_is_compared_with_its_plan(tmp_path):
    """A run that never was, whose transfers took 0.5 s."""
    run_record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0}, steps=3)
    save_run(tmp_path / "run.json", run_record)
    save_plan(tmp_path / "plan.json", made_up_plan(), run_record.workload, run_record.cluster)
    status, out, err = run("compare", "plan.json", "run.json", cwd=tmp_path)
    assert status == 0, err
    assert "".join(out.split()) == "".join(str(compare(made_up_plan(), run_record)).split())
    status, out, err = run("compare", "plan.json", "run.json", "--json", cwd=tmp_path)
    assert status == 0, err
    facts = json.loads(out)
    assert [each["measured_s"] for each in facts["steps"]] == [0.7, 1.0, 2.0, 3.0]
    assert {each["measured_s"] for each in facts["transfers"]} == {0.5}
    assert {each["kind"] for each in facts["stages"]} == {"forward", "backward", "step"}
    other = made_up_plan().replace(micro_batches=4)
    save_plan(tmp_path / "other.json", other, run_record.workload.replace(batch=16), run_record.cluster)
    refused(run("compare", "other.json", "run.json", cwd=tmp_path), "plan", "the plan that was run")
    refused(run("compare", "plan.json", "plan.json", cwd=tmp_path), "plan.json", "is not a run of dora_nb")


def test_the_doctor_says_what_to_install():
    status, out, err = run_apart(
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
    module = subprocess.run([sys.executable, "-m", "dora_nb", "--help"], capture_output=True, text=True, timeout=180)
    assert "dora-nb demo" in module.stdout
    for command in ("demo", "plan", "execute", "doctor"):
        assert run(command, "--help")[0] == 0


def test_threads_seed_and_log_of_the_solver(tmp_path):
    words = ["--solver", "highs", "--threads", "1", "--seed", "3", "--solver-log", str(tmp_path / "solver.log")]
    status, out, err = run("plan", *SMALL, *words, "--json")
    assert status == 0, err
    assert "HiGHS" in json.loads(out)["solver"]
    assert "rows" in (tmp_path / "solver.log").read_text()
    refused(run("plan", *SMALL, "--threads", "0"), "threads: got 0", "1 or more")


def test_a_feasible_question_is_explained_in_units():
    status, out, err = run("explain", *SMALL[:-2], "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["feasible"]
    assert answer["best"]["makespan_s"] > 0
    kinds = {each["of"] for each in answer["margins"]}
    assert kinds == {"memory", "bandwidth", "device"}
    for each in answer["margins"]:
        assert each["unit"] in ("bytes", "bytes/s", "devices")
        assert each["proven"] in ("better", "worse", "nothing", "impossible")
        assert each["proven"] != "nothing" or abs(each["change"]) <= each["uncertainty"] + 1e-12


def test_an_infeasible_question_is_explained_and_that_is_no_failure():
    status, out, err = run("explain", *SMALL[:-2], "--latency", "20 ms")
    assert status == 0, err
    assert "latency of 20 ms is impossible" in " ".join(out.split())
    assert "It becomes possible with a latency of" in out
    status, out, err = run("explain", *SMALL[:-2], "--latency", "20 ms", "--json")
    assert status == 0, err
    (relaxation,) = json.loads(out)["relaxations"]
    (change,) = relaxation["changes"]
    assert (change["limit"], change["unit"], change["asked"]) == ("latency", "s", 0.02)
    assert change["needed"] == pytest.approx(relaxation["plan"]["makespan_s"])


def test_explain_takes_the_options_of_plan():
    options = [set(re.findall(r"--[a-z-]+", run(command, "--help")[1])) for command in ("plan", "explain")]
    assert options[0] - options[1] == {"--algorithm", "--most-plans", "--out", "--problem"}
    refused(run("explain", "--cluster", "nowhere", "--workload", "vit-b-16"), "nowhere", "smart-home")


def test_explain_searches_the_plans_that_were_allowed():
    """What a stage may hold is asked about, not passed over."""
    asked = ("explain", "--cluster", "smart-home", "--workload", "qwen3-0.6b", "--mode", "generate", "--json")
    asked += ("--new-tokens", "16", "--time-limit", "1 s")
    best = [run(*asked, *more) for more in ((), ("--weights", "fp16"))]
    assert [status for status, _, _ in best] == [0, 0], best
    in_fp32, in_fp16 = (json.loads(out)["best"]["makespan_s"] for _, out, _ in best)
    assert in_fp16 < in_fp32
    refused(run(*asked, "--weights", "int4"), "weights", "int4")


def test_a_result_never_replaces_what_it_is_made_of(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("{}")
    before = path.read_bytes()
    for command in (
        ("execute", "plan.json", "--out", "plan.json"),
        ("execute", "plan.json", "--trace", "../" + tmp_path.name + "/plan.json"),
        ("execute", "plan.json", "--trace", "run.json", "--out", "run.json"),
        ("export", "plan.json", "--to", "stages", "--out", "plan.json"),
        ("plan", *SMALL, "--profile", "edge=plan.json", "--out", "plan.json"),
        ("plan", "--cluster", "plan.json", "--workload", "vit-b-16", "--out", "plan.json"),
        ("probe", "--cluster", "plan.json", "--out", "plan.json"),
        ("share", "--cluster", "smart-home", "--streams", "plan.json", "--out", "plan.json"),
    ):
        refused(run(*command, cwd=tmp_path), "would be replaced", "give another file")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_options_that_would_say_nothing_are_refused(tmp_path):
    to = ("export", "plan.json", "--out", "out", "--to")
    refused(run(*to, "stages", "--program", "joint", cwd=tmp_path), "program", "only lp and mps")
    refused(run(*to, "mps", "--coordinator", "10.0.0.1:4242", cwd=tmp_path), "coordinator", "only plan")
    own = ("profile", "mine:network", "--sample", "mine:sample")
    refused(run(*own, "--sequence", "64", cwd=tmp_path), "sequence", "your own model")
    refused(run(*own, "--precision", "fp16", cwd=tmp_path), "precision", "your own model")


def test_a_network_of_ones_own_is_planned_with_its_profiles(tmp_path):
    save_cluster(tmp_path / "two.json", cluster([device("a"), device("b")]))
    layers = (LayerProfile(forward_s={1: 1.0, 4: 4.0}),) * 2
    save_profile(tmp_path / "mine.json", Profile(workload=workload(2, mode="inference"), layers=layers, machine="mine"))
    asked = ("plan", "--cluster", "two.json", "--profile", "a=mine.json", "--profile", "b=mine.json")
    status, out, err = run(*asked, "--out", "plan.json", cwd=tmp_path)
    assert status == 0, err
    assert "tiny, inference, batch 4, fp32: 2 layers" in out
    assert load_plan(tmp_path / "plan.json").plan.prediction.makespan_s == pytest.approx(4.0)  # two samples, two layers
    refused(run(*asked, "--batch", "8", cwd=tmp_path), "batch", "without --workload")
    refused(run("plan", "--cluster", "two.json", cwd=tmp_path), "--workload")


def test_cameras_share_a_cluster(tmp_path):
    asked = ("share", "--cluster", "traffic-analytics", "--streams", "traffic-cameras")
    status, out, err = run(*asked, "--out", str(tmp_path / "sharing.json"), "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert len(answer["cameras"]) == 8
    assert 0 < answer["bound"] <= answer["value"]
    assert (tmp_path / "sharing.json").exists()
    for camera in answer["cameras"]:
        assert max(camera["latencies_s"]) <= camera["deadline_s"]
    refused(run("share", "--cluster", "traffic-analytics", "--streams", "no-such"), "traffic-cameras")


def test_requests_for_tokens_are_served(tmp_path):
    asked = ("serve", "--cluster", "smart-home", "--workload", "qwen3-0.6b", "--new-tokens", "4", "--rate", "0.5 /s")
    few = ("--slots", "1", "--slots", "2", "--groups", "1", "--requests", "12", "--first-token", "2 s")
    status, out, err = run(*asked, *few, "--out", str(tmp_path / "serving.json"), "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert 0 < answer["bound"] <= answer["value"]
    assert answer["figures"]["worst_first_token_s"] <= 2
    assert answer["plan"]["micro_batch"] in (1, 2)
    assert load_serving(tmp_path / "serving.json").model_dump(mode="json") == answer
    refused(run(*asked[:-2]), "requests_per_s", "a rate")
    refused(run(*asked, *few, "--waves", "9"), "waves", "up to 2")


def test_layers_are_sliced_where_that_is_asked_for(tmp_path):
    asked = ["--cluster", "edge-cluster", "--workload", "qwen3-0.6b", "--most-plans", "1"]
    status, out, err = run("plan", *asked, "--shards", "2", "--out", "plan.json", "--json", cwd=tmp_path)
    assert status == 0, err
    assert "layers sliced over up to 2 devices" in out
    refused(run("plan", *asked[:2], "--workload", "resnet-50", "--shards", "2", "--json"), "shards", "resnet-50")
