"""prefrl.functional."""
