"""Small tasks of one decision or a short row of them: programs, questions, tours."""
