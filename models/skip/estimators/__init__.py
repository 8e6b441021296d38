"""The skip models, one file per estimator, behind one interface."""
