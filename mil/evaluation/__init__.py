"""How good a run is, and against what: out-of-fold scores, intervals, calibration, baselines."""
