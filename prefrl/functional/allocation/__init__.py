"""Mirror descent."""
