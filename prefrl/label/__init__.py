"""People answer in a browser: questions, clips, the page and its server, and what becomes of answers."""
