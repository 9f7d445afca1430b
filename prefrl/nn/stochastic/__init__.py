"""Networks with units that are drawn or gated."""
