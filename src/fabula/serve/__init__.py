"""A model behind HTTP: OpenAI's routes and a few of our own, many requests at once."""
