"""What a finished run says of its outcome, family by family."""
