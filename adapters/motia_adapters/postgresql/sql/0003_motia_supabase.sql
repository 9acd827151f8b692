-- motia-core on PostgreSQL, 3 of 3: what only Supabase needs.
--
-- Then expose the schema: Settings, API, "Exposed schemas": add motia (config.toml: api.schemas).
-- The adapter calls the functions with the service key. A user's own key may call one function,
-- motia.readable, which sees what row level security lets that user see: nothing, until you
-- write a policy, for example
--   CREATE POLICY members ON motia.item FOR SELECT TO authenticated USING (
--       stream = motia.stream_id('motia', 'documents')
--       AND grp IN (SELECT workspace FROM public.members WHERE member = auth.uid()));

INSERT INTO motia.migration (name) VALUES ('0003_motia_supabase');

GRANT USAGE ON SCHEMA motia TO service_role, authenticated;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA motia TO service_role;
GRANT SELECT ON motia.item, motia.stream TO authenticated;

CREATE FUNCTION motia.stream_id(p_namespace text, p_stream text) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
    SELECT id FROM motia.stream WHERE namespace = p_namespace AND name = p_stream
$$;
REVOKE EXECUTE ON FUNCTION motia.stream_id(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION motia.stream_id(text, text), motia.readable(text, text, text, text),
    motia.readable_rows(text, text, text, text), motia.key_names(text, text) TO authenticated;
CREATE POLICY "names of streams" ON motia.stream FOR SELECT TO authenticated USING (true);

CREATE OR REPLACE FUNCTION motia.wake(p_namespace text, p_stream text, p_rows text DEFAULT NULL) RETURNS void
-- News travels by Realtime's broadcast, too, on the private channel "motia"; a write never fails for want of it.
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_bare constant text := json_build_array(p_namespace, p_stream);
    v_carried constant text := left(v_bare, -1) || ', ' || p_rows || ']';
BEGIN
    PERFORM pg_notify(channel, CASE WHEN octet_length(v_carried) < 7900 THEN v_carried ELSE v_bare END) FROM motia.news;
    BEGIN
        PERFORM realtime.send(jsonb_build_object('namespace', p_namespace, 'stream', p_stream), 'change', 'motia', true);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'motia: Realtime was not told: %', SQLERRM;
    END;
END $$;

CREATE FUNCTION motia.ring(p_token text) RETURNS json
-- Have Realtime tell p_token, as it tells that a stream has changed: for `motia-core doctor`.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
BEGIN
    PERFORM motia.wake('doctor', p_token);
    RETURN 'true'::json;
END $$;
REVOKE EXECUTE ON FUNCTION motia.ring(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION motia.ring(text) TO service_role;
