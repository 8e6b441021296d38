"""The skip models behind one interface, one file per estimator."""
