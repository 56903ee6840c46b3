"""Any sequence of modules as a workload: counted by hand, measured, and planned with."""

from __future__ import annotations

import pytest
import torch
from builders import cluster, device
from torch import nn

from dora_nb.costs.measured import measured_table
from dora_nb.domain.profile import LayerProfile, Profile
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.executor.measuring.profiler import profile
from dora_nb.executor.networks.chain import built_layers
from dora_nb.executor.tasks.models import RandomNetwork
from dora_nb.planning.plan import plan


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def camera() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(6 * 8 * 8, 5),
    )


def words() -> nn.Sequential:
    embedding, head = nn.Embedding(50, 12), nn.Linear(12, 50, bias=False)
    head.weight = embedding.weight
    return nn.Sequential(embedding, nn.TransformerEncoderLayer(12, 2, 24, batch_first=True), head)


def test_a_perceptron_counted_by_hand() -> None:
    """Kept for the backward pass: the input of the first layer; the output of the second, which the third shares."""
    found = profile(perceptron(), torch.randn(3, 8), mode="training", batch=4, name="net", repetitions=3)
    work = found.workload
    assert (work.name, work.mode, work.batch, work.precision) == ("net", "training", 4, "fp32")
    assert [layer.name for layer in work.layers] == ["0.Linear", "1.ReLU", "2.Linear"]
    assert [layer.parameters for layer in work.layers] == [8 * 16 + 16, 0, 16 * 4 + 4]
    assert [layer.output_elements for layer in work.layers] == [16, 16, 4]
    assert [layer.stash_elements for layer in work.layers] == [8, 16, 0]
    assert [layer.forward_flops for layer in work.layers] == [2 * 8 * 16, 0, 2 * 16 * 4]
    assert (work.input_bytes, work.output_bytes) == (32, 16)
    for layer in found.layers:
        assert set(layer.forward_s) == set(layer.backward_s) == {1, 2, 4}
        assert all(seconds > 0 for seconds in layer.forward_s.values())
    assert [layer.step_s > 0 for layer in found.layers] == [True, False, True]


def test_convolutions_counted_by_hand() -> None:
    found = profile(camera().double(), torch.randn(1, 3, 8, 8, dtype=torch.float64), batch=2, repetitions=2).workload
    assert found.precision == "fp64"
    assert [layer.operator for layer in found.layers] == ["conv", "depthwise", "matmul", "matmul"]
    assert found.layers[0].forward_flops == 2 * 3 * 9 * 6 * 64
    assert found.layers[1].forward_flops == 2 * 9 * 6 * 64
    assert [layer.output_elements for layer in found.layers] == [384, 384, 384, 5]
    assert all(layer.stash_elements == 0 for layer in found.layers), "nothing is kept in inference"


def test_tied_parameters_are_found() -> None:
    found = profile(words(), torch.randint(50, (1, 7)), mode="training", batch=1, repetitions=2).workload
    assert found.tied_parameters == 50 * 12
    assert [layer.tied_parameters for layer in found.layers] == [600, 0, 600]
    assert found.layers[0].operator == "lookup"
    assert found.parameters == sum(each.numel() for each in words()[1].parameters()) + 600


@pytest.mark.parametrize("mode", ["training", "inference"])
def test_nothing_is_changed(mode: str) -> None:
    torch.manual_seed(3)
    model, sample = nn.Sequential(*camera(), nn.Dropout()).eval(), torch.randn(2, 3, 8, 8)
    model(sample).sum().backward()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    gradients = [each.grad.clone() for each in model.parameters()]
    state = torch.random.get_rng_state()
    profile(model, sample, mode=mode, batch=2, repetitions=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


def test_a_frame_has_a_row_a_layer_and_number_of_samples() -> None:
    frame = profile(perceptron(), torch.randn(1, 8), mode="training", batch=3, repetitions=2).to_frame()
    assert len(frame) == 3 * 3
    assert frame[frame.samples == 3].cut_bytes.tolist() == [3 * 64, 3 * 64, 3 * 16]


def by_hand(mode: str, speed: float) -> Profile:
    """One second a sample at speed 1, with a start-up cost, and twice that backwards."""
    work = profile(perceptron(), torch.randn(1, 8), mode=mode, batch=8, repetitions=1).workload
    forward_s = {1: 2 / speed, 4: 5 / speed}
    backward_s = {n: 2 * seconds for n, seconds in forward_s.items()} if mode == "training" else {}
    layer = LayerProfile(forward_s=forward_s, backward_s=backward_s, step_s=0.5 / speed)
    return Profile(workload=work, layers=(layer,) * 3)


def test_layers_are_timed_with_fewer_bits_too_and_planned_with() -> None:
    model, sample = perceptron(), torch.randn(1, 8)
    before = [each.clone() for each in model.parameters()]
    found = profile(model, sample, batch=4, repetitions=2, weights=("fp16", "int8"))
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))
    assert all(set(each.narrower_s) == {"fp16", "int8"} for each in found.layers)
    assert found.layers[0].narrower_s["int8"].keys() == found.layers[0].forward_s.keys()
    place = cluster([device("a"), device("b")], rates=1e9)
    # FP16 takes half as long there; only one of the two devices was timed in 8 bits.
    layers = [each.replace(narrower_s={"fp16": {4: each.forward_s[4] / 2}}) for each in found.layers]
    table = measured_table(found.workload, place, {"a": found, "b": found.replace(layers=layers)})
    assert set(table.narrower) == {"fp16"}
    assert table.with_weights("fp16").forward_s[0, 1, 4] == table.forward_s[0, 1, 4] / 2
    with pytest.raises(InputError, match="in training"):
        profile(model, sample, mode="training", weights=("fp16",))


@pytest.mark.parametrize("mode", ["training", "inference"])
def test_a_table_of_profiles(mode: str) -> None:
    place = cluster([device("slow"), device("fast")])
    profiles = {"slow": by_hand(mode, 1.0), "fast": by_hand(mode, 4.0)}
    work = profiles["slow"].workload
    table = measured_table(work, place, profiles)
    assert table.status == "measured"
    assert table.forward_s[0, 0].tolist() == [0, 2, 3, 4, 5, 6.25, 7.5, 8.75, 10]
    assert table.forward_s[2, 1].tolist() == [each / 4 for each in table.forward_s[2, 0]]
    assert table.backward_s[1, 0, 4] == (10 if mode == "training" else 0)
    found = plan(work, place, QoE(), table=table, most_plans=1, solver="highs").best
    assert found.prediction is not None
    assert found.prediction.makespan_s < (3 if mode == "training" else 1) * 3 * 10 / 4 * 1.2


def test_a_profile_is_planned_with(tmp_path) -> None:
    found = profile(words(), torch.randint(50, (1, 7)), mode="training", batch=4, repetitions=2)
    place = cluster([device("a"), device("b")], rates=1e9)
    table = measured_table(found.workload, place, dict.fromkeys(place.device_ids, found))
    assert plan(found.workload, place, table=table, most_plans=1).best.certificate.gap <= 1e-3
    again = Profile(**found.model_dump(mode="json"))
    assert again == found


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": nn.Linear(2, 2)}, "model"),
        ({"model": nn.Sequential()}, "model"),
        ({"model": nn.Sequential(nn.LSTM(8, 4))}, "model.0.LSTM"),
        ({"model": perceptron().to(torch.float8_e4m3fn)}, "model"),
        ({"sample": "text"}, "sample"),
        ({"sample": torch.zeros(0, 8)}, "sample"),
        ({"batch": 0}, "batch"),
        ({"samples": []}, "samples"),
        ({"samples": [0, 1]}, "samples"),
        ({"repetitions": 0}, "repetitions"),
        ({"sample": torch.randn(1, 9)}, "model.0.Linear"),
    ],
)
def test_what_cannot_be_profiled_is_refused(options, named) -> None:
    given = {"model": perceptron(), "sample": torch.randn(1, 8)} | options
    with pytest.raises(InputError) as refused:
        profile(given.pop("model"), given.pop("sample"), **given)
    assert refused.value.field == named


def test_tables_refuse_what_does_not_belong_together() -> None:
    place, known = cluster([device("a"), device("b")]), by_hand("inference", 1.0)
    work = known.workload
    with pytest.raises(InputError, match="none is given for b"):
        measured_table(work, place, {"a": known})
    with pytest.raises(UnknownNameError):
        measured_table(work, place, {"a": known, "b": known, "c": known})
    with pytest.raises(InputError, match="same layers in the same mode"):
        measured_table(work, place, {"a": known, "b": by_hand("training", 1.0)})
    with pytest.raises(InputError, match="as many as the workload has"):
        Profile(workload=work, layers=known.layers[:2])


class Counted:
    """A network that remembers what was built of it."""

    def __init__(self, network) -> None:
        self.network, self.built, self.tied = network, [], network.tied
        self.kind = network.kind

    def __len__(self) -> int:
        return len(self.network)

    def layer(self, index: int) -> nn.Module:
        self.built.append(index)
        return self.network.layer(index)


def test_a_network_is_profiled_a_layer_at_a_time() -> None:
    """The figures are those of the same network as a live sequence; of equal layers one is built."""
    spec = {
        "family": "decoder", "hidden": 8, "blocks": 5, "heads": 2, "kv_heads": 1, "head_dim": 4, "ffn": 12,
        "vocabulary": 30, "tied_embeddings": True,
    }  # fmt: skip
    network = Counted(RandomNetwork(spec, "float64", 0))
    tokens = torch.randint(30, (1, 6))
    found = profile(network, tokens, mode="training", batch=2, repetitions=1, dtype="float64", name="a").workload
    live = profile(built_layers(network.network, dtype=torch.float64, seed=0), tokens, mode="training", batch=2,
                   repetitions=1, name="a").workload  # fmt: skip
    assert found == live
    assert found.tied_parameters == 30 * 8
    assert set(network.built) == {0, 1, 6}


def test_a_live_hugging_face_model_is_profiled() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, intermediate_size=24)
    found = profile(transformers.LlamaForCausalLM(config), torch.randint(40, (1, 5)), batch=1, repetitions=1).workload
    assert [layer.name for layer in found.layers] == [
        "0.Embedding", "1.DecoderLayer", "2.DecoderLayer", "3.DecoderHead"
    ]  # fmt: skip
    assert found.output_bytes == 5 * 40 * 4
