-- What the servers do not need, after the tables were made: docs/operate/postgresql.md. It may be run again, as the role that owns the tables.
REVOKE UPDATE, DELETE ON audit FROM keyround_server;
REVOKE INSERT, UPDATE, DELETE ON _sqlx_migrations FROM keyround_server;
