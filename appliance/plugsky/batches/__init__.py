"""Files of tenants, and batches: many requests in one file, run when nobody else wants the engines."""
