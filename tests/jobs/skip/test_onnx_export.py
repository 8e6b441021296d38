"""Tests of the ONNX export: it predicts what the models predict."""

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import BadArgument
from jobs.skip import onnx_export
from models.skip.estimators import registry
from tests.helpers.skip_world import split_in_three, with_ids, world

TRAIN, VALID, TEST = split_in_three(world())
SETTINGS = {
    "logistic_features": {},
    "boosted_trees": {"rounds": 40, "learning_rate": 0.1, "min_leaf_plays": 20},
    "ncf": {"epochs": 2},
    "neumf": {"epochs": 2},
    "session_gru": {"epochs": 2, "length": 5, "hidden": 8},
    "fm": {"rank": 5, "epochs": 3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_onnx_predictions_equal_those_of_the_model(name, tmp_path):
    model = registry.make(name, SETTINGS[name])
    model.fit(TRAIN, VALID, seed=1)
    model.observe(TEST)
    network = onnx_export.to_onnx(model)
    file = tmp_path / "skip.onnx"
    file.write_bytes(network)
    nothing = replace(TEST, numbers_NF=np.full_like(TEST.numbers_NF, np.nan))
    for plays in (TEST, nothing, with_ids(TEST, user=7, track=7), TEST.rows(slice(0, 1)), TEST.rows(slice(0, 0))):
        assert onnx_export.parity(model, file, plays) <= onnx_export.TOLERANCE
    predictions = onnx_export.predict(network, onnx_export.inputs(model, TEST))
    assert predictions.std() > 0.01  # the predictions are not constant
    assert onnx_export.to_onnx(model) == network


def test_models_without_onnx_form_raise():
    model = registry.make("pmf")
    with pytest.raises(BadArgument, match="pmf: cannot be exported to ONNX; FeatureRegression, BoostedTrees, "):
        onnx_export.to_onnx(model)
