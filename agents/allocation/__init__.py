"""Online allocation under budgets."""
