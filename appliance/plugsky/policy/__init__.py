"""What the law and the site's owner ask, as code that enforces, checks and evidences it."""
