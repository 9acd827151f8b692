-- What a Supabase database has before anybody uses it, as far as the adapter meets it.
DO $$
BEGIN
    IF to_regrole('service_role') IS NULL THEN
        CREATE ROLE anon NOLOGIN;
        CREATE ROLE authenticated NOLOGIN;
        CREATE ROLE service_role NOLOGIN BYPASSRLS;
    END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS auth;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
CREATE OR REPLACE FUNCTION auth.uid() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub'
$$;
CREATE SCHEMA IF NOT EXISTS realtime;
-- Supabase's own writes to realtime.messages, which its server reads from the WAL.
CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_notify('standin_realtime', jsonb_build_object('payload', payload, 'event', event, 'topic', topic)::text)
$$;
