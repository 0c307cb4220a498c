"""Alembic's entry: runs the revisions on the connection that `tasks.store.database` hands over."""

from alembic import context

from tasks.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
