"""prefrl.run."""
