"""Advantages of groups: episodes of PPO, and a plain policy gradient."""
