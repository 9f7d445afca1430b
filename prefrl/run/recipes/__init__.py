"""prefrl.run.recipes."""
