"""The page's server: who may ask, what may be asked, and what is answered."""
