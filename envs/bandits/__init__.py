"""Choices that are paid by what they make together: tours and questions."""
"""Small tasks of one decision or a short row of them: programs, questions, tours."""
