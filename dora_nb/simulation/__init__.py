"""A discrete-event simulator: plans run step by step while networks and devices change. Knows no solver."""

from dora_nb.simulation.clock import StepResult
from dora_nb.simulation.engine import run_step
from dora_nb.simulation.record import SimulationRecord
from dora_nb.simulation.run import simulate
from dora_nb.simulation.steps import StepModel
from dora_nb.simulation.stream import StreamRun, play_stream
from dora_nb.simulation.traces import Trace, load_trace, save_trace
from dora_nb.simulation.world import Influence, World

__all__ = [
    "Influence",
    "SimulationRecord",
    "StepModel",
    "StepResult",
    "StreamRun",
    "Trace",
    "World",
    "load_trace",
    "play_stream",
    "run_step",
    "save_trace",
    "simulate",
]
