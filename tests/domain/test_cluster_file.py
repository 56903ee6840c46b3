"""A cluster written to a file is the same cluster when it is loaded, with the source of every number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import cluster

from dora_nb.catalog import load_cluster, names
from dora_nb.domain.cluster_file import save_cluster
from dora_nb.errors import DocumentError


@pytest.mark.parametrize("name", names("deployments"))
def test_deployments_of_the_catalogue_read_back(name: str, tmp_path: Path) -> None:
    original = load_cluster(name)
    path = save_cluster(tmp_path / "cluster.json", original)
    assert load_cluster(path) == original
    assert [each.name for each in tmp_path.iterdir()] == ["cluster.json"]


def test_a_number_without_a_source_is_written_as_such(tmp_path: Path) -> None:
    original = cluster(2, [1.1e6, 1 / 3], latency_s=1e-5)
    path = save_cluster(tmp_path / "cluster.json", original)
    domain = json.loads(path.read_text())["domains"][0]
    assert domain["rates_bytes_per_s"]["b"] == {
        "value": 1 / 3,
        "unit": "bytes/s",
        "status": "assumed",
        "source": "given without a source",
    }
    assert "down_rates_bytes_per_s" not in domain
    loaded = load_cluster(path)
    bare = [each.replace(sources={}) for each in loaded.devices]
    assert loaded.domains[0].replace(sources={}) == original.domains[0]
    assert bare == list(original.devices)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be written"):
        save_cluster(tmp_path / "none" / "cluster.json", cluster(2))
