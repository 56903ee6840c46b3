"""The map of the network in the browser: devices switched off and on, dragged, and reached by keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from browser.lab import FIND_BUILDERS, Notebook, Opener

if TYPE_CHECKING:
    from playwright.sync_api import Locator

expect = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright").expect

CELLS = [
    f"{FIND_BUILDERS}from builders import cluster, pipeline, workload\n"
    "from worlds import scheduled\nfrom dora_nb.explorer import NetworkMap\nwork, place = workload(3), cluster(3)\n"
    "plan = scheduled(work, place, pipeline((0, 2, {'a': 4}), (2, 3, {'b': 4}))).replace(label='first')\n"
    "network = NetworkMap(place, work, plan)\nnetwork",
]


@pytest.fixture(scope="module")
def notebook(open_notebook: Opener) -> Notebook:
    found = open_notebook(CELLS)
    found.run_all()
    found.output(0).locator(".dora-map[data-painted]").wait_for()
    return found


@pytest.fixture
def network(notebook: Notebook) -> Locator:
    found = notebook.output(0).locator(".dora-map")
    found.scroll_into_view_if_needed()
    return found


def card(network: Locator, device: str) -> Locator:
    return network.locator(f'.dora-card[data-id="{device}"]')


def test_a_click_and_enter_switch_a_device_off_and_on(notebook: Notebook, network: Locator) -> None:
    card(network, "b").click()
    expect(card(network, "b")).to_have_attribute("aria-checked", "false")
    notebook.wait_for_value("network.switched_off", ["b"])
    card(network, "a").focus()
    notebook.page.keyboard.press("Enter")
    card(network, "c").focus()
    notebook.page.keyboard.press("Enter")
    expect(network.locator(".dora-map-hint")).to_have_text("c stays on: one device has to.")
    notebook.wait_for_value("network.switched_off", ["b", "a"])
    card(network, "a").focus()
    notebook.page.keyboard.press(" ")
    card(network, "b").click()
    expect(network.locator('[aria-checked="false"]')).to_have_count(0)
    notebook.wait_for_value("network.switched_off", [])


def test_a_device_is_dragged_and_put_back(notebook: Notebook, network: Locator) -> None:
    found = card(network, "a")
    before = found.bounding_box()
    assert before is not None
    mouse = notebook.page.mouse
    mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    mouse.down()
    mouse.move(before["x"] + before["width"] / 2 + 90, before["y"] + before["height"] / 2 + 12, steps=5)
    mouse.up()
    after = found.bounding_box()
    assert after is not None
    assert after["x"] - before["x"] == pytest.approx(90, abs=2)
    notebook.wait_for_value("[*network.positions]", ["a"])
    notebook.wait_for_value("network.switched_off", [])
    network.get_by_role("button", name="Arrange").click()
    notebook.wait_for_value("network.positions", {})
    assert found.bounding_box() == before


def test_keys_go_from_one_to_the_next_and_move_it(notebook: Notebook, network: Locator) -> None:
    card(network, "a").focus()
    notebook.page.keyboard.press("ArrowRight")
    reached = network.locator(".dora-node:focus").get_attribute("data-id")
    assert reached not in (None, "a")
    expect(network.locator(".dora-tip")).to_be_visible()
    notebook.page.keyboard.press("Shift+ArrowDown")
    notebook.wait_for_value("[*network.positions]", [reached])
    network.get_by_role("button", name="Arrange").click()


def test_light_dark_and_narrow(notebook: Notebook, network: Locator) -> None:
    for theme in ("dark", "light"):
        notebook.change_theme(theme)
        assert notebook.pale_texts() == []
    notebook.page.set_viewport_size({"width": 760, "height": 800})
    expect(network.locator(".dora-narrow")).to_be_visible()
    area = network.bounding_box()
    assert area is not None
    for device in "abc":
        box = card(network, device).bounding_box()
        assert box is not None
        assert area["x"] <= box["x"]
        assert box["x"] + box["width"] <= area["x"] + area["width"]
    notebook.page.set_viewport_size({"width": 1280, "height": 800})
