"""The site's database: its engine, every table, and the migrations. One owner; rooms above bring the rules."""

from plugsky.state.database import RESTORE, Database, open_database
from plugsky.state.tables import (
    Alias,
    ApiKey,
    Batch,
    Glossary,
    GlossaryDictionary,
    LedgerEntry,
    LedgerState,
    Login,
    Person,
    StoredFile,
    Tenant,
    TenantMonth,
)

__all__ = [
    "RESTORE",
    "Alias",
    "ApiKey",
    "Batch",
    "Database",
    "Glossary",
    "GlossaryDictionary",
    "LedgerEntry",
    "LedgerState",
    "Login",
    "Person",
    "StoredFile",
    "Tenant",
    "TenantMonth",
    "open_database",
]
