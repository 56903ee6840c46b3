"""A run next to its prediction, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dora_nb.domain.run_record import Copying, EnergyFigure, Incident, RunRecord
from dora_nb.render.accuracy import accuracy_text
from dora_nb.render.html import fragment, pairs
from dora_nb.render.svg import attribute
from dora_nb.units import counted, format_bytes, format_count, format_joules, format_seconds

#: What is said of figures of a random network.
_OF_RANDOM = "; of a small random network, which says little about a trained one"


def run_pairs(record: RunRecord) -> list[tuple[str, str]]:
    """What ran, how it compares with one process, and measured against predicted time: (name, text)."""
    workload = record.workload
    layers, parameters = counted(len(workload.layers), "layer"), format_count(workload.parameters)
    size = f"{layers}, {parameters} parameters, {workload.precision}"
    scaled = " scaled down" if record.scaled_down else ""
    found = [
        (
            "ran",
            f"{_work(record)} of {workload.name}{scaled} ({size}) on {counted(len(record.plan.devices), 'worker')}",
        ),
        ("difference", f"at most {record.max_abs_diff:.1e} from the same network in one process"),
    ]
    if record.accuracy is not None:
        found.append(("accuracy", f"{accuracy_text(record.accuracy)}{_OF_RANDOM if record.scaled_down else ''}"))
    if record.steps:
        found.append(("training step", _times(record.predicted_s, record.measured_s)))
    if record.inference_measured_s > 0:  # none where training was resumed
        name = "all requests" if record.measured_stream is not None else "inference batch"
        found.append((name, _times(record.inference_predicted_s, record.inference_measured_s)))
    found += [*_tokens(record), *_requests(record)]
    if record.ordering is not None:
        found.append(("transfers", record.ordering.text))
    if record.copying is not None:
        found.append(("copies", _copies(record.copying)))
    found += [(each.kind, _incident(each, record.workload.trains)) for each in record.incidents]
    if record.energy:
        found.append(("energy", "; ".join(_energy(record.energy))))
    return [*found, ("devices", record.emulation)]


def _work(record: RunRecord) -> str:
    if record.steps:
        return f"{record.steps} training steps and one inference batch"
    if record.measured_stream is not None:
        return f"a stream of {counted(record.requests, 'request')}"
    tokens = record.workload.new_tokens
    return f"one batch of {record.workload.batch} x {tokens} new tokens" if tokens else "one inference batch"


def _tokens(record: RunRecord) -> Iterator[tuple[str, str]]:
    """How fast tokens came."""
    predicted, measured = record.predicted_tokens, record.measured_tokens
    if predicted is None or measured is None:
        return
    yield "first token", _times(predicted.first_token_s, measured.first_token_s)
    if predicted.token_s is not None and measured.token_s is not None:
        yield "further token", _times(predicted.token_s, measured.token_s)
    if record.differences.tokens is not None:
        yield "other tokens", f"{record.differences.tokens} of {record.workload.batch * record.workload.new_tokens}"


def _requests(record: RunRecord) -> Iterator[tuple[str, str]]:
    """How long requests took, and whether their rate was kept."""
    predicted, measured = record.predicted_stream, record.measured_stream
    if predicted is None or measured is None:
        return
    yield "median latency", _times(predicted.median_s, measured.median_s)
    yield "95 % within", _times(predicted.p95_s, measured.p95_s)
    yield "longest latency", _times(predicted.longest_s, measured.longest_s)
    if measured.requests_per_s is not None:
        kept = {True: "kept up", False: "did not keep up"}
        rates = f"{1 / measured.arrival_s:.3g} requests/s came, {measured.requests_per_s:.3g} /s were answered"
        foreseen, seen = kept[bool(predicted.kept_up)], kept[bool(measured.kept_up)]
        yield "rate", f"{rates}: predicted it {foreseen}, measured it {seen}"


def _copies(copying: Copying) -> str:
    return f"{format_bytes(copying.size_bytes)} behind a step: {_times(copying.predicted_s, copying.measured_s)}"


def _incident(incident: Incident, trains: bool) -> str:
    """When, what, how long it took and what was moved for it."""
    when = f"after step {incident.completed}" if incident.completed else "before the first step"
    if not trains:
        when = f"{format_seconds(incident.at_s)} into the run"
    cost = [f"took {format_seconds(incident.seconds)}"] if incident.seconds else []
    cost += [f"{counted(incident.layers_moved, 'layer')} moved"] if incident.layers_moved else []
    return f"{when}: {incident.text}" + (f" ({', '.join(cost)})" if cost else "")


def _energy(figures: Sequence[EnergyFigure]) -> Iterator[str]:
    """Each meter's figure by itself, since meters overlap, and those of the model together."""
    for each in figures:
        if each.status == "measured":
            joules, seconds = format_joules(each.joules), format_seconds(each.seconds)
            yield f"measured {joules} in {seconds} ({each.meter}, {each.scope})"
    estimated = [each for each in figures if each.status == "estimated"]
    if estimated:
        joules = format_joules(sum(each.joules for each in estimated))
        seconds = format_seconds(max(each.seconds for each in estimated))
        scopes = ", ".join(each.scope.removeprefix("device ") for each in estimated)
        yield f"estimated {joules} in {seconds} ({scopes}; {estimated[0].meter})"


def _times(predicted_s: float, measured_s: float) -> str:
    error = 100 * (measured_s / predicted_s - 1)
    return f"predicted {format_seconds(predicted_s)}, measured {format_seconds(measured_s)} ({error:+.1f} %)"


def run_text(record: RunRecord) -> str:
    """The pairs as lines."""
    return "\n".join(f"{name:<16} {text}" for name, text in run_pairs(record))


def run_html(record: RunRecord) -> str:
    """The pairs as a fragment of HTML."""
    return fragment([pairs(run_pairs(record))])


def progress_html(state: str, lines: Sequence[str], problem: str = "") -> str:
    """A run that has no record as a fragment of HTML: where it is, its last lines, and what it failed with."""
    faint, plain = ("<br>".join(map(attribute, text)) for text in (lines, problem.splitlines()))
    parts = [f'<p class="dora-head">Run {attribute(state)}</p>']
    parts += [f'<p class="dora-faint">{faint}</p>'] if faint else []
    parts += [f"<p>{plain}</p>"] if plain else []
    return fragment([f'<div role="status">{"".join(parts)}</div>'])
