"""Classic control, step for step Gymnasium's."""
