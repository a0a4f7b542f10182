"""Migrations of the label store's tables, run by alembic when a store is opened."""
