"""prefrl.preferences."""
