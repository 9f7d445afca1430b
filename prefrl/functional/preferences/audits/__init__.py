"""What audits of policies compute: loops that learn from their own data, drift of stances, utilities of choices."""
