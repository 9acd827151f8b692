-- What the images expect of whoever runs them: a password for the REST side, a schema for Realtime's own tables.
\set password `echo "$POSTGRES_PASSWORD"`
ALTER ROLE authenticator WITH PASSWORD :'password';
ALTER ROLE postgres WITH PASSWORD :'password';
CREATE SCHEMA IF NOT EXISTS _realtime AUTHORIZATION supabase_admin;
