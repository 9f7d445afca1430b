"""The mathematics of choices that look ahead: what they say about values and rewards."""
