"""Networks that take noise away, and policies that sample by them."""
