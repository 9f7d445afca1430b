"""What others are shown of a run: a film, a page, a policy that needs no prefrl."""
