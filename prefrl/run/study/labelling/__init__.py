"""Studies for people to answer, made of what agents did."""
