"""Limits of keys and tenants, scopes by endpoint, keys that replace keys, and aliases of models."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns, all of which may be absent, and a table."""
    for table in ("tenant", "apikey"):
        op.add_column(table, sa.Column("requests_per_minute", sa.Integer))
        op.add_column(table, sa.Column("tokens_per_minute", sa.BigInteger))
        op.add_column(table, sa.Column("concurrency", sa.Integer))
    op.add_column("apikey", sa.Column("endpoints", sa.Text))
    op.add_column("apikey", sa.Column("replaced_by", sa.Text))
    op.create_table(
        "alias",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("defaults", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
    )
