"""The roofline by hand: which roof counts, what one call costs on top, what a look-up moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import cluster, device, layer, workload

from dora_nb.costs.table import cost_table
from dora_nb.errors import InputError


def test_compute_bound_grows_with_samples() -> None:
    table = cost_table(workload([layer("a", flops=3e9)], batch=3), cluster([device("x", 2e9, layer_overhead_s=0.25)]))
    assert table.forward_s[0, 0].tolist() == pytest.approx([0, 1.75, 3.25, 4.75])
    assert table.backward_s[0, 0].tolist() == pytest.approx([0, 3.25, 6.25, 9.25])  # twice the work, one overhead
    assert table.status == "estimated"


def test_memory_bound_reads_parameters_once_and_activations_per_sample() -> None:
    deep = layer("a", flops=1.0, parameters=100, traffic_elements=10)
    table = cost_table(workload([deep], batch=2), cluster([device("x", memory_bytes_per_s=40.0)]))
    assert table.forward_s[0, 0].tolist() == pytest.approx([0, 110 * 4 / 40, 120 * 4 / 40])
    assert table.backward_s[0, 0].tolist() == pytest.approx([0, 22, 24])


def test_the_higher_roof_counts_and_may_change_with_the_samples() -> None:
    mixed = layer("a", flops=2e9, parameters=1000)  # 2 s of work a sample, 3 s of reading
    table = cost_table(workload([mixed], batch=2), cluster([device("x", memory_bytes_per_s=4000 / 3)]))
    assert table.forward_s[0, 0].tolist() == pytest.approx([0, 3, 4])


def test_a_look_up_reads_few_rows_and_needs_no_rate() -> None:
    rows = layer("a", flops=1e30, operator="lookup", parameters=10**9, read_parameters=50, traffic_elements=25)
    slow = device("x", {"conv": {"fp32": 1.0}}, memory_bytes_per_s=100.0)
    table = cost_table(workload([rows], mode="inference", batch=2), cluster([slow]))
    assert table.forward_s[0, 0].tolist() == pytest.approx([0, 3, 4])
    assert not table.backward_s.any()
    assert not table.step_s.any()


def test_precision_counts_in_bytes_and_in_rates() -> None:
    half = device("x", {"matmul": {"fp32": 1e9, "fp16": 4e9}}, memory_bytes_per_s=10.0)
    deep = layer("a", flops=4e9, parameters=15)
    table = cost_table(workload([deep], batch=1, precision="fp16"), cluster([half]))
    assert table.forward_s[0, 0, 1] == pytest.approx(15 * 2 / 10)
    # parameter read and written, gradient read: 2 bytes each; two fp32 moments read and written
    assert table.step_s[0, 0] == pytest.approx(15 * (3 * 2 + 2 * 8) / 10)


def test_each_device_and_layer_has_its_own_entry() -> None:
    work = workload([layer("a", flops=1e9), layer("b", flops=2e9, operator="conv")], batch=1, mode="inference")
    place = cluster([device("x", 1e9), device("y", {"matmul": {"fp32": 4e9}, "conv": {"fp32": 1e9}})])
    assert cost_table(work, place).forward_s[:, :, 1].tolist() == [[1, 0.25], [2, 2]]


def test_a_missing_rate_names_the_field_and_what_there_is() -> None:
    place = cluster([device("x", {"matmul": {"fp16": 1e9}})])
    with pytest.raises(InputError, match=r"devices\.x\.flops_per_s\.matmul\.fp32.*matmul in fp16"):
        cost_table(workload(1), place)


def test_weights_in_8_bits_are_read_sooner_and_multiplied_as_fast() -> None:
    deep = [layer("a", flops=4e6, parameters=1000, traffic_elements=50), layer("b", parameters=10, operator="lookup")]
    work = workload(deep, batch=2, mode="inference")
    table = cost_table(work, cluster([device("x", 1e6, memory_bytes_per_s=1e3)]))
    assert table.forward_s[0, 0].tolist() == pytest.approx([0, 4.2, 8])  # 4,000 + 200 n bytes, or 4 n s of products
    held = table.with_weights("int8")
    assert held.forward_s[0, 0].tolist() == pytest.approx([0, 4, 8])  # 1,000 + 200 n bytes
    assert (held.forward_s[1] == table.forward_s[1]).all()
    assert (table.with_narrower(["int8"]).least.forward_s == held.forward_s).all()
    assert not cost_table(workload(deep, batch=2), cluster([device("x")])).narrower
    with pytest.raises(InputError, match="times with weights in int8"):
        table.with_narrower([]).with_weights("int8")


def test_in_fp16_half_the_bytes_are_moved_and_the_rate_is_the_devices_own_where_known() -> None:
    deep = [layer("a", flops=4e6, parameters=1000, traffic_elements=50), layer("b", parameters=10, operator="lookup")]
    work = workload(deep, batch=2, mode="inference")
    rates = {"matmul": {"fp32": 1e6, "fp16": 4e6}}
    table = cost_table(work, cluster([device("x", rates, memory_bytes_per_s=1e3), device("y", 1e6)]))
    held = table.with_weights("fp16")
    assert held.forward_s[0, 0].tolist() == pytest.approx([0, 2.1, 2.2])  # 2,000 + 100 n bytes, or 1 n s of products
    assert held.forward_s[1, 0, 1] == pytest.approx(table.forward_s[1, 0, 1] / 2)
    assert held.forward_s[0, 1].tolist() == pytest.approx([0, 4, 8])  # no rate in FP16: as in FP32
    whole = cost_table(work.replace(precision="fp16"), cluster([device("x", rates, memory_bytes_per_s=1e3)]))
    assert (whole.with_weights("fp16").forward_s == whole.forward_s).all()


def test_two_tables_have_the_same_times_only_if_all_are_equal() -> None:
    deep = [layer("a", flops=4e6, parameters=1000)]
    work, place = workload(deep, batch=2, mode="inference"), cluster([device("x", 1e6, memory_bytes_per_s=1e3)])
    table = cost_table(work, place)
    assert table.same_times(cost_table(work, place))
    assert not table.same_times(table.slower(np.array([2.0])))
    assert not table.same_times(table.with_narrower(()))
    slower = table.with_weights("int8").slower(np.array([2.0]))
    assert not table.same_times(replace(table, narrower={**table.narrower, "int8": slower}))
    tokens = replace(table, token_s=table.forward_s)
    assert tokens.same_times(replace(table, token_s=table.forward_s.copy()))
    assert not tokens.same_times(replace(table, token_s=2 * table.forward_s))


def test_times_never_fall_with_more_samples() -> None:
    deep = [layer("a", parameters=10**6, traffic_elements=1000), layer("b", flops=1e6)]
    table = cost_table(workload(deep, batch=6), cluster([device("x", memory_bytes_per_s=1e6, layer_overhead_s=0.1)]))
    assert (np.diff(table.forward_s, axis=2) >= 0).all()
    assert (np.diff(table.backward_s, axis=2) >= 0).all()
