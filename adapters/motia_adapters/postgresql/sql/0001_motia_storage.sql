-- motia-core on PostgreSQL, 1 of 3: managed storage (tables and functions of schema motia).
--
-- Apply it with `motia-core migrate apply`, psql, or as a migration of the Supabase CLI.
-- Who owns the schema may use everything; others need
--   GRANT USAGE ON SCHEMA motia TO app; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA motia TO app;
--
-- How it works. A stream has one lock; whoever writes to it takes the lock first and only then
-- the next number. So the order of numbers is the order of commits, and a reader that has seen
-- number n will never see one below n appear (SEMANTICS B2). Numbers of a stream have no holes.
-- An epoch is a stretch of the server's life: it changes when the server is not the one that
-- wrote last (restarted, crashed, restored, failed over), so that a place in a lost history is
-- never mistaken for one in the history that replaced it (B4).

CREATE SCHEMA motia;
REVOKE ALL ON SCHEMA motia FROM PUBLIC;

CREATE TABLE motia.migration (           -- the files that were applied
    name    text PRIMARY KEY,
    applied timestamptz NOT NULL DEFAULT now(),
    digest  text                         -- of the file as it was then; none where it was not told
);
INSERT INTO motia.migration (name) VALUES ('0001_motia_storage');

CREATE TABLE motia.server (              -- one row: the epoch that began last
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch    bigint NOT NULL
);

-- One row: the server that wrote last. Unlogged: a crash empties it, also one that the server's
-- main process survives, as with a killed backend; with synchronous_commit off that loses commits.
CREATE UNLOGGED TABLE motia.alive (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    identity text NOT NULL,
    epoch    bigint NOT NULL
);

-- Anybody may LISTEN to a channel whose name they know, and news may carry values: the name is a secret.
CREATE TABLE motia.news (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    channel text NOT NULL DEFAULT 'motia_' || replace(gen_random_uuid()::text, '-', '')
);
INSERT INTO motia.news DEFAULT VALUES;

CREATE TABLE motia.stream (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace   text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    floor_epoch bigint NOT NULL,         -- the place that the log still reaches back to
    floor_seq   bigint NOT NULL,
    floor_ts    bigint NOT NULL,         -- its timestamp, µs since 1970
    UNIQUE (namespace, name)
);

CREATE TABLE motia.item (
    stream  integer NOT NULL,
    grp     text COLLATE "C" NOT NULL,
    id      text COLLATE "C" NOT NULL,
    value   json NOT NULL,               -- json, not jsonb: it keeps every number as it was written
    epoch   bigint NOT NULL,             -- the place of its last change: its version
    seq     bigint NOT NULL,
    expires bigint,                      -- µs since 1970
    PRIMARY KEY (stream, grp, id)
);
CREATE INDEX item_expires ON motia.item (stream, expires) WHERE expires IS NOT NULL;

CREATE TABLE motia.log (
    stream integer NOT NULL,
    seq    bigint NOT NULL,
    epoch  bigint NOT NULL,
    ts     bigint NOT NULL,              -- µs since 1970; rises strictly along the stream
    type   text NOT NULL,                -- create, update, delete, event
    grp    text COLLATE "C" NOT NULL,
    id     text COLLATE "C",
    value  json,                         -- new value; of a delete the old one; of an event its data
    event  text,                         -- the type of a custom event
    PRIMARY KEY (stream, seq)
);

CREATE SEQUENCE motia.unlogged;          -- versions of streams without a log

-- Nobody reads a table but its owner, until policies say otherwise.
ALTER TABLE motia.migration ENABLE ROW LEVEL SECURITY;
ALTER TABLE motia.server ENABLE ROW LEVEL SECURITY;
ALTER TABLE motia.alive ENABLE ROW LEVEL SECURITY;
ALTER TABLE motia.news ENABLE ROW LEVEL SECURITY;
ALTER TABLE motia.stream ENABLE ROW LEVEL SECURITY;
ALTER TABLE motia.item ENABLE ROW LEVEL SECURITY;
ALTER TABLE motia.log ENABLE ROW LEVEL SECURITY;

CREATE VIEW motia.items AS               -- for people
    SELECT s.namespace, s.name AS stream, i.grp AS "group", i.id, i.value::jsonb AS value,
           to_timestamp(i.expires / 1e6) AS expires
    FROM motia.item AS i JOIN motia.stream AS s ON s.id = i.stream;

CREATE FUNCTION motia.version() RETURNS json
-- Of the objects, and the digests of the files that made them.
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
    SELECT json_build_object('version', 1, 'files', (SELECT json_object_agg(name, digest) FROM motia.migration))
$$;

CREATE FUNCTION motia.now_us() RETURNS bigint
-- A float holds it to the microsecond, and costs less than extract's numeric.
LANGUAGE sql VOLATILE AS $$ SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint $$;

-- Functions that only others call run with the rights and settings of those: that is what they cost least with.

CREATE FUNCTION motia.identity() RETURNS text
-- The file of the log changes with TRUNCATE and with a restore of the table.
LANGUAGE sql STABLE AS $$
    SELECT extract(epoch FROM pg_postmaster_start_time())::text || '/' || pg_relation_filenode('motia.log')::text
$$;

CREATE FUNCTION motia.epoch() RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_identity constant text := motia.identity();
    v_epoch bigint;
BEGIN
    SELECT epoch INTO v_epoch FROM motia.alive WHERE identity = v_identity;
    IF FOUND THEN
        RETURN v_epoch;
    END IF;
    LOCK TABLE motia.server IN SHARE ROW EXCLUSIVE MODE;
    SELECT epoch INTO v_epoch FROM motia.alive WHERE identity = v_identity;
    IF NOT FOUND THEN
        INSERT INTO motia.server (epoch) VALUES (motia.now_us())
        ON CONFLICT (one) DO UPDATE SET epoch = greatest(motia.server.epoch + 1, excluded.epoch) RETURNING epoch INTO v_epoch;
        INSERT INTO motia.alive (identity, epoch) VALUES (v_identity, v_epoch)
        ON CONFLICT (one) DO UPDATE SET (identity, epoch) = (excluded.identity, excluded.epoch);
    END IF;
    RETURN v_epoch;
END $$;

CREATE FUNCTION motia.channel() RETURNS json
-- What to LISTEN to. Each piece of news is a JSON list: namespace, stream, and perhaps, of a small write, the place
-- [epoch, seq] before it and its rows, as in motia.changes: whoever stands at that place need not read.
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$ SELECT to_json(channel) FROM motia.news $$;

CREATE FUNCTION motia.wake(p_namespace text, p_stream text, p_rows text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$  -- not sql: that would be planned anew in each transaction
DECLARE
    v_bare constant text := json_build_array(p_namespace, p_stream);
    v_carried constant text := left(v_bare, -1) || ', ' || p_rows || ']';
BEGIN
    PERFORM pg_notify(channel, CASE WHEN octet_length(v_carried) < 7900 THEN v_carried ELSE v_bare END) FROM motia.news;
END $$;

CREATE FUNCTION motia.tail(s motia.stream, OUT epoch bigint, OUT seq bigint, OUT ts bigint)
-- The last entry of a stream's log, or what it was before it was trimmed away.
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT l.epoch, l.seq, l.ts INTO epoch, seq, ts FROM motia.log AS l
        WHERE l.stream = s.id ORDER BY l.seq DESC LIMIT 1;
    IF NOT FOUND THEN
        epoch := s.floor_epoch; seq := s.floor_seq; ts := s.floor_ts;
    END IF;
END $$;

CREATE FUNCTION motia.locked(p_namespace text, p_stream text) RETURNS motia.stream
-- The stream, made if need be, with its lock held until the transaction ends.
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    s motia.stream;
    v_epoch bigint;
    v_now bigint;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        -- What is read after the lock was taken must not be older than the lock.
        RAISE EXCEPTION USING ERRCODE = 'MO003',
            MESSAGE = 'it runs in a transaction that is ' || current_setting('transaction_isolation');
    END IF;
    SELECT * INTO s FROM motia.stream WHERE namespace = p_namespace AND name = p_stream;
    IF NOT FOUND THEN
        v_epoch := motia.epoch();
        v_now := motia.now_us();
        -- It begins at the clock: a stream that is made anew never gives out a number again.
        INSERT INTO motia.stream (namespace, name, floor_epoch, floor_seq, floor_ts)
            VALUES (p_namespace, p_stream, v_epoch, v_now, v_now) ON CONFLICT DO NOTHING;
        SELECT * INTO STRICT s FROM motia.stream WHERE namespace = p_namespace AND name = p_stream;
    END IF;
    PERFORM pg_advisory_xact_lock(1836020841, s.id);  -- "moti"
    RETURN s;
END $$;

CREATE FUNCTION motia.prepare(p_namespace text, p_stream text) RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
BEGIN
    PERFORM FROM motia.stream WHERE namespace = p_namespace AND name = p_stream;
    IF NOT FOUND THEN
        PERFORM motia.locked(p_namespace, p_stream);
    END IF;
    RETURN motia.head(p_namespace, p_stream);
END $$;

CREATE FUNCTION motia.begin_history(p_namespace text, p_stream text) RETURNS json
-- All positions of a stream expire: after rows of these tables were put back by hand into a running server.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    s motia.stream;
    t record;
BEGIN
    s := motia.locked(p_namespace, p_stream);
    SELECT * INTO STRICT s FROM motia.stream WHERE id = s.id;
    t := motia.tail(s);
    LOCK TABLE motia.server IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM motia.alive;
    UPDATE motia.stream SET floor_epoch = motia.epoch(), floor_seq = greatest(t.seq + 1, motia.now_us()),
                            floor_ts = greatest(t.ts + 1, motia.now_us()) WHERE id = s.id;
    DELETE FROM motia.log WHERE stream = s.id;
    PERFORM motia.wake(p_namespace, p_stream);
    RETURN 'true'::json;
END $$;

CREATE FUNCTION motia.write(p_namespace text, p_stream text, p_logged boolean, p_units text) RETURNS json
-- p_units: a JSON list of units, each a list of writes {k, g, i, e, v, t, n}:
--   k  kind: s set, u update, d delete, e event with an id, n event without, c check only
--   g, i  group and id;  v  the value as text;  t  µs to live;  n  type of an event
--   e  expected: '-' nothing, 'EPOCH-SEQ' a version, '#N' what the Nth write of this call left
-- The answer: for each unit {"r": [[type, epoch, seq, ts, old value] or null...]}, or, with nothing
-- written, {"c": [place of the write that met something else, epoch, seq, value]}.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    s motia.stream;
    old motia.item;
    u record;
    w record;
    v_epoch bigint;
    v_seq bigint;
    v_ts bigint;
    v_now bigint;
    v_first bigint;
    v_before bigint;
    v_number integer := 0;
    v_place integer;
    v_places bigint[] := '{}';
    v_found boolean;
    v_many boolean;
    v_conflict text;
    v_type text;
    v_expires bigint;
    v_results text[];
    v_out text[] := '{}';
    v_small constant boolean := p_logged AND octet_length(p_units) < 6000;
    v_news text[] := '{}';  -- what they bring; to read it from the log again would take a plan of its own each time
BEGIN
    s := motia.locked(p_namespace, p_stream);
    v_epoch := motia.epoch();
    SELECT epoch, seq, ts INTO v_before, v_seq, v_ts FROM motia.log WHERE stream = s.id ORDER BY seq DESC LIMIT 1;
    IF NOT FOUND THEN
        SELECT floor_epoch, floor_seq, floor_ts INTO STRICT v_before, v_seq, v_ts FROM motia.stream WHERE id = s.id;
    END IF;
    v_first := v_seq;
    v_now := motia.now_us();
    v_ts := greatest(v_ts, v_now - 1);
    FOR u IN SELECT value FROM json_array_elements(p_units::json) LOOP
        v_many := json_array_length(u.value) > 1;
        v_conflict := NULL;
        IF v_many THEN
            v_place := 0;
            FOR w IN SELECT * FROM json_to_recordset(u.value) AS x(k text, g text, i text, e text) LOOP
                IF w.e IS NOT NULL THEN
                    SELECT * INTO old FROM motia.item WHERE stream = s.id AND grp = w.g AND id = w.i;
                    v_found := FOUND AND (old.expires IS NULL OR old.expires > v_now);
                    IF NOT (CASE WHEN w.e = '-' THEN NOT v_found
                                WHEN w.e LIKE '#%' THEN
                                    coalesce(v_places[substr(w.e, 2)::integer] = CASE WHEN v_found THEN old.seq ELSE -1 END, false)
                                ELSE v_found AND w.e = old.epoch || '-' || old.seq END) THEN
                        v_conflict := CASE WHEN v_found
                            THEN json_build_array(v_place, old.epoch, old.seq, old.value::text)::text
                            ELSE json_build_array(v_place, NULL, NULL, NULL)::text END;
                        EXIT;
                    END IF;
                END IF;
                v_place := v_place + 1;
            END LOOP;
        END IF;
        v_results := '{}';
        FOR w IN SELECT * FROM json_to_recordset(u.value)
                 AS x(k text, g text, i text, e text, v text, t bigint, n text) LOOP
            v_number := v_number + 1;
            v_places[v_number] := NULL;
            CONTINUE WHEN v_conflict IS NOT NULL;
            IF w.k IN ('e', 'n') THEN
                v_ts := v_ts + 1;
                IF p_logged THEN
                    v_seq := v_seq + 1;
                    INSERT INTO motia.log (stream, seq, epoch, ts, type, grp, id, value, event)
                        VALUES (s.id, v_seq, v_epoch, v_ts, 'event', w.g, w.i, w.v::json, w.n);
                    IF v_small THEN
                        v_news := v_news || json_build_array(v_epoch, v_seq, v_ts, 'event', w.g, w.i, w.v, w.n)::text;
                    END IF;
                ELSE
                    v_seq := nextval('motia.unlogged');
                END IF;
                v_results := v_results || json_build_array('event', v_epoch, v_seq, v_ts, NULL)::text;
                CONTINUE;
            END IF;
            SELECT * INTO old FROM motia.item WHERE stream = s.id AND grp = w.g AND id = w.i;
            v_found := FOUND;
            IF v_found AND old.expires <= v_now THEN
                v_found := false;
            END IF;
            IF w.e IS NOT NULL AND NOT v_many THEN
                IF NOT (CASE WHEN w.e = '-' THEN NOT v_found
                            WHEN w.e LIKE '#%' THEN
                                coalesce(v_places[substr(w.e, 2)::integer] = CASE WHEN v_found THEN old.seq ELSE -1 END, false)
                            ELSE v_found AND w.e = old.epoch || '-' || old.seq END) THEN
                    v_conflict := CASE WHEN v_found
                        THEN json_build_array(0, old.epoch, old.seq, old.value::text)::text
                        ELSE json_build_array(0, NULL, NULL, NULL)::text END;
                    CONTINUE;
                END IF;
            END IF;
            IF w.k = 'c' THEN
                v_results := v_results || 'null'::text;
                CONTINUE;
            END IF;
            IF old.expires <= v_now AND NOT v_found THEN  -- it has expired: its end comes first
                DELETE FROM motia.item WHERE stream = s.id AND grp = w.g AND id = w.i;
                IF p_logged THEN
                    v_seq := v_seq + 1;
                    v_ts := v_ts + 1;
                    INSERT INTO motia.log (stream, seq, epoch, ts, type, grp, id, value)
                        VALUES (s.id, v_seq, v_epoch, v_ts, 'delete', w.g, w.i, old.value);
                    IF v_small THEN
                        v_news := v_news || json_build_array(v_epoch, v_seq, v_ts, 'delete', w.g, w.i, old.value::text, NULL)::text;
                    END IF;
                END IF;
            END IF;
            IF w.k = 'd' AND NOT v_found THEN
                v_places[v_number] := -1;
                v_results := v_results || 'null'::text;
                CONTINUE;
            END IF;
            v_type := CASE WHEN w.k = 'd' THEN 'delete' WHEN v_found THEN 'update' ELSE 'create' END;
            v_ts := v_ts + 1;
            IF p_logged THEN
                v_seq := v_seq + 1;
                INSERT INTO motia.log (stream, seq, epoch, ts, type, grp, id, value)
                    VALUES (s.id, v_seq, v_epoch, v_ts, v_type, w.g, w.i,
                            CASE WHEN w.k = 'd' THEN old.value ELSE w.v::json END);
                IF v_small THEN
                    v_news := v_news || json_build_array(v_epoch, v_seq, v_ts, v_type, w.g, w.i,
                                                         CASE WHEN w.k = 'd' THEN old.value::text ELSE w.v END, NULL)::text;
                END IF;
            ELSE
                v_seq := nextval('motia.unlogged');
            END IF;
            IF w.k = 'd' THEN
                DELETE FROM motia.item WHERE stream = s.id AND grp = w.g AND id = w.i;
                v_places[v_number] := -1;
            ELSE
                v_expires := CASE WHEN w.t IS NOT NULL THEN v_now + w.t WHEN w.k = 'u' AND v_found THEN old.expires END;
                IF v_found THEN
                    UPDATE motia.item SET value = w.v::json, epoch = v_epoch, seq = v_seq, expires = v_expires
                        WHERE stream = s.id AND grp = w.g AND id = w.i;
                ELSE
                    INSERT INTO motia.item (stream, grp, id, value, epoch, seq, expires)
                        VALUES (s.id, w.g, w.i, w.v::json, v_epoch, v_seq, v_expires);
                END IF;
                v_places[v_number] := v_seq;
            END IF;
            v_results := v_results || json_build_array(v_type, v_epoch, v_seq, v_ts,
                CASE WHEN v_found THEN old.value::text END)::text;
        END LOOP;
        v_out := v_out || CASE WHEN v_conflict IS NOT NULL THEN '{"c":' || v_conflict || '}'
                               ELSE '{"r":[' || array_to_string(v_results, ',') || ']}' END;
    END LOOP;
    IF p_logged AND v_seq > v_first THEN
        PERFORM motia.wake(p_namespace, p_stream, CASE WHEN v_small AND v_seq - v_first <= 4 THEN
            json_build_array(v_before, v_first)::text || ', [' || array_to_string(v_news, ', ') || ']' END);
    END IF;
    RETURN ('[' || array_to_string(v_out, ',') || ']')::json;
END $$;

CREATE FUNCTION motia.write_one(p_namespace text, p_stream text, p_kind text, p_group text, p_id text, p_value text, p_expect text)
RETURNS json
-- As motia.write, for one set, update or delete in a stream with a log, with few statements, each of which costs more
-- than what it does. Null, and nothing done, where it is not that plain: a deadline, a new stream, a new epoch, another isolation.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_stream integer;
    v_epoch bigint;
    v_before bigint;
    v_seq bigint;
    v_ts bigint;
    v_value json;
    v_old_epoch bigint;
    v_old_seq bigint;
    v_type text;
BEGIN
    SELECT id INTO v_stream FROM motia.stream WHERE namespace = p_namespace AND name = p_stream;
    IF current_setting('transaction_isolation') <> 'read committed' OR pg_advisory_xact_lock(1836020841, v_stream) IS NULL THEN
        RETURN NULL;  -- also where there is no such stream; the lock is that of motia.locked
    END IF;
    SELECT a.epoch, coalesce(l.epoch, s.floor_epoch), coalesce(l.seq, s.floor_seq) + 1,
           greatest(coalesce(l.ts, s.floor_ts), motia.now_us() - 1) + 1, i.value, i.epoch, i.seq,
           CASE WHEN p_kind = 'd' THEN 'delete' WHEN i.seq IS NULL THEN 'create' ELSE 'update' END
        INTO v_epoch, v_before, v_seq, v_ts, v_value, v_old_epoch, v_old_seq, v_type
        FROM motia.stream AS s CROSS JOIN motia.alive AS a
        LEFT JOIN LATERAL (SELECT epoch, seq, ts FROM motia.log WHERE stream = s.id ORDER BY seq DESC LIMIT 1) AS l ON true
        LEFT JOIN motia.item AS i ON i.stream = s.id AND i.grp = p_group AND i.id = p_id
        WHERE s.id = v_stream AND a.identity = motia.identity() AND i.expires IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF p_expect <> coalesce(v_old_epoch || '-' || v_old_seq, '-') THEN
        RETURN json_build_array(json_build_object('c', json_build_array(0, v_old_epoch, v_old_seq, v_value::text)));
    END IF;
    IF p_kind = 'd' THEN
        IF v_old_seq IS NULL THEN
            RETURN '[{"r":[null]}]'::json;
        END IF;
        DELETE FROM motia.item WHERE stream = v_stream AND grp = p_group AND id = p_id;
    ELSIF v_old_seq IS NULL THEN
        INSERT INTO motia.item (stream, grp, id, value, epoch, seq)
            VALUES (v_stream, p_group, p_id, p_value::json, v_epoch, v_seq);
    ELSE
        UPDATE motia.item SET value = p_value::json, epoch = v_epoch, seq = v_seq
            WHERE stream = v_stream AND grp = p_group AND id = p_id;
    END IF;
    INSERT INTO motia.log (stream, seq, epoch, ts, type, grp, id, value)
        VALUES (v_stream, v_seq, v_epoch, v_ts, v_type, p_group, p_id, CASE WHEN p_kind = 'd' THEN v_value ELSE p_value::json END);
    PERFORM motia.wake(p_namespace, p_stream, CASE WHEN octet_length(coalesce(p_value, v_value::text)) < 6000 THEN
        json_build_array(v_before, v_seq - 1) || ', ['
        || json_build_array(v_epoch, v_seq, v_ts, v_type, p_group, p_id, coalesce(p_value, v_value::text), NULL) || ']' END);
    RETURN json_build_array(json_build_object('r', json_build_array(
        json_build_array(v_type, v_epoch, v_seq, v_ts, v_value::text))));
END $$;

CREATE FUNCTION motia.head(p_namespace text, p_stream text) RETURNS json
-- {"head": [epoch, seq], "floor": [epoch, seq]}; null if there is no such stream.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    s motia.stream;
    t record;
BEGIN
    SELECT * INTO s FROM motia.stream WHERE namespace = p_namespace AND name = p_stream;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    t := motia.tail(s);
    RETURN json_build_object('head', json_build_array(t.epoch, t.seq),
                             'floor', json_build_array(s.floor_epoch, s.floor_seq));
END $$;

CREATE FUNCTION motia.heads(p_namespace text, p_streams text) RETURNS json
-- For each of a JSON list of streams [epoch, seq], or null: has anything happened?
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
BEGIN
    RETURN (
        SELECT coalesce(json_agg(CASE WHEN s.id IS NOT NULL THEN json_build_array(t.epoch, t.seq) END ORDER BY n.place), '[]')
        FROM json_array_elements_text(p_streams::json) WITH ORDINALITY AS n(name, place)
        LEFT JOIN motia.stream AS s ON s.namespace = p_namespace AND s.name = n.name
        LEFT JOIN LATERAL motia.tail(s) AS t ON s.id IS NOT NULL
    );
END $$;

CREATE FUNCTION motia.changes(p_namespace text, p_stream text, p_epoch bigint, p_seq bigint, p_limit integer)
RETURNS json
-- {"rows": [[epoch, seq, ts, type, group, id, value, event]...]} after a place, or {"expired": floor}
-- if the log does not know that place; null if there is no such stream. Values are texts.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    s motia.stream;
BEGIN
    SELECT * INTO s FROM motia.stream WHERE namespace = p_namespace AND name = p_stream;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF (s.floor_epoch, s.floor_seq) <> (p_epoch, p_seq) THEN
        PERFORM FROM motia.log WHERE stream = s.id AND seq = p_seq AND epoch = p_epoch;
        IF NOT FOUND THEN
            RETURN json_build_object('expired', json_build_array(s.floor_epoch, s.floor_seq));
        END IF;
    END IF;
    RETURN json_build_object('rows', (
        SELECT coalesce(json_agg(json_build_array(epoch, seq, ts, type, grp, id, value::text, event) ORDER BY seq), '[]')
        FROM (SELECT * FROM motia.log WHERE stream = s.id AND seq > p_seq ORDER BY seq LIMIT p_limit) AS l
    ));
END $$;

CREATE FUNCTION motia.get(p_namespace text, p_stream text, p_group text, p_id text) RETURNS json
-- [id, value, epoch, seq, whether it expires], or null.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
BEGIN
    RETURN (
        SELECT json_build_array(i.id, i.value::text, i.epoch, i.seq, i.expires IS NOT NULL)
        FROM motia.stream AS s JOIN motia.item AS i ON i.stream = s.id AND i.grp = p_group AND i.id = p_id
        WHERE s.namespace = p_namespace AND s.name = p_stream AND (i.expires IS NULL OR i.expires > motia.now_us())
    );
END $$;

CREATE FUNCTION motia.list(p_namespace text, p_stream text, p_group text, p_after text, p_limit integer) RETURNS json
-- Items as in motia.get, by the bytes of their ids, after p_after.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
BEGIN
    RETURN (
        SELECT coalesce(json_agg(json_build_array(id, value::text, epoch, seq, expires IS NOT NULL) ORDER BY id), '[]')
        FROM (SELECT i.* FROM motia.stream AS s JOIN motia.item AS i ON i.stream = s.id AND i.grp = p_group
              WHERE s.namespace = p_namespace AND s.name = p_stream AND i.id > p_after
                AND (i.expires IS NULL OR i.expires > motia.now_us())
              ORDER BY i.id LIMIT p_limit) AS page
    );
END $$;

CREATE FUNCTION motia.groups(p_namespace text, p_stream text, p_after text, p_limit integer) RETURNS json
-- Groups that have items, by their bytes, after p_after; the index is asked once for each.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    v_now constant bigint := motia.now_us();
    v_stream integer;
BEGIN
    SELECT id INTO v_stream FROM motia.stream WHERE namespace = p_namespace AND name = p_stream;
    RETURN (
        WITH RECURSIVE found(grp) AS (
            (SELECT i.grp FROM motia.item AS i WHERE i.stream = v_stream AND i.grp > p_after
               AND (i.expires IS NULL OR i.expires > v_now) ORDER BY i.grp LIMIT 1)
            UNION ALL
            SELECT (SELECT i.grp FROM motia.item AS i WHERE i.stream = v_stream AND i.grp > found.grp
                      AND (i.expires IS NULL OR i.expires > v_now) ORDER BY i.grp LIMIT 1)
            FROM found WHERE found.grp IS NOT NULL
        )
        SELECT coalesce(json_agg(grp ORDER BY grp), '[]') FROM (SELECT grp FROM found WHERE grp IS NOT NULL LIMIT p_limit) AS page
    );
END $$;

CREATE FUNCTION motia.snapshot(p_namespace text, p_stream text, p_group text, p_id text, p_limit integer) RETURNS json
-- {"items": as in motia.list, "head": [epoch, seq, ts]} of one moment; null if there is no such stream.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    v_now constant bigint := motia.now_us();
    s motia.stream;
    t record;
BEGIN
    SELECT * INTO s FROM motia.stream WHERE namespace = p_namespace AND name = p_stream;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    t := motia.tail(s);
    RETURN json_build_object('head', json_build_array(t.epoch, t.seq, t.ts), 'items', (
        SELECT coalesce(json_agg(json_build_array(id, value::text, epoch, seq, expires IS NOT NULL) ORDER BY id), '[]')
        FROM (SELECT * FROM motia.item WHERE stream = s.id AND grp = p_group AND (p_id IS NULL OR id = p_id)
                AND (expires IS NULL OR expires > v_now) ORDER BY id LIMIT p_limit) AS page
    ));
END $$;

CREATE FUNCTION motia.due(p_namespace text, p_streams text, p_count bigint, p_age bigint) RETURNS json
-- Of a JSON list of streams those with something to sweep or trim: [[name, sweep, trim]...].
-- A little more than p_count is let be: the floor does not move with every change.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    v_now constant bigint := motia.now_us();
BEGIN
    RETURN (
        SELECT coalesce(json_agg(json_build_array(name, sweep, trim)), '[]') FROM (
            SELECT s.name,
                   EXISTS (SELECT FROM motia.item AS i WHERE i.stream = s.id AND i.expires <= v_now) AS sweep,
                   coalesce(t.seq - s.floor_seq > p_count + greatest(16, p_count / 16), false) OR coalesce((
                       SELECT l.ts < v_now - p_age FROM motia.log AS l WHERE l.stream = s.id AND l.seq > s.floor_seq
                       ORDER BY l.seq LIMIT 1), false) AS trim
            FROM motia.stream AS s, motia.tail(s) AS t
            WHERE s.namespace = p_namespace AND s.name IN (SELECT json_array_elements_text(p_streams::json))
        ) AS looked WHERE sweep OR trim
    );
END $$;

CREATE FUNCTION motia.sweep(p_namespace text, p_stream text, p_logged boolean, p_limit integer) RETURNS json
-- Remove expired items, and log their deletes; how many.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    s motia.stream;
    v_epoch bigint;
    v_count integer;
    v_now bigint;
    t record;
BEGIN
    s := motia.locked(p_namespace, p_stream);
    SELECT * INTO STRICT s FROM motia.stream WHERE id = s.id;
    v_epoch := motia.epoch();
    v_now := motia.now_us();
    t := motia.tail(s);
    WITH gone AS (
        DELETE FROM motia.item AS i USING (
            SELECT grp, id FROM motia.item WHERE stream = s.id AND expires <= v_now ORDER BY expires LIMIT p_limit
        ) AS due
        WHERE i.stream = s.id AND i.grp = due.grp AND i.id = due.id
        RETURNING i.grp, i.id, i.value, i.expires
    ), numbered AS (
        SELECT *, row_number() OVER (ORDER BY expires, grp, id) AS n FROM gone
    ), logged AS (
        INSERT INTO motia.log (stream, seq, epoch, ts, type, grp, id, value)
        SELECT s.id, t.seq + n, v_epoch, greatest(t.ts, v_now - 1) + n, 'delete', grp, id, value
        FROM numbered WHERE p_logged
    )
    SELECT count(*) INTO v_count FROM gone;
    IF v_count > 0 AND p_logged THEN
        PERFORM motia.wake(p_namespace, p_stream);
    END IF;
    RETURN to_json(v_count);
END $$;

CREATE FUNCTION motia.trim(p_namespace text, p_stream text, p_count bigint, p_age bigint, p_limit integer) RETURNS json
-- Forget what retention no longer covers, p_limit entries at most; how many. The floor moves with it.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    v_old constant bigint := motia.now_us() - p_age;
    s motia.stream;
    f record;
    t record;
    v_until bigint;
    v_count bigint;
BEGIN
    SELECT * INTO s FROM motia.stream WHERE namespace = p_namespace AND name = p_stream FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN '0'::json;
    END IF;
    t := motia.tail(s);
    v_until := s.floor_seq;
    IF p_count IS NOT NULL THEN
        v_until := greatest(v_until, least(t.seq - p_count, s.floor_seq + p_limit));
    END IF;
    IF p_age IS NOT NULL THEN
        SELECT greatest(v_until, max(seq)) INTO v_until FROM (
            SELECT seq, ts FROM motia.log WHERE stream = s.id AND seq > s.floor_seq ORDER BY seq LIMIT p_limit
        ) AS oldest WHERE ts < v_old;
    END IF;
    SELECT epoch, seq, ts INTO f FROM motia.log WHERE stream = s.id AND seq = v_until;
    IF NOT FOUND THEN
        RETURN '0'::json;
    END IF;
    DELETE FROM motia.log WHERE stream = s.id AND seq <= v_until;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    UPDATE motia.stream SET floor_epoch = f.epoch, floor_seq = f.seq, floor_ts = f.ts WHERE id = s.id;
    RETURN to_json(v_count);
END $$;

CREATE FUNCTION motia.readable(p_namespace text, p_stream text, p_group text, p_id text) RETURNS json
-- Whether the caller's own rights (row level security on motia.item) show anything of a group, or the item.
-- With the caller's search_path, as policies may call functions that need it.
LANGUAGE sql STABLE SECURITY INVOKER AS $$
    SELECT to_json(EXISTS (
        SELECT FROM motia.item AS i JOIN motia.stream AS s ON s.id = i.stream
        WHERE s.namespace = p_namespace AND s.name = p_stream AND i.grp = p_group AND (p_id IS NULL OR i.id = p_id)
    ))
$$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA motia FROM PUBLIC;
