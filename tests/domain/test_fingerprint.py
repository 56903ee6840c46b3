"""What a result depends on besides its question is told apart by digests."""

from __future__ import annotations

from pathlib import Path

from dora_nb.domain.fingerprint import PACKAGES, code_digest, files_digest, package_versions


def test_a_digest_knows_names_and_contents_and_no_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("a")
    two.write_text("b")
    known = files_digest(tmp_path, [one, two])
    assert files_digest(tmp_path, [two, one]) == known
    assert files_digest(tmp_path, [one]) != known
    two.write_text("c")
    assert files_digest(tmp_path, [one, two]) != known
    two.write_text("b")
    assert files_digest(tmp_path, [one, two]) == known
    one.rename(tmp_path / "three.py")
    assert files_digest(tmp_path, [tmp_path / "three.py", two]) != known


def test_rooms_that_do_not_matter_are_left_out() -> None:
    assert code_digest() == code_digest()
    assert code_digest(("explorer",)) != code_digest()
    assert set(package_versions()) == set(PACKAGES)
