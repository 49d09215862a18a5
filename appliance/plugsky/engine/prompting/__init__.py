"""From what a client sends to checked tokens: templates, families of models, images, and what is refused on the way."""
