#!/bin/sh
# Makes the two roles of docs/operate/postgresql.md in a new database. The image of PostgreSQL runs it once, as the user postgres, from
# /docker-entrypoint-initdb.d; so that user must be able to read the passwords of both.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE keyround_owner LOGIN;
CREATE ROLE keyround_server LOGIN;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO keyround_owner;
GRANT USAGE ON SCHEMA public TO keyround_server;
ALTER DEFAULT PRIVILEGES FOR ROLE keyround_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO keyround_server;
ALTER DEFAULT PRIVILEGES FOR ROLE keyround_owner IN SCHEMA public
    GRANT SELECT ON SEQUENCES TO keyround_server;
\set owner_password `cat /run/secrets/owner_password`
\set server_password `cat /run/secrets/server_password`
ALTER ROLE keyround_owner PASSWORD :'owner_password';
ALTER ROLE keyround_server PASSWORD :'server_password';
SQL
