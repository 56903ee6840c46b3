"""A planned workload and its plan, made small enough to run on one machine.

The structure stays: family, ratio of query to key-value heads, biases and norms, tied or not, and where the plan cuts
in terms of structure (a stage with only the embedding keeps only the embedding). Width, the depth of transformers,
vocabulary, sequence and image shrink; of heads as many stay as shards in the plan's proportions need. Samples,
micro-batches, replicas, in-flight counts, sums and the order of transfers are the plan's own, but for buckets of
gradients, of which a stage has no more than layers. A stream keeps its rate, and a batch that generates gets fewer
tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from dora_nb.domain.architecture import (
    Architecture,
    DecoderArchitecture,
    EncoderArchitecture,
    MobileNetArchitecture,
    ResNetArchitecture,
    VisionTransformerArchitecture,
)
from dora_nb.domain.layer import BYTES_PER_ELEMENT, Precision
from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError

TransformerArchitecture = DecoderArchitecture | EncoderArchitecture | VisionTransformerArchitecture
ConvolutionalArchitecture = ResNetArchitecture | MobileNetArchitecture

# What a transformer shrinks to, at most.
BLOCKS = 8
HEADS = 4
HEAD_DIM = 16
VOCABULARY = 512
PATCH_PX = 8
CLASSES = 64

#: What a convolutional network shrinks to: part of its widths, at least the fewest channels, and sides of its image.
#: MobileNet is narrow as it is. Its blocks differ from each other, so all of them stay.
RESNET_WIDTH, MOBILENET_WIDTH = 1 / 4, 1 / 2
FEWEST_CHANNELS = 4
IMAGE_PX = 64

#: Tokens of one micro-batch, and the fewest and most of one sample. A pass of a micro-batch through a block then takes
#: several milliseconds on one core, so that calling it and passing it on are small beside it, however few its samples.
MICRO_BATCH_TOKENS, FEWEST_TOKENS, MOST_TOKENS = 256, 32, 128

#: Tokens that are generated, at most: one process without a cache, which all of them are held against, computes the
#: whole text anew for each.
MOST_NEW_TOKENS = 32

#: Feed-forward width in units of the hidden width, at most.
WIDEST_FFN = 4.0


#: Transfers without training.
_WITHOUT_TRAINING = ("activation", "token", "shard-sum", "shard-token-sum")


def scale_down(plan: Plan, workload: Workload) -> tuple[Workload, Plan]:
    """The small workload and the plan cut to it.

    Inputs and labels are made where they are needed and outputs stay there, so a source and a sink, and the transfers
    from and to them, are dropped.

    Parameters
    ----------
    plan
        For ``workload``.
    workload
        With an architecture.

    Returns
    -------
    workload, plan
        In fp64; the plan without prediction and certificate, which are not the small workload's.

    Raises
    ------
    InputError
        If the workload has no architecture, or the plan is not one for the workload.
    """
    small, cut = scaling_of([plan], workload)
    return small, cut(plan)


def scaling_of(
    plans: Sequence[Plan], workload: Workload, *, every_block: bool = False
) -> tuple[Workload, Callable[[Plan], Plan]]:
    """The small workload that several plans can run, and what cuts a plan to it.

    Parameters
    ----------
    plans
        For ``workload``; the first one decides how many tokens a sample has.
    workload
        As for :func:`scale_down`.
    every_block
        Keep all blocks, so that plans with other cuts than these can run too.

    Raises
    ------
    InputError
        As for :func:`scale_down`. What cuts a plan raises it where the plan cuts between blocks that were dropped.
    """
    architecture = workload.architecture
    if architecture is None:
        raise InputError(
            "workload.architecture", None, "an architecture to make a small network of, or a model of your own to run"
        )
    all_blocks = _block_count(architecture)
    for plan in plans:
        if not plan.layer_count == len(workload.layers) == all_blocks + 2:
            raise InputError(
                "plan.stages",
                plan.layer_count,
                f"stages that cover first layer, {all_blocks} blocks and head of {workload.name}",
            )
    cuts = {cut for plan in plans for stage in plan.stages for cut in (stage.first_layer, stage.stop_layer)}
    if every_block or isinstance(architecture, ConvolutionalArchitecture):
        position_of, blocks = _positions(range(all_blocks + 3), all_blocks, 1.0)
    else:
        position_of, blocks = _positions(cuts, all_blocks, max(1.0, all_blocks / BLOCKS))
    tokens = min(max(MICRO_BATCH_TOKENS // plans[0].micro_batch, FEWEST_TOKENS), MOST_TOKENS)
    shares = [parts for plan in plans for stage in plan.stages for parts in stage.shards]
    all_parts = max(layer.parts for layer in workload.layers)
    fewest_parts = all_parts // math.gcd(*shares) if shares else 1
    small = _small_workload(workload, _small_architecture(architecture, blocks, tokens, fewest_parts), tokens)
    small_parts = max(layer.parts for layer in small.layers)

    def cut(plan: Plan) -> Plan:
        unknown = [each for stage in plan.stages for each in (stage.stop_layer,) if each not in position_of]
        if unknown:
            raise InputError("plan.stages", unknown, f"cuts at {sorted(position_of)}, which what runs can be cut at")
        stages = tuple(
            stage.replace(
                first_layer=position_of[stage.first_layer],
                stop_layer=position_of[stage.stop_layer],
                shards=tuple(_in_parts(parts, small_parts, all_parts) for parts in stage.shards),
            )
            for stage in plan.stages
        )
        return executable(plan.replace(stages=stages))

    return small, cut


def _in_parts(share: int, small_parts: int, all_parts: int) -> int:
    """A device's parts of a layer that has fewer of them."""
    small, left = divmod(share * small_parts, all_parts)
    if left:
        unit = all_parts // math.gcd(small_parts, all_parts)
        raise InputError("plan.stages.shards", share, f"a multiple of {unit} parts: what runs has {small_parts} in all")
    return small


def executable(plan: Plan) -> Plan:
    """A plan in the form that is run: what the executor leaves to itself is not decided by it.

    Parameters
    ----------
    plan
        As planned.

    Returns
    -------
    Plan
        Without prediction and certificate, which are not the run's.
    """
    buckets = [min(stage.buckets, stage.stop_layer - stage.first_layer) for stage in plan.stages]
    return plan.replace(
        stages=tuple(
            stage.replace(all_reduce=stage.all_reduce.replace(buckets=count)) if stage.all_reduce and count else stage
            for stage, count in zip(plan.stages, buckets, strict=True)
        ),
        overlap=True,  # the executor never waits for what it sends
        transfer_order=_executed(plan, buckets),
        prediction=None,
        certificate=None,
    )


def _executed(plan: Plan, buckets: Sequence[int]) -> tuple[Transfer, ...]:
    """The order without inputs, labels and outputs, and with so many buckets of each stage.

    A device sums the buckets of its stage one after the other, and then the gradients of tied parameters, so their
    transfers come in this order too. All of them wait for the same last pass, a later one for more of it, and nothing
    but the step waits for a bucket: the places that the plan has for them can be had in any order, and so can those
    before the sum of tied gradients. Where layers are fewer than buckets, each takes the place of the last of those
    that it stands for.
    """
    order: list[Transfer] = []
    summed = [0] * len(buckets)
    for transfer in plan.transfer_order:
        if transfer.kind == "all-reduce":
            stage = transfer.stage
            planned, count = max(plan.stages[stage].buckets, 1), max(buckets[stage], 1)
            before, summed[stage] = summed[stage] * count // planned, summed[stage] + 1
            part = summed[stage] * count // planned
            if part > before:
                order.append(transfer.replace(part=part if count > 1 else 0))
        elif transfer.kind not in ("input", "label", "output"):
            order.append(transfer)
    for own in [each for each in order if each.kind == "all-reduce"]:
        tied = next((n for n, each in enumerate(order) if (each.kind, each.stage) == ("tied-reduce", own.stage)), None)
        if tied is not None and tied < order.index(own):
            order.remove(own)
            order.insert(tied, own)
    return tuple(order)


def for_inference(plan: Plan, workload: Workload) -> tuple[Plan, Workload]:
    """What is run without training: activations in the same order, tokens behind them, no sums of gradients."""
    order = tuple(each for each in plan.transfer_order if each.kind in _WITHOUT_TRAINING)
    stages = tuple(stage.replace(all_reduce=None, recomputes=False) for stage in plan.stages)
    tied = "hosted" if plan.tied == "hosted" else "none"
    alone = plan.replace(stages=stages, tied=tied, transfer_order=order)
    if workload.generates:
        return alone, workload
    if workload.architecture is None:  # a chain given layer by layer, whose figures say no more
        return alone, workload.replace(mode="inference", requests_per_s=None, label_bytes=0.0)
    return alone, _workload_of(
        workload, workload.architecture, "inference", workload.sequence, workload.image_px, workload.precision
    )


def _block_count(architecture: Architecture) -> int:
    """Layers between the first one and the head."""
    if isinstance(architecture, ResNetArchitecture):
        return sum(architecture.depths)
    if isinstance(architecture, MobileNetArchitecture):
        return sum(repeats for _, _, repeats, _ in architecture.stages)
    return architecture.blocks


def _positions(cuts: Iterable[int], blocks: int, divisor: float) -> tuple[dict[int, int], int]:
    """Where each cut comes to lie when there are fewer blocks between cuts, and how many blocks there are then.

    Between two cuts with blocks in between there stays at least one.
    """
    position_of, kept_in_all = {0: 0}, 0
    for first, stop in itertools.pairwise(sorted({0, blocks + 2, *cuts})):
        between = max(0, min(stop, blocks + 1) - max(first, 1))
        kept = max(1, round(between / divisor)) if between else 0
        ends = int(first == 0) + int(stop == blocks + 2)
        position_of[stop] = position_of[first] + kept + ends
        kept_in_all += kept
    return position_of, kept_in_all


def _small_architecture(architecture: Architecture, blocks: int, tokens: int, fewest_parts: int) -> Architecture:
    """The small network; its blocks can be sliced into a multiple of so many parts."""
    if isinstance(architecture, ConvolutionalArchitecture):
        return _small_convolutional(architecture)
    if isinstance(architecture, DecoderArchitecture):
        queries_per_key = architecture.heads // architecture.kv_heads
        kv_heads = _heads(architecture.kv_heads, max(1, HEADS // queries_per_key), fewest_parts)
        heads = kv_heads * queries_per_key
        head_dim = min(architecture.head_dim, HEAD_DIM)
        hidden = min(architecture.hidden, heads * head_dim)
        return architecture.replace(
            hidden=hidden,
            blocks=blocks,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            ffn=_small_ffn(architecture, hidden, kv_heads if fewest_parts > 1 else 1),
            vocabulary=min(architecture.vocabulary, VOCABULARY),
        )
    heads = _heads(architecture.heads, HEADS, fewest_parts)
    hidden = heads * min(architecture.hidden // architecture.heads, HEAD_DIM)
    ffn = _small_ffn(architecture, hidden, heads if fewest_parts > 1 else 1)
    small = architecture.replace(hidden=hidden, blocks=blocks, heads=heads, ffn=ffn)
    if isinstance(small, EncoderArchitecture):
        return small.replace(vocabulary=min(small.vocabulary, VOCABULARY), positions=min(small.positions, MOST_TOKENS))
    patch_px = min(small.patch_px, PATCH_PX)
    patches = min(small.image_px // small.patch_px, math.isqrt(tokens))  # along a side
    return small.replace(patch_px=patch_px, image_px=patches * patch_px, classes=min(small.classes, CLASSES))


def _heads(most: int, wanted: int, multiple: int) -> int:
    """About as many heads as wanted, a multiple of some number that divides the most there are."""
    return min(most, multiple * max(1, wanted // multiple))


def _small_ffn(architecture: TransformerArchitecture, hidden: int, multiple: int) -> int:
    """The feed-forward width, a multiple of some number."""
    width = round(hidden * min(architecture.ffn / architecture.hidden, WIDEST_FFN))
    return multiple * max(1, round(width / multiple))


def _small_convolutional(architecture: ConvolutionalArchitecture) -> ConvolutionalArchitecture:
    common = {"image_px": min(architecture.image_px, IMAGE_PX), "classes": min(architecture.classes, CLASSES)}
    if isinstance(architecture, ResNetArchitecture):
        widths = tuple(4 * _channels(width / 4, RESNET_WIDTH) for width in architecture.widths)  # a quarter inside
        return architecture.replace(
            widths=widths, stem_width=_channels(architecture.stem_width, RESNET_WIDTH), **common
        )
    stages = tuple(
        (expansion, _channels(width, MOBILENET_WIDTH), repeats, stride)
        for expansion, width, repeats, stride in architecture.stages
    )
    return architecture.replace(
        stages=stages,
        stem_width=_channels(architecture.stem_width, MOBILENET_WIDTH),
        head_width=_channels(architecture.head_width, MOBILENET_WIDTH),
        **common,
    )


def _channels(width: float, part: float) -> int:
    return max(round(width * part), min(round(width), FEWEST_CHANNELS))


def _small_workload(workload: Workload, architecture: Architecture, tokens: int) -> Workload:
    sequence = None if workload.sequence is None else min(workload.sequence, tokens)
    image_px = None if isinstance(architecture, DecoderArchitecture | EncoderArchitecture) else architecture.image_px
    return _workload_of(workload, architecture, workload.mode, sequence, image_px, "fp64")


def _workload_of(
    workload: Workload,
    architecture: Architecture,
    mode: str,
    sequence: int | None,
    image_px: int | None,
    precision: Precision,
) -> Workload:
    chain = architecture.chain(
        mode=mode, sequence=sequence, image_px=image_px, bytes_per_element=BYTES_PER_ELEMENT[precision]
    )
    return workload.replace(
        mode=mode,
        precision=precision,
        new_tokens=min(workload.new_tokens, MOST_NEW_TOKENS),
        requests_per_s=workload.requests_per_s if mode == "stream" else None,
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
