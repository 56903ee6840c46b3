"""Bytes of a replica by hand, and arrays of stages as one stage at a time."""

from __future__ import annotations

import numpy as np
import pytest
from builders import Dice, layer, random_workload, seeded, workload
from hypothesis import given

from dora_nb.costs.memory import MemoryModel
from dora_nb.domain.workload import Workload


def chain(tied: int = 0, **fields: object) -> Workload:
    layers = [
        layer(
            "a", parameters=100 + tied, output_elements=7, stash_elements=11, traffic_elements=500, tied_parameters=tied
        ),
        layer("b", parameters=200, output_elements=13, stash_elements=17, traffic_elements=30),
        layer("c", parameters=300, output_elements=19, stash_elements=23, traffic_elements=40),
        layer(
            "d", parameters=400 + tied, output_elements=29, stash_elements=31, traffic_elements=20, tied_parameters=tied
        ),
    ]
    return workload(layers, batch=8, input_bytes=6, output_bytes=10, **fields)


def bytes_of(work: Workload, first: int, stop: int, **how: object) -> float:
    defaults = {"samples": 2.0, "in_flight": 3, "micro_batches": 4, "replicated": False}
    return float(MemoryModel(work).replica_bytes(first, stop, **(defaults | how)))


def test_inference_holds_parameters_working_set_and_boundaries() -> None:
    # cuts 1 (7 elements) and 3 (19 elements): every micro-batch's, one direction
    expected = 500 * 4 + 2 * (40 * 4 + 4 * (7 + 19) * 4)
    assert bytes_of(chain(mode="inference"), 1, 3) == expected
    assert bytes_of(chain(mode="inference"), 1, 3, in_flight=99, replicated=True) == expected


def test_training_adds_gradients_moments_and_the_stash_in_flight() -> None:
    expected = 500 * (4 + 4 + 8) + 2 * (3 * (17 + 23) * 4 + 40 * 4 + 2 * 4 * (7 + 19) * 4)
    assert bytes_of(chain(), 1, 3) == expected
    assert bytes_of(chain(), 1, 3, in_flight=4) - expected == 2 * 40 * 4
    assert bytes_of(chain(), 1, 3, in_flight=9) == bytes_of(chain(), 1, 3, in_flight=4)  # there are only 4


def test_a_stage_that_recomputes_keeps_what_enters_its_layers_and_one_stash() -> None:
    kept = 3 * (7 + 13) * 4 + 23 * 4  # what enters b and c, three in flight, and the larger stash of the two once
    expected = 500 * (4 + 4 + 8) + 2 * (kept + 40 * 4 + 2 * 4 * (7 + 19) * 4)
    assert bytes_of(chain(), 1, 3, recomputes=True) == expected
    assert bytes_of(chain(), 1, 3, recomputes=True, in_flight=4) - expected == 2 * (7 + 13) * 4


def test_the_last_layer_is_not_run_again_and_keeps_its_stash() -> None:
    kept = 3 * (19 + 31) * 4 - 3 * 19 * 4  # of d alone: its stash, as without
    assert bytes_of(chain(), 3, 4, recomputes=True) == bytes_of(chain(), 3, 4)
    more = 3 * (6 + (7 + 13) * 4) + 23 * 4 + kept  # the input is counted in bytes
    without = 3 * (11 + 17 + 23 + 31) * 4
    assert bytes_of(chain(), 0, 4) - bytes_of(chain(), 0, 4, recomputes=True) == 2 * (without - more)


def test_weights_in_8_bits_take_a_byte_each_but_for_look_ups_and_tied_ones() -> None:
    work = chain(mode="inference")
    assert bytes_of(work, 1, 3) - bytes_of(work, 1, 3, weights="int8") == 500 * 3
    look_up = work.replace(layers=(work.layers[0].replace(operator="lookup"), *work.layers[1:]))
    assert bytes_of(look_up, 0, 2) - bytes_of(look_up, 0, 2, weights="int8") == 200 * 3
    tied = chain(tied=50, mode="inference")
    assert bytes_of(tied, 0, 4) - bytes_of(tied, 0, 4, weights="int8") == 500 * 3
    assert work.int8_parameters == (100, 200, 300, 400)


def test_in_fp16_all_takes_half_but_what_crosses_cuts() -> None:
    expected = 500 * 2 + 2 * (40 * 2 + 4 * (7 + 19) * 4)
    assert bytes_of(chain(mode="inference"), 1, 3, weights="fp16") == expected
    narrow = chain(mode="inference", precision="fp16")
    assert bytes_of(narrow, 0, 4, weights="fp16") == bytes_of(narrow, 0, 4)


def test_parameters_take_at_least_what_each_layer_takes_in_fewest_bits() -> None:
    work = chain(tied=50, mode="inference")
    model = MemoryModel(work)
    assert model.least_bytes() == 1050 * 4
    assert model.least_bytes(["fp16"]) == 1050 * 4 - 1100 * 2  # what is tied, twice
    assert model.least_bytes(["fp16", "int8"]) == 1050 * 4 - 600 * 2 - 500 * 3


def test_the_ends_hold_inputs_and_labels_or_outputs() -> None:
    expected = 1000 * 16 + 2 * (3 * (11 + 17 + 23 + 31) * 4 + 500 * 4 + 2 * 4 * (6 + 9))
    assert bytes_of(chain(label_bytes=9), 0, 4) == expected
    expected = 1000 * 4 + 2 * (500 * 4 + 4 * (6 + 10))
    assert bytes_of(chain(mode="inference", label_bytes=9), 0, 4) == expected


def test_replicas_hold_a_copy_of_the_gradients_they_sum() -> None:
    assert bytes_of(chain(), 1, 3, replicated=True) - bytes_of(chain(), 1, 3) == 500 * 4


def test_precision_changes_everything_but_the_moments_and_the_ends() -> None:
    expected = 500 * (2 + 2 + 8) + 2 * (3 * 40 * 2 + 40 * 2 + 2 * 4 * 26 * 2)
    assert bytes_of(chain(precision="fp16"), 1, 3) == expected


def test_tied_parameters_count_once_where_both_ends_are() -> None:
    plain, tied = chain(), chain(tied=50)
    assert bytes_of(tied, 0, 4) - bytes_of(plain, 0, 4) == 50 * 16
    assert bytes_of(tied, 0, 4, replicated=True) - bytes_of(plain, 0, 4, replicated=True) == 50 * 20
    model = MemoryModel(tied)
    assert model.parameters(0, 4) == 1050
    assert model.gradient_parameters(0, 4) == 1050


@pytest.mark.parametrize(("first", "stop"), [(0, 2), (2, 4), (3, 4), (0, 3)])
def test_a_synchronised_copy_buffers_the_other_copys_gradient(first: int, stop: int) -> None:
    plain, tied = chain(), chain(tied=50)
    assert bytes_of(tied, first, stop) - bytes_of(plain, first, stop) == 50 * 16 + 50 * 4
    # the tied part is not summed among the replicas alone: its buffer is the other copy's
    assert bytes_of(tied, first, stop, replicated=True) - bytes_of(plain, first, stop, replicated=True) == 50 * 20
    assert MemoryModel(tied).gradient_parameters(first, stop) == MemoryModel(plain).gradient_parameters(first, stop)


def test_a_stage_between_the_ends_knows_nothing_of_ties() -> None:
    assert bytes_of(chain(tied=50), 1, 3) == bytes_of(chain(), 1, 3)


def test_a_host_adds_the_first_layer_with_all_its_micro_batches() -> None:
    added = (100 + 50) * 16  # the first layer's own parameters, and the tied ones once
    added += 2 * 4 * (11 * 4 + 2 * (6 + 7 * 4))  # stash, input and output of every micro-batch
    # on top of layers whose working set is larger than the first layer's
    large = chain(tied=50)
    large = large.replace(layers=(*large.layers[:3], large.layers[3].replace(traffic_elements=600)))
    without = large.replace(layers=tuple(each.replace(tied_parameters=0) for each in large.layers))
    assert (
        bytes_of(large, 2, 4, hosts_first_layer=True) - bytes_of(without, 2, 4) == added - 50 * 16
    )  # c and d held the tied ones


def test_a_host_needs_the_working_set_of_the_first_layer_too() -> None:
    """The largest layer's working set counts, and a hosted first layer is one of the device's layers."""
    quiet = chain(tied=50)
    quiet = quiet.replace(layers=(quiet.layers[0].replace(traffic_elements=0), *quiet.layers[1:]))
    more = bytes_of(chain(tied=50), 2, 4, hosts_first_layer=True) - bytes_of(quiet, 2, 4, hosts_first_layer=True)
    assert more == 2 * (500 - 40) * 4  # two samples; 500 elements instead of the 40 of layer c


def test_the_hosts_replicas_sum_everything_they_hold() -> None:
    tied = chain(tied=50)
    extra = bytes_of(tied, 2, 4, hosts_first_layer=True, replicated=True) - bytes_of(tied, 2, 4, hosts_first_layer=True)
    assert extra == (300 + 400 + 100 + 50) * 4
    assert MemoryModel(tied).gradient_parameters(2, 4, True) == 850


def _tall(dice: Dice) -> Workload:
    return random_workload(dice, layers=(2, 6))


@given(seeded(_tall))
def test_arrays_are_scalars_side_by_side(work: Workload) -> None:
    model, layers = MemoryModel(work), len(work.layers)
    ranges = [(i, j) for i in range(layers) for j in range(i + 1, layers + 1)]
    first, stop = (np.array(side) for side in zip(*ranges, strict=True))
    for hosts in (False, True):
        for replicated in (False, True):
            how = {"in_flight": 2, "micro_batches": 3, "replicated": replicated, "hosts_first_layer": hosts}
            how["recomputes"] = replicated
            samples = np.array([[1.0], [3.0]])
            many = model.replica_bytes(first[None], stop[None], samples=samples, **how)
            one_by_one = [[model.replica_bytes(i, j, samples=n, **how) for i, j in ranges] for n in (1.0, 3.0)]
            assert many.tolist() == pytest.approx(np.array(one_by_one))
