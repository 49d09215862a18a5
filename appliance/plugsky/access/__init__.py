"""Accounts: who may use the site (``keys``), how much (``quota``), and what it cost them (``ledger``)."""
