"""prefrl.tabular."""
