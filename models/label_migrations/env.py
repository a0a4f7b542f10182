"""Runs the migrations on the connection that the label store gives."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="label_store_version")
with context.begin_transaction():
    context.run_migrations()
