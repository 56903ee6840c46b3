"""What is said of weights in fewer bits: which layers, and what is known of the outputs."""

from __future__ import annotations

from collections.abc import Sequence

from dora_nb.domain.accuracy import Accuracy
from dora_nb.domain.plan import Plan, Weights
from dora_nb.domain.workload import Workload
from dora_nb.render.words import WEIGHTS, layer_words, sentence
from dora_nb.units import counted


def accuracy_lines(plans: Sequence[Plan], workload: Workload) -> list[str]:
    """Which layers the plans hold in fewer bits, and that nobody knows yet what that does to the results."""
    plans_of: dict[str, list[str]] = {}
    for plan in plans:
        held = [words for weights in WEIGHTS if (words := _held_words(plan, workload, weights))]
        if held:
            plans_of.setdefault(sentence(held), []).append(repr(plan.label) if plan.label else "the plan")
    return [
        f"Accuracy not measured: {held} in {sentence(labels)}; all others, also those of the baselines, are in "
        f"{workload.precision}. dora.measure_accuracy(plan, workload, model, data) measures it."
        for held, labels in plans_of.items()
    ]


def accuracy_text(accuracy: Accuracy) -> str:
    """How far outputs are from the network's own precision."""
    share = 100 * accuracy.same_choices / accuracy.choices
    return (
        f"outputs off by {accuracy.mean:.1e} on average, {accuracy.largest:.1e} at most, of {accuracy.magnitude:.1e} "
        f"on average; the same largest output in {share:.4g} % of {counted(accuracy.choices, 'place')}"
    )


def _held_words(plan: Plan, workload: Workload, weights: Weights) -> str:
    """Which layers a plan holds so; nothing if there are none."""
    stages = [stage for stage in plan.stages if stage.weights == weights]
    layers = [index for stage in stages for index in range(stage.first_layer, stage.stop_layer)]
    if weights == "int8":
        layers = [index for index in layers if workload.int8_parameters[index]]
    names = layer_words([workload.layers[index].name for index in layers])
    if not names:
        return ""
    if weights == "int8":
        return f"the weights of {names} are in 8 bits"
    return f"{names} {'is' if len(layers) == 1 else 'are'} computed in {WEIGHTS[weights]}"
