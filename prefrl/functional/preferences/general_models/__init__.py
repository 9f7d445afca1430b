"""The mathematics of preference models beyond one reward: margins, fits, and how sure of them one may be."""
