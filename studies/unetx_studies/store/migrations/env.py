"""Run by alembic, on the connection that ``store.schema_versions`` hands over."""

from alembic import context

from unetx_studies.store.schema_versions import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
