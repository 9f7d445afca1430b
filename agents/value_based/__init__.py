"""Q-learning, tabular and deep."""
