"""Value distributions and policy improvement."""
