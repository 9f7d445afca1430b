"""prefrl.data."""
