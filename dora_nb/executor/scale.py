"""A planned workload and its plan, made small enough to run on one machine.

The structure stays: family, ratio of query to key-value heads, biases and norms, tied or not, and where the plan cuts
in terms of structure (a stage with only the embedding keeps only the embedding). Width, depth, vocabulary and sequence
shrink. Samples, micro-batches, replicas, in-flight counts, sums and the order of transfers are the plan's own.
"""

from __future__ import annotations

import math

from dora_nb.domain.architecture import (
    Architecture,
    DecoderArchitecture,
    EncoderArchitecture,
    VisionTransformerArchitecture,
)
from dora_nb.domain.layer import BYTES_PER_ELEMENT
from dora_nb.domain.plan import Plan, Stage, Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError

TransformerArchitecture = DecoderArchitecture | EncoderArchitecture | VisionTransformerArchitecture

# What a transformer shrinks to, at most.
BLOCKS = 8
HEADS = 4
HEAD_DIM = 16
VOCABULARY = 512
PATCH_PX = 8
CLASSES = 64

#: Tokens of one micro-batch, and the fewest and most of one sample. A pass of a micro-batch through a block then takes
#: several milliseconds on one core, so that calling it and passing it on are small beside it, however few its samples.
MICRO_BATCH_TOKENS, FEWEST_TOKENS, MOST_TOKENS = 256, 32, 128

#: Feed-forward width in units of the hidden width, at most.
WIDEST_FFN = 4.0


def scale_down(plan: Plan, workload: Workload) -> tuple[Workload, Plan]:
    """The small workload and the plan cut to it.

    Inputs and labels are made where they are needed and outputs stay there, so a source and a sink, and the transfers
    from and to them, are dropped.

    Parameters
    ----------
    plan
        For ``workload``.
    workload
        A transformer that trains or infers.

    Returns
    -------
    workload, plan
        In fp64; the plan without prediction and certificate, which are not the small workload's.

    Raises
    ------
    InputError
        If the network is not a transformer, the mode cannot be run, or the plan is not one for the workload.
    """
    architecture = _transformer(workload)
    if workload.mode not in ("training", "inference"):
        raise InputError("workload.mode", workload.mode, "'training' or 'inference': the modes the executor runs")
    if plan.layer_count != len(workload.layers) or len(workload.layers) != architecture.blocks + 2:
        raise InputError(
            "plan.stages",
            plan.layer_count,
            f"stages that cover embedding, {architecture.blocks} blocks and head of {workload.name}",
        )
    stages, blocks = _small_stages(plan, architecture.blocks)
    tokens = min(max(MICRO_BATCH_TOKENS // plan.micro_batch, FEWEST_TOKENS), MOST_TOKENS)
    small = _small_workload(workload, _small_architecture(architecture, blocks, tokens), tokens)
    return small, plan.replace(
        stages=stages,
        overlap=True,  # the executor never waits for what it sends
        chunks=1,
        transfer_order=_whole_transfers(plan),
        prediction=None,
        certificate=None,
    )


def _whole_transfers(plan: Plan) -> tuple[Transfer, ...]:
    """The order without inputs, labels and outputs, and each transfer whole, where its first part was."""
    return tuple(
        each.replace(part=0)
        for each in plan.transfer_order
        if each.kind not in ("input", "label", "output") and each.part <= 1
    )


def for_inference(plan: Plan, workload: Workload) -> tuple[Plan, Workload]:
    """The forward pass alone of a scaled-down plan and workload: activations in the same order, no sums."""
    order = tuple(each for each in plan.transfer_order if each.kind == "activation")
    stages = tuple(stage.replace(all_reduce=None) for stage in plan.stages)
    tied = "hosted" if plan.tied == "hosted" else "none"
    assert workload.architecture is not None, "a scaled-down workload has an architecture"
    return (
        plan.replace(stages=stages, tied=tied, transfer_order=order),
        _workload_of(workload, workload.architecture, "inference", workload.sequence, workload.image_px),
    )


def _transformer(workload: Workload) -> TransformerArchitecture:
    architecture = workload.architecture
    if not isinstance(architecture, TransformerArchitecture):
        family = None if architecture is None else architecture.family
        raise InputError(
            "workload.architecture.family",
            family,
            "decoder, encoder or vit: the executor runs transformer families for now",
        )
    return architecture


def _small_stages(plan: Plan, blocks: int) -> tuple[tuple[Stage, ...], int]:
    """Stages over fewer blocks, and how many blocks there are then."""
    divisor = max(1.0, blocks / BLOCKS)
    start = plan.stages[0].first_layer
    position, kept_in_all = start, 0
    stages = []
    for stage in plan.stages:
        in_stage = max(0, min(stage.stop_layer, blocks + 1) - max(stage.first_layer, 1))
        kept = max(1, round(in_stage / divisor)) if in_stage else 0
        ends = int(stage.first_layer == 0) + int(stage.stop_layer == blocks + 2)
        # The executor sums gradients when a device has nothing left to compute: one bucket.
        all_reduce = None if stage.all_reduce is None else stage.all_reduce.replace(buckets=1)
        cut = {"first_layer": position, "stop_layer": position + kept + ends, "all_reduce": all_reduce}
        stages.append(stage.replace(**cut))
        position += kept + ends
        kept_in_all += kept
    return tuple(stages), kept_in_all


def _small_architecture(architecture: TransformerArchitecture, blocks: int, tokens: int) -> TransformerArchitecture:
    if isinstance(architecture, DecoderArchitecture):
        queries_per_key = architecture.heads // architecture.kv_heads
        kv_heads = min(architecture.kv_heads, max(1, HEADS // queries_per_key))
        heads = kv_heads * queries_per_key
        head_dim = min(architecture.head_dim, HEAD_DIM)
        hidden = min(architecture.hidden, heads * head_dim)
        return architecture.replace(
            hidden=hidden,
            blocks=blocks,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            ffn=_small_ffn(architecture, hidden),
            vocabulary=min(architecture.vocabulary, VOCABULARY),
        )
    heads = min(architecture.heads, HEADS)
    hidden = heads * min(architecture.hidden // architecture.heads, HEAD_DIM)
    small = architecture.replace(hidden=hidden, blocks=blocks, heads=heads, ffn=_small_ffn(architecture, hidden))
    if isinstance(small, EncoderArchitecture):
        return small.replace(vocabulary=min(small.vocabulary, VOCABULARY), positions=min(small.positions, MOST_TOKENS))
    patch_px = min(small.patch_px, PATCH_PX)
    patches = min(small.image_px // small.patch_px, math.isqrt(tokens))  # along a side
    return small.replace(patch_px=patch_px, image_px=patches * patch_px, classes=min(small.classes, CLASSES))


def _small_ffn(architecture: TransformerArchitecture, hidden: int) -> int:
    return max(1, round(hidden * min(architecture.ffn / architecture.hidden, WIDEST_FFN)))


def _small_workload(workload: Workload, architecture: TransformerArchitecture, tokens: int) -> Workload:
    sequence = None if workload.sequence is None else min(workload.sequence, tokens)
    image_px = architecture.image_px if isinstance(architecture, VisionTransformerArchitecture) else None
    return _workload_of(workload, architecture, workload.mode, sequence, image_px)


def _workload_of(
    workload: Workload, architecture: Architecture, mode: str, sequence: int | None, image_px: int | None
) -> Workload:
    chain = architecture.chain(
        mode=mode, sequence=sequence, image_px=image_px, bytes_per_element=BYTES_PER_ELEMENT["fp64"]
    )
    return workload.replace(
        mode=mode,
        precision="fp64",
        sequence=sequence,
        image_px=image_px,
        source=None,
        sink=None,
        layers=chain.layers,
        input_bytes=chain.input_bytes,
        label_bytes=chain.label_bytes,
        output_bytes=chain.output_bytes,
        architecture=architecture,
    )
