"""The chains of layers, against published totals and against themselves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora_nb.catalog import load_workload
from dora_nb.domain.architecture import (
    DecoderArchitecture,
    EncoderArchitecture,
    MobileNetArchitecture,
    ResNetArchitecture,
    VisionTransformerArchitecture,
)
from dora_nb.errors import InputError

SMALL_DECODER: dict[str, Any] = {
    "hidden": 8,
    "blocks": 2,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 4,
    "ffn": 16,
    "vocabulary": 32,
    "tied_embeddings": True,
}

#: name -> parts of a block: its key-value heads.
PARTS = {"qwen3-0.6b": 8, "qwen2.5-3b": 2, "vit-b-16": 12, "resnet-50": 1, "mobilenet-v2": 1}

#: name -> parameters, forward FLOPs of 128 tokens or one 224 px image; counted by instantiating the models.
PUBLISHED = {
    "qwen3-0.6b": (596_049_920, 156_330_098_688),
    "qwen3-1.7b": (1_720_574_976, 444_193_570_816),
    "qwen2.5-3b": (3_085_938_688, 794_770_276_352),
    "vit-b-16": (86_567_656, 35_127_656_448),
    "resnet-50": (25_557_032, 8_178_368_512),
    "mobilenet-v2": (3_504_872, 601_548_544),
}


@pytest.mark.parametrize("name", PARTS)
def test_blocks_are_sliced_by_key_value_heads_and_the_ends_are_whole(name: str) -> None:
    layers = load_workload(name, batch=1).layers
    assert {layer.parts for layer in layers[1:-1]} == {PARTS[name]}
    assert layers[0].parts == layers[-1].parts == 1
    assert ("parts" in layers[1].model_dump()) == (PARTS[name] > 1)


def test_blocks_whose_feed_forward_width_the_heads_do_not_divide_are_whole() -> None:
    uneven = DecoderArchitecture(**(SMALL_DECODER | {"kv_heads": 2, "ffn": 15}))
    chain = uneven.chain(mode="inference", sequence=4, image_px=None, bytes_per_element=4)
    assert chain.layers[1].parts == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    workload = load_workload(name)
    assert (workload.parameters, workload.forward_flops) == PUBLISHED[name]


def test_bert_without_its_head_and_with_a_pooler_is_the_published_one() -> None:
    workload = load_workload("bert-base")
    body = workload.layers[:-1]
    pooler_weights = 768 * 768
    assert sum(layer.parameters for layer in body) + pooler_weights + 768 == 109_482_240
    # The pooler sees one token.
    assert sum(layer.forward_flops for layer in body) + 2 * pooler_weights == 22_348_431_360
    # What we plan instead: dense and norm of the masked-language-model head, the tied table, a bias per word.
    assert workload.parameters == 109_482_240 + 2 * 768 + 30_522


def test_one_block_of_qwen3_is_the_published_size() -> None:
    workload = load_workload("qwen3-0.6b")
    assert {layer.parameters for layer in workload.layers[1:-1]} == {15_730_944}
    assert workload.layers[1].kv_elements * 2 == 4096  # bytes per token in FP16


def test_layers_are_named_in_order() -> None:
    def ends(name: str) -> tuple[str, ...]:
        names = [layer.name for layer in load_workload(name).layers]
        return names[0], names[1], names[-2], names[-1]

    assert ends("bert-base") == ("embedding", "block.0", "block.11", "head")
    assert ends("resnet-50") == ("stem", "stage1.block0", "stage4.block2", "head")
    assert ends("mobilenet-v2") == ("stem", "block.0", "block.16", "head")


def test_cuts_of_resnet_have_the_known_shapes() -> None:
    layers = {layer.name: layer for layer in load_workload("resnet-50").layers}
    assert layers["stem"].output_elements == 64 * 56 * 56
    assert layers["stage1.block0"].output_elements == 256 * 56 * 56
    assert layers["stage4.block2"].output_elements == 2048 * 7 * 7
    assert layers["head"].output_elements == 1000


def test_inputs_labels_and_outputs() -> None:
    training = load_workload("qwen3-0.6b", mode="training", sequence=16)
    assert (training.input_bytes, training.label_bytes, training.output_bytes) == (128, 128, 0)
    inference = load_workload("qwen3-0.6b", sequence=16, precision="fp16")
    assert (inference.input_bytes, inference.label_bytes, inference.output_bytes) == (128, 0, 151_936 * 2)
    generating = load_workload("qwen3-0.6b", mode="generate", new_tokens=4)
    assert generating.output_bytes == 8
    classifying = load_workload("vit-b-16", mode="training")
    assert (classifying.input_bytes, classifying.label_bytes) == (3 * 224 * 224 * 4, 8)
    assert load_workload("vit-b-16").output_bytes == 4000
    assert load_workload("bert-base").output_bytes == 30_522 * 4


def test_stash_of_a_decoder_block_counted_by_hand() -> None:
    block = (
        DecoderArchitecture(**SMALL_DECODER)
        .chain(mode="training", sequence=3, image_px=None, bytes_per_element=4)
        .layers[1]
    )
    # Four tensors of 8, queries and attention output of 8, keys and values of 4, four tensors of 16; 3 tokens.
    assert block.stash_elements == 3 * (4 * 8 + 2 * 8 + 2 * 4 + 4 * 16)


def test_stash_of_a_bottleneck_counted_by_hand() -> None:
    network = ResNetArchitecture(depths=(1,), widths=(8,), stem_width=4, image_px=8, classes=2)
    stem, block, head = network.chain(mode="training", sequence=None, image_px=None, bytes_per_element=4).layers
    # Image, convolution and activation at 4 px, positions of 2 x 2 maxima as 64-bit integers.
    assert stem.stash_elements == 3 * 64 + 2 * 4 * 16 + 2 * 4 * 4
    # Input, two tensors for each inner convolution of width 2, one for the outer and one for the shortcut's.
    assert block.stash_elements == 4 * 4 + 2 * 2 * 4 + 2 * 2 * 4 + 8 * 4 + 8 * 4
    assert head.stash_elements == 8 * 4 + 8 + 2 + 2  # input, pooled, logits, probabilities


def test_only_training_holds_the_probabilities() -> None:
    network = DecoderArchitecture(**SMALL_DECODER)
    training, inference = (
        network.chain(mode=mode, sequence=5, image_px=None, bytes_per_element=4).layers[-1]
        for mode in ("training", "inference")
    )
    assert training.stash_elements - inference.stash_elements == 5 * 32


def test_a_larger_image_means_more_work_and_the_same_convolutions() -> None:
    small, large = load_workload("resnet-50"), load_workload("resnet-50", image_px=448)
    assert large.parameters == small.parameters
    assert large.forward_flops == pytest.approx(4 * small.forward_flops, rel=1e-3)
    assert load_workload("vit-b-16", image_px=32).layers[0].output_elements == 5 * 768


def test_operator_classes() -> None:
    assert load_workload("qwen3-0.6b").layers[0].operator == "lookup"
    assert {layer.operator for layer in load_workload("vit-b-16").layers} == {"matmul"}
    assert {layer.operator for layer in load_workload("resnet-50").layers[:-1]} == {"conv"}
    assert {layer.operator for layer in load_workload("mobilenet-v2").layers[1:-1]} == {"depthwise"}


def test_a_look_up_reads_only_its_rows() -> None:
    embedding = load_workload("qwen3-0.6b", sequence=10).layers[0]
    assert embedding.read_parameters == 10 * 1024
    assert embedding.parameters == embedding.tied_parameters == 151_936 * 1024


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("bert-base", {"sequence": 513}, "sequence"),
        ("bert-base", {"image_px": 224}, "image_px"),
        ("qwen3-0.6b", {"sequence": 0}, "sequence"),
        ("qwen3-0.6b", {"image_px": 224}, "image_px"),
        ("vit-b-16", {"sequence": 128}, "sequence"),
        ("vit-b-16", {"image_px": 225}, "image_px"),
        ("resnet-50", {"image_px": 0}, "image_px"),
        ("resnet-50", {"mode": "generate", "new_tokens": 1}, "mode"),
        ("bert-base", {"mode": "generate", "new_tokens": 1}, "mode"),
    ],
)
def test_what_a_network_cannot_take_is_refused(name: str, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        load_workload(name, **arguments)
    assert caught.value.field == field


def test_a_language_model_needs_a_sequence() -> None:
    network = DecoderArchitecture(**SMALL_DECODER)
    with pytest.raises(InputError, match="sequence: got None; allowed: at least 1 token for a language model"):
        network.chain(mode="inference", sequence=None, image_px=None, bytes_per_element=4)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: DecoderArchitecture(**(SMALL_DECODER | {"heads": 3, "kv_heads": 2})), "heads"),
        (
            lambda: EncoderArchitecture(
                hidden=10,
                blocks=1,
                heads=4,
                ffn=8,
                vocabulary=9,
                positions=4,
                segments=2,
                tied_embeddings=True,
            ),
            "hidden",
        ),
        (
            lambda: VisionTransformerArchitecture(
                hidden=8, blocks=1, heads=2, ffn=8, patch_px=16, image_px=40, classes=2
            ),
            "image_px",
        ),
        (lambda: ResNetArchitecture(depths=(1, 1), widths=(8,), stem_width=4, image_px=8, classes=2), "depths"),
        (lambda: ResNetArchitecture(depths=(1,), widths=(6,), stem_width=4, image_px=8, classes=2), "widths[0]"),
        (
            lambda: MobileNetArchitecture(stem_width=4, stages=((1, 8, 0, 1),), head_width=8, image_px=8, classes=2),
            "stages[0]",
        ),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(build: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        build()
    assert caught.value.field == field


@st.composite
def decoders(draw: st.DrawFn) -> DecoderArchitecture:
    small = st.integers(1, 12)
    kv_heads = draw(small)
    return DecoderArchitecture(
        hidden=draw(small),
        blocks=draw(small),
        heads=kv_heads * draw(small),
        kv_heads=kv_heads,
        head_dim=draw(small),
        ffn=draw(small),
        vocabulary=draw(st.integers(2, 100)),
        tied_embeddings=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
    )


@given(decoders(), st.integers(1, 20), st.sampled_from(["training", "inference", "generate"]))
def test_any_decoder_adds_up(network: DecoderArchitecture, sequence: int, mode: str) -> None:
    chain = network.chain(mode=mode, sequence=sequence, image_px=None, bytes_per_element=4)
    embedding, *blocks, head = chain.layers
    table = network.vocabulary * network.hidden
    assert len(blocks) == network.blocks
    assert len({block.replace(name="block") for block in blocks}) == 1
    assert all(layer.parameters > 0 and layer.stash_elements > 0 for layer in chain.layers)
    assert embedding.tied_parameters == head.tied_parameters == (table if network.tied_embeddings else 0)
    once = sum(layer.parameters for layer in chain.layers) - embedding.tied_parameters
    tables = 1 if network.tied_embeddings else 2
    assert once == network.blocks * blocks[0].parameters + tables * table + network.hidden
    assert all(layer.output_elements == sequence * network.hidden for layer in chain.layers[:-1])
    # A product runs 2 FLOPs per weight and token; attention comes on top.
    attention = 4 * sequence**2 * network.heads * network.head_dim
    vectors = 2 * network.hidden
    if network.qk_norm:
        vectors += 2 * network.head_dim
    if network.qkv_bias:
        vectors += (network.heads + 2 * network.kv_heads) * network.head_dim
    assert blocks[0].forward_flops == 2 * sequence * (blocks[0].parameters - vectors) + attention


@given(decoders(), st.integers(1, 10), st.integers(2, 4))
def test_all_but_attention_grows_with_the_tokens(network: DecoderArchitecture, tokens: int, times: int) -> None:
    def block(sequence: int) -> Any:
        return network.chain(mode="training", sequence=sequence, image_px=None, bytes_per_element=4).layers[1]

    short, long = block(tokens), block(times * tokens)
    assert long.stash_elements == times * short.stash_elements
    assert long.traffic_elements == times * short.traffic_elements
    assert long.parameters == short.parameters
    assert long.forward_flops > times * short.forward_flops
