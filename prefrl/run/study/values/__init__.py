"""Claims about methods that learn from returns, choices and search, by family."""
