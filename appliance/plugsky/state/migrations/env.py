"""Alembic's entry: runs the steps on the connection and in the transaction that :mod:`plugsky.state.migrate` opened."""

from alembic import context
from sqlmodel import SQLModel

from plugsky.state import tables  # noqa: F401 - fills the metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
context.run_migrations()
