"""How a stage whose layers are sliced over devices is shown."""

from __future__ import annotations

import pytest
from builders import cluster, device, layer, pipeline, sliced, workload
from worlds import Case, scheduled

from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.layer import NextToken
from dora_nb.domain.run_timeline import RunEvent
from dora_nb.explorer.views.cases import Case as Shown
from dora_nb.explorer.views.difference import difference_view
from dora_nb.explorer.views.map import map_view
from dora_nb.explorer.views.timeline import TimelineView
from dora_nb.render.kinds import GROUPS, group_of, turn_of
from dora_nb.render.words import describe_stages
from dora_nb.sweeps.rows import stage_text


@pytest.fixture(scope="module")
def case() -> Case:
    """Two layers, one of which is sliced over two devices of a switch; two tokens."""
    token = NextToken(flops=1e8, read_parameters=0, output_elements=25_000)
    whole, block = layer("whole", parameters=100), layer("block", parameters=800, parts=8)
    layers = tuple(each.replace(next_token=token) for each in (whole, block))
    work = workload(layers, mode="generate", batch=1, sequence=2, new_tokens=2)
    place = cluster([device("a"), device("b", 2e9)], 1e6, "switch")
    return work, place, scheduled(work, place, sliced(pipeline((0, 2, {"a": 1})), 0, {"a": 3, "b": 5}))


def test_a_stage_with_shards_in_words_and_as_a_frame(case: Case) -> None:
    work, _, plan = case
    (line,) = describe_stages(plan, [each.name for each in work.layers])
    assert line == "stage 0: whole, block on a (3 of 8 parts) and b (5 of 8 parts), outputs summed in a ring"
    frame = plan.stage_frame()
    assert frame["parts"].tolist() == [3, 5]
    assert frame["samples"].tolist() == [1, 1]
    assert pipeline((0, 2, {"a": 1})).stage_frame()["parts"].isna().all()
    assert stage_text(plan) == "0-1:a*3/8+b*5/8"


def test_sums_have_a_colour_of_their_own_and_are_counted_like_their_passes() -> None:
    assert GROUPS[group_of("shard-sum")].label == GROUPS[group_of("shard-token-sum")].label == "sums over shards"
    assert (turn_of("shard-gradient-sum"), turn_of("shard-token-sum")) == ("micro-batch", "step")


def test_a_device_says_its_parts(case: Case) -> None:
    work, place, plan = case
    view = map_view(place, work, plan)
    assert [(each.work, each.samples) for each in view.devices] == [
        ("whole, block", "3 of 8 parts"),
        ("whole, block", "5 of 8 parts"),
    ]


def test_sums_of_a_pass_are_bars_on_the_media(case: Case) -> None:
    work, place, plan = case
    evaluation = evaluate(plan, work, place)
    like = TimelineView.of(evaluation)
    assert like.kinds == ("forward", "shard-sum", "decode", "shard-token-sum")
    sums = [each for each in evaluation.timeline if each.kind.startswith("shard")]
    assert [each.start_s for each in sums] == pytest.approx([1.375, 1.375 + 2.0 + 0.1375])
    events = [
        RunEvent(device=name, kind=kind, stage=0, micro_batch=0, step=-1, start_s=start_s, end_s=end_s)
        for name, kind, start_s, end_s in [
            ("a", "forward", 0.0, 1.0),
            ("a", "shard-sum", 1.0, 3.0),
            ("b", "forward", 0.0, 1.5),
            ("b", "shard-sum", 1.5, 3.1),
        ]
    ]
    seen = TimelineView.measured(events, plan, like)
    bars = {
        seen.lanes[lane].name: (start, start + length)
        for lane, kind, start, length in zip(seen.lane, seen.kind, seen.start_s, seen.duration_s, strict=True)
        if seen.kinds[kind] == "shard-sum"
    }
    assert bars == {f"net/{name}/{way}": pytest.approx((1.5, 3.1)) for name in "ab" for way in ("tx", "rx")}


def test_what_changes_from_whole_layers_to_shards(case: Case) -> None:
    work, place, plan = case
    alone = scheduled(work, place, pipeline((0, 2, {"a": 1})))
    before, after = (
        Shown(each.replace(label=name, prediction=evaluate(each, work, place).prediction), work, place)
        for name, each in (("whole", alone), ("sliced", plan))
    )
    view = difference_view(before, after)
    assert view.moved_bytes == pytest.approx(4 * (100 + 800 * 5 / 8))
    assert view.move_s is None
    assert "b (5 of 8 parts)" in view._repr_html_()
    back = difference_view(after, before)
    assert back.moved_bytes == pytest.approx(4 * 800 * 5 / 8)
    other = sliced(plan, 0, {"a": 4, "b": 4})
    shown = other.replace(prediction=evaluate(other, work, place).prediction)
    assert "Only the layers are shared out differently." in repr(difference_view(after, Shown(shown, work, place)))
