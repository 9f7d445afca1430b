"""How files that others wrote are read: nothing that they claim is believed before it is checked."""
