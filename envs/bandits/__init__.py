"""Choices that are paid by what they make together: tours and questions."""
