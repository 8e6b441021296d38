"""Contracts of published datasets."""

import pytest

from contracts import published
from models.cold_start.input_vector import Layout


def test_the_deezer_dataset_has_the_sizes_of_the_paper():
    dataset = published.load("deezer")
    assert dataset.sizes == {"songs": 50_000, "train": 70_000, "validation": 20_000, "test": 10_000}
    assert {name: Layout(spec.width).size for name, spec in dataset.spaces.items()} == {"tt_svd": 2579, "ut_als": 5139}
    assert dataset.spaces["ut_als"].users.norm == (0.99, 1.01)
    assert dataset.spaces["ut_als"].songs.norm is None


def test_an_unknown_dataset_raises_with_the_known_ones():
    with pytest.raises(ValueError, match="'nothing' has no contract; known datasets: deezer"):
        published.load("nothing")


def test_a_missing_field_raises(tmp_path, monkeypatch):
    text = (published.FOLDER / "deezer.yaml").read_text()
    (tmp_path / "short.yaml").write_text("\n".join(line for line in text.splitlines() if not line.startswith("age:")))
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"short.yaml: field 'age' is missing"):
        published.load("short")
