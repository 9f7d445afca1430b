"""What audits of policies compute: curated loops, drift of stances, utilities of choices."""
