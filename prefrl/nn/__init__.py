"""prefrl.nn."""
