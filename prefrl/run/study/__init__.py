"""Studies: arms, seeds, timings."""
