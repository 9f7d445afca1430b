"""Online allocation: requests, budgets, hindsight optima."""
