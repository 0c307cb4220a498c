"""The small model: training, calibration, certified thresholds, evaluation."""
