"""The site's database: its engine, every table, and the migrations. One owner; rooms above bring the rules."""

from plugsky.state.database import RESTORE, Database, open_database
from plugsky.state.tables import ApiKey, LedgerEntry, LedgerState, Tenant, TenantMonth

__all__ = ["RESTORE", "ApiKey", "Database", "LedgerEntry", "LedgerState", "Tenant", "TenantMonth", "open_database"]
