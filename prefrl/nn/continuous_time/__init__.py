"""Gaussian policies of diffusions, and networks that give the gradient of every row."""
