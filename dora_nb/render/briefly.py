"""Parts of questions and answers in a line or a few, where their fields would fill a page."""

from __future__ import annotations

from dora_nb.domain.dynamics import MarkovChain
from dora_nb.domain.plan_file import PlanFile
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.stream import Stream
from dora_nb.domain.transfer import HOSTED, ScheduledTransfer
from dora_nb.render import words
from dora_nb.render.kinds import turn_of
from dora_nb.units import counted, format_bytes, format_joules, format_seconds


def transfer_text(transfer: ScheduledTransfer) -> str:
    """A transfer in a line: ``122 us to 9.62 ms: activation, stage 0, micro-batch 1, laptop to phone over wifi``."""
    stage = "hosted first layer" if transfer.stage == HOSTED else f"stage {transfer.stage}"
    turn = turn_of(transfer.kind)
    what = [transfer.kind, stage, f"{turn} {transfer.micro_batch}" if turn else "", f"part {transfer.part}"]
    told = ", ".join(filter(None, what if transfer.part else what[:-1]))
    way = f"{words.sentence(transfer.senders)} to {words.sentence(transfer.receivers)}"
    over = f" over {words.sentence(transfer.media)}" if transfer.media else ""
    return words.one_line(
        f"{format_seconds(transfer.start_s)} to {format_seconds(transfer.end_s)}: {told}, {way}{over}"
    )


def prediction_text(prediction: Prediction) -> str:
    """What is predicted of a plan, its devices in a line each."""
    figures = [f"latency {format_seconds(prediction.makespan_s)}"]
    figures += [f"{format_joules(prediction.energy_j(each))} {counted}" for each, counted in words.COUNTED.items()]
    figures.append(f"{format_bytes(prediction.network_bytes)} sent")
    lines = [f"Predicted: {'; '.join(figures)}"]
    lines += [
        f"  {each.device}: computes {format_seconds(each.busy_s)}, {format_joules(each.energy_j)}, "
        f"{format_bytes(each.memory_bytes)} of {format_bytes(each.usable_memory_bytes)}"
        for each in prediction.devices
    ]
    return "\n".join(map(words.one_line, lines))


def stream_text(stream: Stream) -> str:
    """A stream in a line: how many cameras, which model, how often, from where to where, by when."""
    work = stream.workload
    told = [
        f"{counted(stream.count, 'camera')}",
        f"{work.name}",
        f"a request every {format_seconds(stream.period_s)}",
    ]
    told += [f"from {work.source}"] if work.source else []
    told += [f"to {work.sink}"] if work.sink else []
    told += [f"within {format_seconds(stream.deadline_s)}"] if stream.deadline_s is not None else []
    return words.one_line(f"{stream.name}: {', '.join(told)}")


def chain_text(chain: MarkovChain) -> str:
    """A Markov chain, its states in a line each."""
    lines = [f"{chain.name}: {counted(len(chain.states), 'state')}, steps of {format_seconds(chain.step_s)}"]
    lines += [chain.description] if chain.description else []
    for state in chain.states:
        leaves = [f"{100 * share:.3g} % to {name}" for name, share in state.to.items()]
        lines.append(f"  {state.name}: level {state.level:.3g}, in a step {words.sentence(leaves) or 'never left'}")
    return "\n".join(map(words.one_line, lines))


def plan_file_text(file: PlanFile) -> str:
    """What a plan file holds: what was asked, then the plan."""
    cluster = file.cluster
    asked = [
        f"Plan file of {file.created_by}",
        words.workload_words(file.workload),
        f"{cluster.name}: {counted(len(cluster.devices), 'device')}{words.network_words(cluster)}",
        words.qoe_words(file.qoe),
    ]
    return "\n".join([*map(words.one_line, asked), "", repr(file.plan)])
