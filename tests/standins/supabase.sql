-- What a Supabase database has before anybody uses it, as far as the adapter meets it.
DO $$
BEGIN
    IF to_regrole('service_role') IS NULL THEN
        CREATE ROLE anon NOLOGIN;
        CREATE ROLE authenticated NOLOGIN;
        CREATE ROLE service_role NOLOGIN BYPASSRLS;
        CREATE ROLE authenticator LOGIN NOINHERIT;
        GRANT anon, authenticated, service_role TO authenticator;
        ALTER ROLE authenticator SET statement_timeout = '8s';
        ALTER ROLE anon SET statement_timeout = '3s';
        ALTER ROLE authenticated SET statement_timeout = '8s';
    END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS auth;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
CREATE OR REPLACE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub')::uuid
$$;

-- PostgREST is told of what changes what it knows.
CREATE OR REPLACE FUNCTION public.tell_postgrest() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY pgrst, 'reload schema';
END $$;
DROP EVENT TRIGGER IF EXISTS tell_postgrest;
CREATE EVENT TRIGGER tell_postgrest ON ddl_command_end EXECUTE FUNCTION public.tell_postgrest();
DROP EVENT TRIGGER IF EXISTS tell_postgrest_of_drops;
CREATE EVENT TRIGGER tell_postgrest_of_drops ON sql_drop EXECUTE FUNCTION public.tell_postgrest();

-- Realtime's: a row of realtime.messages is a broadcast, written with the rights of whoever sends it. Its
-- server reads them from the WAL; the stand-in has them told by a trigger.
CREATE SCHEMA IF NOT EXISTS realtime;
GRANT USAGE ON SCHEMA realtime TO anon, authenticated, service_role;
CREATE TABLE IF NOT EXISTS realtime.messages (
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    topic       text NOT NULL,
    extension   text NOT NULL,
    event       text,
    payload     jsonb,
    private     boolean,
    inserted_at timestamp NOT NULL DEFAULT now(),
    PRIMARY KEY (id, inserted_at)
) PARTITION BY RANGE (inserted_at);
CREATE TABLE IF NOT EXISTS realtime.messages_standin PARTITION OF realtime.messages DEFAULT;
ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE ON realtime.messages TO anon, authenticated, service_role;
CREATE OR REPLACE FUNCTION realtime.standin_tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_notify('standin_realtime', to_jsonb(NEW)::text);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER standin_tell AFTER INSERT ON realtime.messages
    FOR EACH ROW EXECUTE FUNCTION realtime.standin_tell();
CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('realtime.topic', send.topic, true);
    INSERT INTO realtime.messages (topic, extension, event, payload, private)
        VALUES (send.topic, 'broadcast', send.event, send.payload, send.private);
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'realtime.send: %', SQLERRM;
END $$;
