"""Settings found by trying: Optuna asks, run folders answer (the extra ``tune``)."""
