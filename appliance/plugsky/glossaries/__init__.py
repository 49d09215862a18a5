"""Glossaries of tenants: which word stands for which, by pair of languages."""
