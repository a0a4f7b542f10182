"""The tables of labels and of sentences to label. There is no way back: labels are never taken away."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "labels",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String(200), nullable=False, unique=True),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("label", sa.String(100), nullable=False),
        sa.Column("annotator", sa.String(100), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("model_id", sa.String(64)),
        sa.Column("predicted", sa.String(100)),
        sa.Column("confidence", sa.Float),
        sa.Column("note", sa.Text),
    )
    op.create_index("ix_labels_digest", "labels", ["digest"])
    op.create_table(
        "seen",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Column("predicted", sa.String(100), nullable=False),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("model_id", sa.String(64), nullable=False),
    )
