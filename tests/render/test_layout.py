"""Where devices and domains stand: the same each time, nothing on top of anything else."""

from __future__ import annotations

import itertools

import pytest
from builders import Dice, cluster, device, random_question

from dora_nb.catalog import load_cluster
from dora_nb.domain.cluster import Cluster
from dora_nb.render.layout import BAR_PX, Layout, arrange

CARD_PX = 120

#: Room and cards of a wide and a narrow column.
ROOMS = [(6, 960.0, 150.0), (4, 540.0, 124.0)]


def boxes(layout: Layout, width_px: float, card_width_px: float) -> dict[str, tuple[float, float, float, float]]:
    found = {}
    for name, place in layout.places.items():
        wide, high = (place.width * width_px, BAR_PX) if place.width else (card_width_px, CARD_PX)
        x, y = place.x * width_px, place.y * layout.height_px
        found[name] = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
    return found


def assert_apart(place: Cluster, columns: int, width_px: float, card_width_px: float) -> None:
    layout = arrange(place, columns, CARD_PX)
    found = boxes(layout, width_px, card_width_px)
    assert set(found) == {each.id for each in (*place.devices, *place.domains)}
    for left, top, right, bottom in found.values():
        assert left >= 0
        assert top >= 0
        assert right <= width_px
        assert bottom <= layout.height_px
    for a, b in itertools.combinations(found.values(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize(("columns", "width_px", "card_width_px"), ROOMS)
@pytest.mark.parametrize("name", ["edge-cluster", "smart-home", "traffic-5g", "traffic-analytics", "wired-home"])
def test_nothing_covers_anything(name: str, columns: int, width_px: float, card_width_px: float) -> None:
    assert_apart(load_cluster(name), columns, width_px, card_width_px)


@pytest.mark.parametrize(("columns", "width_px", "card_width_px"), ROOMS)
@pytest.mark.parametrize("count", range(1, 25))
def test_any_number_of_devices_on_one_medium(count: int, columns: int, width_px: float, card_width_px: float) -> None:
    members = [device(f"d{index}") for index in range(count)]
    assert_apart(cluster(members), columns, width_px, card_width_px)


@pytest.mark.parametrize("seed", range(30))
def test_random_trees(seed: int) -> None:
    _, place = random_question(Dice(seed), kinds=("cell", "mixed", "links"))
    for room in ROOMS:
        assert_apart(place, *room)
    assert arrange(place, 4, CARD_PX) == arrange(place, 4, CARD_PX)


def test_lines_of_the_second_row_pass_between_the_first() -> None:
    members = [device(f"d{index}") for index in range(14)]
    layout = arrange(cluster(members), 4, CARD_PX)
    bar = layout.places["net"]
    first = [place.x for name, place in layout.places.items() if name != "net" and abs(place.y - bar.y) < 0.25]
    beyond = [place.x for name, place in layout.places.items() if name != "net" and abs(place.y - bar.y) >= 0.25]
    assert len(beyond) == 6
    assert all(abs(x - other) * 540 > 124 / 2 for x in beyond for other in first)


def test_devices_of_a_bar_stand_above_or_below_it() -> None:
    place = load_cluster("traffic-5g")
    layout = arrange(place, 4, CARD_PX)
    for domain in place.domains:
        bar = layout.places[domain.id]
        for name in domain.members:
            if name in place.device_ids:
                assert abs(layout.places[name].x - bar.x) <= bar.width / 2


def test_neighbours_in_the_tree_stand_side_by_side() -> None:
    layout = arrange(load_cluster("traffic-5g"), 4, CARD_PX)
    across = sorted((layout.places[name].x, name) for name in ("operator", "cell", "site"))
    assert [name for _, name in across] == ["operator", "cell", "site"]
    assert len({layout.places[name].y for name in ("operator", "cell", "site")}) == 1


def test_a_device_alone() -> None:
    alone = Cluster(name="alone", devices=(device("a"),))
    assert_apart(alone, *ROOMS[0])
