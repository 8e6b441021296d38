"""Test that the example of the library's README runs and gives the documented result."""

import re
from pathlib import Path

import numpy as np

import blockfactor

README = Path(blockfactor.__file__).parent / "README.md"


def test_the_example_runs(spark, capsys):
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.S)[1]
    names = {}
    exec(compile(example, str(README), "exec"), names)
    assert names["result"].losses[-1] < names["result"].losses[0]
    nearest = np.argsort(-(names["tracks"] @ names["new_user"]))[:10]
    assert (nearest < 20).all()
    assert sorted(np.bincount(names["groups"].labels)) == [100, 100]
    assert "loss" in capsys.readouterr().out
