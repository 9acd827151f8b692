-- motia-core on PostgreSQL, 2 of 3: mapped tables (a table of yours is a stream).
--
--   SELECT motia.map_table('public', 'orders', 'customer', 'code');   -- begin
--   SELECT motia.unmap_table('public', 'orders');                     -- end: the table is as it was
--
-- How it works. Triggers append each change of the table to motia.inbox, in the writer's own
-- transaction and without a lock: nobody waits for anybody. Whoever reads takes the stream's
-- lock and moves the rows of the inbox that are visible by then to the log, in one statement:
-- so the order is taken after the commit, and a transaction that is held open is neither missed
-- nor waited for. The changes of one item come in the order of its row's lock, which is theirs.
--
-- Backslashes are in E'' strings alone: what they are in others is a setting of the writer's session.
--
-- What goes past it: ALTER TABLE ... DISABLE TRIGGER; and where a row trigger of your own
-- changes further rows of the same statement, those changes may be told in another order.

INSERT INTO motia.migration (name) VALUES ('0002_motia_mapping');
CREATE OR REPLACE FUNCTION motia.version() RETURNS json
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
    SELECT json_build_object('version', 2, 'files', (SELECT json_object_agg(name, digest) FROM motia.migration))
$$;

CREATE TABLE motia.mapping (
    stream     integer PRIMARY KEY,
    relid      oid NOT NULL,
    tbl        text NOT NULL,            -- with its schema, quoted
    grp_column text NOT NULL,
    id_column  text NOT NULL,
    grp_type   text NOT NULL,            -- text, smallint, integer, bigint, uuid
    id_type    text NOT NULL,
    grp_sql    text NOT NULL,            -- of row t, as text that compares by its bytes
    id_sql     text NOT NULL,
    base_epoch bigint NOT NULL,          -- the version of rows that did not change since
    base_seq   bigint NOT NULL
);

CREATE TABLE motia.inbox (               -- changes that have no place in the order yet
    stream integer NOT NULL,
    n      bigint GENERATED ALWAYS AS IDENTITY,
    tx     xid8 NOT NULL,
    type   text NOT NULL,
    grp    text COLLATE "C" NOT NULL,
    id     text COLLATE "C",
    value  json,
    event  text,
    PRIMARY KEY (stream, n)
);

CREATE TABLE motia.row_version (         -- the place of each row's last change
    stream integer NOT NULL,
    grp    text COLLATE "C" NOT NULL,
    id     text COLLATE "C" NOT NULL,
    epoch  bigint NOT NULL,
    seq    bigint NOT NULL,
    PRIMARY KEY (stream, grp, id)
);

ALTER TABLE motia.mapping ENABLE ROW LEVEL SECURITY;
ALTER TABLE motia.inbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE motia.row_version ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION motia.usable(p_key text) RETURNS boolean
-- Whether a text may be a group or an id.
LANGUAGE sql IMMUTABLE AS $$
    SELECT p_key IS NOT NULL AND octet_length(p_key) BETWEEN 1 AND 512 AND p_key !~ E'[\\u0001-\\u001f\\u007f-\\u009f]'
$$;

CREATE FUNCTION motia.plain(p_row json) RETURNS json
-- A row without \u0000 and surrogates in its json columns, past which nothing can be read; its group and id have none.
LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(p_row::text, E'(\\\\\\\\)|\\\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', E'\\1', 'g')::json
$$;

CREATE FUNCTION motia.capture() RETURNS trigger
-- Arguments: stream, group column, id column, the sequence that tells when readers were last woken.
-- Nothing in here may fail where the writer's own statement would not. In a transaction of one row each expression
-- costs more to begin than to run: there are few on each way.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'iso_8601' SET bytea_output = 'hex' SET extra_float_digits = 1 AS $$
DECLARE
    v_row json;
    v_keys json;
    v_grp text;
    v_id text;
    v_old json;
    v_old_grp text;
    v_old_id text;
BEGIN
    IF TG_OP <> 'INSERT' AND TG_LEVEL = 'ROW' THEN
        v_old := to_json(OLD);
        v_keys := CASE WHEN position(E'\\u' IN v_old::text) = 0 THEN v_old ELSE motia.plain(v_old) END;
        v_old_grp := v_keys ->> TG_ARGV[1];
        v_old_id := v_keys ->> TG_ARGV[2];
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        v_row := to_json(NEW);
        v_keys := CASE WHEN position(E'\\u' IN v_row::text) = 0 THEN v_row ELSE motia.plain(v_row) END;
        v_grp := v_keys ->> TG_ARGV[1];
        v_id := v_keys ->> TG_ARGV[2];
        IF v_grp = v_old_grp AND v_id = v_old_id THEN
            IF motia.usable(v_grp) AND motia.usable(v_id) THEN
                INSERT INTO motia.inbox (stream, tx, type, grp, id, value)
                    VALUES (TG_ARGV[0]::integer, pg_current_xact_id(), 'update', v_grp, v_id, v_row);
            END IF;
        ELSE
            IF motia.usable(v_old_grp) AND motia.usable(v_old_id) THEN
                INSERT INTO motia.inbox (stream, tx, type, grp, id, value)
                    VALUES (TG_ARGV[0]::integer, pg_current_xact_id(), 'delete', v_old_grp, v_old_id, v_old);
            END IF;
            IF motia.usable(v_grp) AND motia.usable(v_id) THEN
                INSERT INTO motia.inbox (stream, tx, type, grp, id, value)
                    VALUES (TG_ARGV[0]::integer, pg_current_xact_id(), 'create', v_grp, v_id, v_row);
            END IF;
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        IF motia.usable(v_old_grp) AND motia.usable(v_old_id) THEN
            INSERT INTO motia.inbox (stream, tx, type, grp, id, value)
                VALUES (TG_ARGV[0]::integer, pg_current_xact_id(), 'delete', v_old_grp, v_old_id, v_old);
        END IF;
    ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        -- It takes rows, too, that this transaction cannot see: they cannot be told one by one.
        INSERT INTO motia.inbox (stream, tx, type, grp) VALUES (TG_ARGV[0]::integer, pg_current_xact_id(), 'reset', '');
    ELSE
        EXECUTE format('INSERT INTO motia.inbox (stream, tx, type, grp, id, value)'
                       ' SELECT $1, pg_current_xact_id(), ''delete'', k.keys ->> $2, k.keys ->> $3, v.row'
                       ' FROM (SELECT to_json(t.*) AS row FROM ONLY %s AS t) AS v, LATERAL (SELECT motia.plain(v.row) AS keys) AS k'
                       ' WHERE motia.usable(k.keys ->> $2) AND motia.usable(k.keys ->> $3)', TG_RELID::regclass)
            USING TG_ARGV[0]::integer, TG_ARGV[1], TG_ARGV[2];
    END IF;
    -- A transaction that has notified cannot be prepared for two-phase commit: where that is allowed, readers look.
    -- A NOTIFY makes commits wait for each other: one each 10 ms is enough, as readers look again for a while.
    IF current_setting('max_prepared_transactions') = '0'
       AND coalesce(abs(motia.now_us() - pg_sequence_last_value(to_regclass(TG_ARGV[3]))) > 10000, true) THEN
        PERFORM setval(to_regclass(TG_ARGV[3]), motia.now_us());
        PERFORM motia.wake(s.namespace, s.name) FROM motia.stream AS s WHERE s.id = TG_ARGV[0]::integer;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION motia.refuse_mapping(p_table text, p_problem text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'MO002', MESSAGE = format('mapped table %s %s', p_table, p_problem);
END $$;

CREATE FUNCTION motia.key_column(p_relid oid, p_table text, p_column text, p_option text, OUT type text, OUT sql text)
-- What a column of groups or ids is, as text; refused if it cannot be one.
LANGUAGE plpgsql STABLE AS $$
DECLARE
    a record;
    v_bytes boolean;
BEGIN
    SELECT att.*, format_type(atttypid, NULL) AS type, c.collisdeterministic AS deterministic,
           coalesce(c.collcollate IN ('C', 'POSIX'), false)
             OR (c.collname = 'default' AND (SELECT datcollate IN ('C', 'POSIX') FROM pg_database
                                             WHERE datname = current_database())) AS bytes
        INTO a FROM pg_attribute AS att LEFT JOIN pg_collation AS c ON c.oid = attcollation
        WHERE attrelid = p_relid AND attname = p_column AND attnum > 0 AND NOT attisdropped;
    IF NOT FOUND THEN
        PERFORM motia.refuse_mapping(p_table, format('has no column "%s" (%s); its columns: %s', p_column, p_option, (
            SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = p_relid AND attnum > 0 AND NOT attisdropped)));
    END IF;
    IF a.type NOT IN ('text', 'character varying', 'smallint', 'integer', 'bigint', 'uuid') THEN
        PERFORM motia.refuse_mapping(p_table, format('cannot have "%s" as %s: it is %s, and must be text, varchar,'
            ' smallint, integer, bigint or uuid', p_column, p_option, a.type));
    END IF;
    IF a.attgenerated <> '' THEN
        PERFORM motia.refuse_mapping(p_table, format('cannot have "%s" as %s: it is a generated column', p_column, p_option));
    END IF;
    IF NOT coalesce(a.deterministic, true) THEN
        PERFORM motia.refuse_mapping(p_table, format('cannot have "%s" as %s: its collation makes different texts equal',
                                                     p_column, p_option));
    END IF;
    type := CASE a.type WHEN 'character varying' THEN 'text' ELSE a.type END;
    sql := CASE WHEN type = 'text' AND a.bytes THEN format('t.%I', p_column)
                WHEN type = 'text' THEN format('t.%I COLLATE "C"', p_column)
                ELSE format('t.%I::text COLLATE "C"', p_column) END;
END $$;

CREATE FUNCTION motia.obstacle(p_relid oid) RETURNS text
-- What keeps these functions, which run with the rights of their owner, from seeing or writing all rows of a table.
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
    SELECT CASE
        WHEN row_security_active(p_relid) THEN format('hides rows from %s, whose rights our functions have (row level'
            ' security): ALTER TABLE %s NO FORCE ROW LEVEL SECURITY, if %1$s owns it, or ALTER ROLE %1$s BYPASSRLS',
            quote_ident(current_user), p_relid::regclass)
        WHEN NOT has_table_privilege(p_relid, 'SELECT') THEN format('is closed to %s, whose rights our functions have:'
            ' GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %1$s', quote_ident(current_user), p_relid::regclass) END
$$;

CREATE FUNCTION motia.key_type(p_type oid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE p_type WHEN 'text'::regtype THEN 'text' WHEN 'varchar'::regtype THEN 'text' WHEN 'int2'::regtype THEN 'smallint'
        WHEN 'int4'::regtype THEN 'integer' WHEN 'int8'::regtype THEN 'bigint' WHEN 'uuid'::regtype THEN 'uuid' END
$$;

CREATE FUNCTION motia.intact(m motia.mapping) RETURNS boolean
-- Whether the table is the one that was mapped, under its name, with the columns of groups and ids as they were.
LANGUAGE sql STABLE AS $$
    SELECT coalesce(to_regclass(m.tbl) = m.relid, false) AND 2 = (
        SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = m.relid AND NOT a.attisdropped
          AND ((a.attname = m.grp_column AND motia.key_type(a.atttypid) = m.grp_type)
            OR (a.attname = m.id_column AND motia.key_type(a.atttypid) = m.id_type)))
$$;

CREATE FUNCTION motia.captured(p_relid oid, p_stream integer) RETURNS boolean
-- Whether both triggers are there and fire whatever the session's replication role is.
LANGUAGE sql STABLE AS $$
    SELECT count(*) = 2 FROM pg_trigger
    WHERE tgrelid = p_relid AND tgfoid = 'motia.capture'::regproc AND tgenabled = 'A'
      AND tgname IN ('!motia_rows', '!motia_truncate') AND encode(tgargs, 'escape') LIKE p_stream || E'\\\\000%'
$$;

CREATE FUNCTION motia.map_table(p_schema text, p_table text, p_group text, p_id text) RETURNS json
-- Have the changes of a table captured; needs its owner. Where all is in place nothing is done; else
-- history begins anew, as changes may have passed unseen. Answers whether anything was done.
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    c record;
    g record;
    i record;
    m motia.mapping;
    s motia.stream;
    t record;
    v_table constant text := format('%I.%I', p_schema, p_table);
    v_woken text;
    v_obstacle text;
BEGIN
    SELECT pg_class.* , pg_class.oid AS relid INTO c FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
        WHERE n.nspname = p_schema AND relname = p_table;
    IF NOT FOUND THEN
        PERFORM motia.refuse_mapping(v_table, 'does not exist');
    END IF;
    IF c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'motia.item'::regclass) OR c.relkind <> 'r' OR c.relispartition OR EXISTS (
        SELECT FROM pg_inherits WHERE inhparent = c.relid OR inhrelid = c.relid) THEN
        PERFORM motia.refuse_mapping(v_table, 'is no ordinary table of yours (views, partitions and inheritance cannot be mapped)');
    END IF;
    g := motia.key_column(c.relid, v_table, p_group, 'group_field');
    i := motia.key_column(c.relid, v_table, p_id, 'id_field');
    IF NOT EXISTS (
        SELECT FROM pg_index AS x WHERE indrelid = c.relid AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
          AND indexprs IS NULL AND (
            SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute
            WHERE attrelid = c.relid AND attnum = ANY ((x.indkey::smallint[])[0:x.indnkeyatts - 1])
          ) IN (ARRAY[p_id], (SELECT array_agg(k ORDER BY k::name) FROM unnest(ARRAY[p_group, p_id]) AS k))
    ) THEN
        PERFORM motia.refuse_mapping(v_table, format('has nothing that keeps group and id unique at each moment (a primary key or'
            ' unique index of exactly these columns that is not DEFERRABLE): ALTER TABLE %s ADD PRIMARY KEY (%I, %I)', v_table, p_group, p_id));
    END IF;
    v_obstacle := motia.obstacle(c.relid);
    IF v_obstacle IS NOT NULL THEN
        PERFORM motia.refuse_mapping(v_table, v_obstacle);
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', v_table);
    SELECT x.* INTO m FROM motia.mapping AS x JOIN motia.stream AS y ON y.id = x.stream
        WHERE y.namespace = '*' AND y.name = v_table;
    IF FOUND THEN
        IF (m.grp_column, m.id_column) <> (p_group, p_id) THEN
            PERFORM motia.refuse_mapping(v_table, format('is mapped with group_field "%s" and id_field "%s" already: SELECT'
                ' motia.unmap_table(%L, %L) first', m.grp_column, m.id_column, p_schema, p_table));
        END IF;
        IF m.relid = c.relid AND (m.grp_type, m.id_type, m.grp_sql, m.id_sql) = (g.type, i.type, g.sql, i.sql)
           AND motia.captured(c.relid, m.stream) THEN
            RETURN 'false'::json;
        END IF;
    END IF;
    s := motia.locked('*', v_table);
    SELECT * INTO STRICT s FROM motia.stream WHERE id = s.id;
    v_woken := format('motia.woken_%s', s.id);
    EXECUTE format('DROP TRIGGER IF EXISTS "!motia_rows" ON %s', v_table);
    EXECUTE format('DROP TRIGGER IF EXISTS "!motia_truncate" ON %s', v_table);
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %s', v_woken);
    EXECUTE format('CREATE TRIGGER "!motia_rows" AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW'
                   ' EXECUTE FUNCTION motia.capture(%L, %L, %L, %L)', v_table, s.id, p_group, p_id, v_woken);
    EXECUTE format('CREATE TRIGGER "!motia_truncate" BEFORE TRUNCATE ON %s FOR EACH STATEMENT'
                   ' EXECUTE FUNCTION motia.capture(%L, %L, %L, %L)', v_table, s.id, p_group, p_id, v_woken);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER "!motia_rows", ENABLE ALWAYS TRIGGER "!motia_truncate"', v_table);
    t := motia.tail(s);
    DELETE FROM motia.inbox WHERE stream = s.id;
    DELETE FROM motia.log WHERE stream = s.id;
    DELETE FROM motia.row_version WHERE stream = s.id;
    UPDATE motia.stream SET floor_epoch = motia.epoch(), floor_seq = t.seq + 1, floor_ts = greatest(motia.now_us(), t.ts + 1)
        WHERE id = s.id;
    INSERT INTO motia.mapping VALUES
        (s.id, c.relid, v_table, p_group, p_id, g.type, i.type, g.sql, i.sql, motia.epoch(), t.seq + 1)
    ON CONFLICT (stream) DO UPDATE SET (relid, tbl, grp_type, id_type, grp_sql, id_sql, base_epoch, base_seq)
        = (excluded.relid, excluded.tbl, excluded.grp_type, excluded.id_type, excluded.grp_sql, excluded.id_sql,
           excluded.base_epoch, excluded.base_seq);
    RETURN 'true'::json;
END $$;

CREATE FUNCTION motia.unmap_table(p_schema text, p_table text) RETURNS json
-- Take away the triggers and the history; the table stays as it is. Answers whether it was mapped.
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_table constant text := format('%I.%I', p_schema, p_table);
    v_stream integer;
BEGIN
    SELECT id INTO v_stream FROM motia.stream WHERE namespace = '*' AND name = v_table;
    IF NOT FOUND THEN
        RETURN 'false'::json;
    END IF;
    IF to_regclass(v_table) IS NOT NULL THEN
        EXECUTE format('DROP TRIGGER IF EXISTS "!motia_rows" ON %s', v_table);
        EXECUTE format('DROP TRIGGER IF EXISTS "!motia_truncate" ON %s', v_table);
    END IF;
    EXECUTE format('DROP SEQUENCE IF EXISTS motia.woken_%s', v_stream);
    DELETE FROM motia.inbox WHERE stream = v_stream;
    DELETE FROM motia.log WHERE stream = v_stream;
    DELETE FROM motia.row_version WHERE stream = v_stream;
    DELETE FROM motia.mapping WHERE stream = v_stream;
    DELETE FROM motia.stream WHERE id = v_stream;
    RETURN 'true'::json;
END $$;

CREATE FUNCTION motia.has_bytes_index(m motia.mapping) RETURNS boolean
-- Whether an index has the order of texts' bytes.
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = m.relid AND indpred IS NULL AND indisvalid
                     AND pg_get_indexdef(indexrelid, 1, false) LIKE '%' || m.grp_column || '%'
                     AND pg_get_indexdef(indexrelid) LIKE '%COLLATE "C"%')
$$;

CREATE FUNCTION motia.has_index(m motia.mapping) RETURNS boolean
-- Whether an index leads from one group to the next.
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN m.grp_sql LIKE '%COLLATE%' THEN motia.has_bytes_index(m)
                ELSE EXISTS (SELECT FROM pg_index AS x JOIN pg_attribute AS a ON a.attrelid = m.relid AND a.attnum = x.indkey[0]
                             WHERE x.indrelid = m.relid AND x.indpred IS NULL AND x.indisvalid AND a.attname = m.grp_column) END
$$;

CREATE FUNCTION motia.base_type(INOUT type oid, INOUT mod integer)
-- What a domain is made of.
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE below(type, mod, depth) AS (
        SELECT type, mod, 0
        UNION ALL
        SELECT typbasetype, greatest(typtypmod, below.mod), depth + 1 FROM below JOIN pg_type ON oid = below.type WHERE typtype = 'd'
    )
    SELECT below.type, below.mod FROM below ORDER BY depth DESC LIMIT 1
$$;

CREATE FUNCTION motia.mapped(p_schema text, p_table text) RETURNS json
-- What is known of a mapped table; null if it is not mapped.
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
    SELECT json_build_object(
        'stream', s.name, 'group', m.grp_column, 'id', m.id_column, 'group_type', m.grp_type, 'id_type', m.id_type,
        'captured', motia.intact(m) AND motia.captured(m.relid, m.stream),
        'obstacle', motia.obstacle(c.oid),
        'pending', (SELECT count(*) FROM motia.inbox AS i WHERE i.stream = m.stream),
        'indexed', motia.has_index(m) AND (m.id_sql NOT LIKE '%COLLATE%' OR motia.has_bytes_index(m)),
        'columns', (SELECT json_agg(json_build_object(
                'name', a.attname, 'type', format_type(b.type, NULL), 'mod', b.mod, 'not_null', a.attnotnull,
                'composite', (SELECT typtype = 'c' FROM pg_type WHERE oid = b.type),
                'default', a.atthasdef OR a.attidentity <> '', 'generated', a.attgenerated <> '') ORDER BY a.attnum)
            FROM pg_attribute AS a, motia.base_type(a.atttypid, a.atttypmod) AS b
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
    FROM motia.mapping AS m JOIN motia.stream AS s ON s.id = m.stream
    JOIN pg_class AS c ON c.relname = p_table JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = p_schema
    WHERE s.namespace = '*' AND s.name = format('%I.%I', p_schema, p_table)
$$;

CREATE FUNCTION motia.unusable(p_schema text, p_table text) RETURNS json
-- How many rows cannot be items, because of their group or id.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    m motia.mapping;
    v_count bigint;
BEGIN
    SELECT x.* INTO m FROM motia.mapping AS x JOIN motia.stream AS s ON s.id = x.stream
        WHERE s.namespace = '*' AND s.name = format('%I.%I', p_schema, p_table);
    EXECUTE format('SELECT count(*) FROM ONLY %s AS t WHERE NOT (motia.usable(t.%I::text) AND motia.usable(t.%I::text))',
                   m.tbl, m.grp_column, m.id_column) INTO v_count;
    RETURN to_json(v_count);
END $$;

CREATE FUNCTION motia.portion() RETURNS integer
-- Changes that one call gives their places, at most: after a large COPY there are many.
LANGUAGE sql IMMUTABLE AS $$ SELECT 5000 $$;

CREATE FUNCTION motia.sequence(s motia.stream, p_pending bigint[]) RETURNS void
-- Give changes of the inbox their places: these, or a portion of the oldest that are visible; s is locked. Our own come last.
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_epoch constant bigint := motia.epoch();
    v_now constant bigint := motia.now_us();
    v_reset bigint;
    t record;
BEGIN
    IF p_pending IS NULL THEN
        SELECT array_agg(n) INTO p_pending
            FROM (SELECT n FROM motia.inbox WHERE stream = s.id ORDER BY n LIMIT motia.portion()) AS oldest;
    END IF;
    SELECT * INTO s FROM motia.stream WHERE id = s.id;
    t := motia.tail(s);
    SELECT max(n) INTO v_reset FROM motia.inbox WHERE stream = s.id AND n = ANY (p_pending) AND type = 'reset';
    IF v_reset IS NOT NULL THEN
        -- History begins anew here. As a TRUNCATE is alone with its table, what came before it has smaller numbers.
        DELETE FROM motia.inbox WHERE stream = s.id AND n <= v_reset;
        DELETE FROM motia.log WHERE stream = s.id;
        DELETE FROM motia.row_version WHERE stream = s.id;
        UPDATE motia.stream SET (floor_epoch, floor_seq, floor_ts) = (v_epoch, t.seq + 1, greatest(v_now, t.ts + 1)) WHERE id = s.id;
        UPDATE motia.mapping SET (base_epoch, base_seq) = (v_epoch, t.seq + 1) WHERE stream = s.id;
        SELECT * INTO s FROM motia.stream WHERE id = s.id;
        t := motia.tail(s);
    END IF;
    WITH moved AS (
        DELETE FROM motia.inbox WHERE stream = s.id AND n = ANY (p_pending) RETURNING *
    ), numbered AS (
        SELECT *, row_number() OVER (ORDER BY tx IS NOT DISTINCT FROM pg_current_xact_id_if_assigned(), n) AS place FROM moved
    ), logged AS (
        INSERT INTO motia.log (stream, seq, epoch, ts, type, grp, id, value, event)
        SELECT s.id, t.seq + place, v_epoch, greatest(t.ts, v_now - 1) + place, type, grp, id, value, event FROM numbered
    ), last AS (
        SELECT DISTINCT ON (grp, id) grp, id, type, place FROM numbered WHERE type <> 'event' ORDER BY grp, id, place DESC
    ), gone AS (
        DELETE FROM motia.row_version AS v USING last
        WHERE v.stream = s.id AND v.grp = last.grp AND v.id = last.id AND last.type = 'delete'
    )
    INSERT INTO motia.row_version (stream, grp, id, epoch, seq)
    SELECT s.id, grp, id, v_epoch, t.seq + place FROM last WHERE type <> 'delete'
    ON CONFLICT (stream, grp, id) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq;
END $$;

CREATE FUNCTION motia.gather(p_namespace text, p_stream text) RETURNS motia.stream
-- Have what is visible now in the log, a portion of it if it is much; no row if the table is not mapped, or gone.
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    s motia.stream;
BEGIN
    SELECT x.* INTO s FROM motia.stream AS x JOIN motia.mapping AS m ON m.stream = x.id
        WHERE x.namespace = p_namespace AND x.name = p_stream AND motia.intact(m);
    IF FOUND AND EXISTS (SELECT FROM motia.inbox WHERE stream = s.id) THEN
        s := motia.locked(p_namespace, p_stream);
        PERFORM motia.sequence(s, NULL);
    END IF;
    RETURN s;
END $$;

CREATE FUNCTION motia.row_head(p_namespace text, p_stream text) RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    s constant motia.stream := motia.gather(p_namespace, p_stream);
BEGIN
    RETURN CASE WHEN s.id IS NOT NULL THEN motia.head(p_namespace, p_stream) END;
END $$;

CREATE FUNCTION motia.settle(p_namespace text, p_stream text) RETURNS json
-- Have what is visible now in the log, or a portion of it; whether more waits.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    s constant motia.stream := motia.gather(p_namespace, p_stream);
BEGIN
    RETURN to_json(s.id IS NOT NULL AND EXISTS (SELECT FROM motia.inbox WHERE stream = s.id));
END $$;

CREATE FUNCTION motia.row_heads(p_namespace text, p_streams text) RETURNS json
-- As motia.heads; a stream with changes in its inbox has a head that nobody has read.
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
    SELECT coalesce(json_agg(CASE WHEN NOT (motia.intact(m) AND motia.captured(m.relid, m.stream)) THEN NULL
                                  WHEN EXISTS (SELECT FROM motia.inbox AS i WHERE i.stream = s.id) THEN '[0,0]'::json
                                  WHEN s.id IS NOT NULL THEN json_build_array(t.epoch, t.seq) END ORDER BY n.place), '[]')
    FROM json_array_elements_text(p_streams::json) WITH ORDINALITY AS n(name, place)
    LEFT JOIN motia.stream AS s ON s.namespace = p_namespace AND s.name = n.name
    LEFT JOIN motia.mapping AS m ON m.stream = s.id
    LEFT JOIN LATERAL motia.tail(s) AS t ON s.id IS NOT NULL
$$;

CREATE FUNCTION motia.row_changes(p_namespace text, p_stream text, p_epoch bigint, p_seq bigint, p_limit integer)
RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    s constant motia.stream := motia.gather(p_namespace, p_stream);
    v_found json;
BEGIN
    IF s.id IS NOT NULL THEN
        v_found := motia.changes(p_namespace, p_stream, p_epoch, p_seq, p_limit);
        IF v_found::text <> '{"rows" : []}' THEN
            RETURN v_found;
        END IF;
        RETURN (SELECT v_found FROM motia.mapping AS m WHERE m.stream = s.id AND motia.captured(m.relid, m.stream));
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION motia.rows(p_namespace text, p_stream text, p_group text, p_id text, p_after text, p_limit integer)
RETURNS json
-- {"items": [[id, row, epoch, seq, false]...], "head": [epoch, seq, ts]} of one moment; null if it is not mapped,
-- false if so many changes wait for their places that a portion of them was dealt with instead: ask again.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'iso_8601' SET bytea_output = 'hex' SET extra_float_digits = 1 AS $$
DECLARE
    m motia.mapping;
    s motia.stream;
    v_epoch bigint;
    v_seq bigint;
    v_ts bigint;
    v_page text;
    v_items json;
    v_pending boolean;
    v_ids text[];
    v_values text[];
    v_moved bigint[];
BEGIN
    SELECT x.* INTO m FROM motia.mapping AS x JOIN motia.stream AS y ON y.id = x.stream
        WHERE y.namespace = p_namespace AND y.name = p_stream AND motia.intact(x) AND motia.captured(x.relid, x.stream);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    v_page := format('WITH page AS MATERIALIZED (SELECT t.%1$I::text COLLATE "C" AS id, to_json(t.*)::text AS value FROM ONLY %2$s AS t'
                     ' WHERE t.%3$I = $1::%4$s AND motia.usable(t.%3$I::text)',
                     m.id_column, m.tbl, m.grp_column, m.grp_type)
        || CASE WHEN p_id IS NOT NULL THEN format(' AND t.%I = $2::%s', m.id_column, m.id_type)
                ELSE format(' AND %1$s > $3 AND motia.usable(t.%2$I::text) ORDER BY %1$s LIMIT $4', m.id_sql, m.id_column) END
        || ')';
    EXECUTE v_page || ' SELECT (SELECT coalesce(json_agg(json_build_array(p.id, p.value, coalesce(v.epoch, $6),'
            ' coalesce(v.seq, $7), false) ORDER BY p.id), ''[]'') FROM page AS p'
            ' LEFT JOIN motia.row_version AS v ON v.stream = $5 AND v.grp = $1 AND v.id = p.id),'
            ' EXISTS (SELECT FROM motia.inbox WHERE stream = $5), tail.epoch, tail.seq, tail.ts'
            ' FROM motia.stream AS s, motia.tail(s) AS tail WHERE s.id = $5'
        INTO v_items, v_pending, v_epoch, v_seq, v_ts
        USING p_group, p_id, coalesce(p_after, ''), p_limit, m.stream, m.base_epoch, m.base_seq;
    IF v_pending THEN
        -- What is in the table may not be in the log yet: read both in one statement, while nobody else moves it.
        s := motia.locked(p_namespace, p_stream);
        IF EXISTS (SELECT FROM motia.inbox WHERE stream = m.stream OFFSET motia.portion()) THEN
            PERFORM motia.sequence(s, NULL);
            RETURN 'false'::json;
        END IF;
        EXECUTE v_page || ' SELECT (SELECT array_agg(id ORDER BY id) FROM page), (SELECT array_agg(value ORDER BY id) FROM page),'
                ' (SELECT array_agg(n) FROM motia.inbox WHERE stream = $5)'
            INTO v_ids, v_values, v_moved USING p_group, p_id, coalesce(p_after, ''), p_limit, m.stream;
        IF v_moved IS NOT NULL THEN
            PERFORM motia.sequence(s, v_moved);
            SELECT * INTO STRICT m FROM motia.mapping WHERE stream = m.stream;
        END IF;
        SELECT coalesce(json_agg(json_build_array(p.id, p.value, coalesce(v.epoch, m.base_epoch), coalesce(v.seq, m.base_seq),
                                                  false) ORDER BY p.id COLLATE "C"), '[]')
            INTO v_items FROM unnest(v_ids, v_values) AS p(id, value)
            LEFT JOIN motia.row_version AS v ON v.stream = m.stream AND v.grp = p_group AND v.id = p.id;
        SELECT tail.epoch, tail.seq, tail.ts INTO v_epoch, v_seq, v_ts
            FROM motia.stream AS x, motia.tail(x) AS tail WHERE x.id = s.id;
    END IF;
    RETURN json_build_object('items', v_items, 'head', json_build_array(v_epoch, v_seq, v_ts));
END $$;

CREATE FUNCTION motia.row_groups(p_namespace text, p_stream text, p_after text, p_limit integer) RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
DECLARE
    m motia.mapping;
    v_next text;
    v_found json;
BEGIN
    SELECT x.* INTO m FROM motia.mapping AS x JOIN motia.stream AS y ON y.id = x.stream
        WHERE y.namespace = p_namespace AND y.name = p_stream;
    v_next := format('SELECT %1$s AS grp FROM ONLY %2$s AS t WHERE %1$s > %%s AND motia.usable(t.%3$I::text)'
                     ' AND motia.usable(t.%4$I::text) ORDER BY %1$s LIMIT 1', m.grp_sql, m.tbl, m.grp_column, m.id_column);
    IF NOT motia.has_index(m) THEN  -- one pass over all rows, not one for each group
        EXECUTE format('SELECT coalesce(json_agg(grp ORDER BY grp COLLATE "C"), ''[]'') FROM (SELECT DISTINCT %1$s AS grp'
                       ' FROM ONLY %2$s AS t WHERE %1$s > $1 AND motia.usable(t.%3$I::text) AND motia.usable(t.%4$I::text)'
                       ' ORDER BY 1 LIMIT $2) AS page', m.grp_sql, m.tbl, m.grp_column, m.id_column)
            INTO v_found USING p_after, p_limit;
        RETURN v_found;
    END IF;
    EXECUTE 'WITH RECURSIVE found(grp) AS ((' || format(v_next, '$1') || ') UNION ALL SELECT (' || format(v_next, 'found.grp')
            || ') FROM found WHERE found.grp IS NOT NULL) SELECT coalesce(json_agg(grp ORDER BY grp COLLATE "C"), ''[]'')'
            ' FROM (SELECT grp FROM found WHERE grp IS NOT NULL LIMIT $2) AS page'
        INTO v_found USING p_after, p_limit;
    RETURN v_found;
END $$;

CREATE FUNCTION motia.own_path() RETURNS text
-- The search_path that the owner of these functions has in this database, never the caller's, who could mislead them.
LANGUAGE sql STABLE AS $$
    SELECT concat_ws(', ', nullif(coalesce((
        SELECT substr(setting, 13) FROM pg_db_role_setting, unnest(setconfig) AS setting
        WHERE setting LIKE 'search_path=%' AND setrole IN (0, current_user::regrole)
          AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        ORDER BY setrole = 0, setdatabase = 0 LIMIT 1), '"$user", public'), ''), 'pg_temp')
$$;

CREATE FUNCTION motia.write_rows(p_namespace text, p_stream text, p_logged boolean, p_units text) RETURNS json
-- As motia.write, but v is the row's columns, as a JSON object, and d those that may keep what they hold, or their defaults.
-- The answer has, too: the row afterwards, as the last part of each result; {"w": [group, id]} where
-- another writer was faster (read again, then try again); {"x": [place, SQLSTATE, message, column]}
-- where the table refuses.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = motia, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'iso_8601' SET bytea_output = 'hex' SET extra_float_digits = 1 AS $$
DECLARE
    v_ours constant text := current_setting('search_path');
    v_theirs constant text := motia.own_path();  -- for what the table's triggers, checks and defaults call by its bare name
    m motia.mapping;
    s motia.stream;
    t record;
    u record;
    w record;
    p record;
    v_row text;
    v_new json;
    v_seen json;
    v_own bigint;
    v_before bigint;
    v_number integer := 0;
    v_first integer;
    v_place integer;
    v_places bigint[] := '{}';
    v_found boolean;
    v_failed text;
    v_columns text[];
    v_sql text;
    v_bad text;
    v_ns bigint[];
    v_unit jsonb[];
    v_units jsonb[] := '{}';
    v_out text[] := '{}';
    v_results text[];
    v_j jsonb;
    v_at integer;
    v_code text;
    v_message text;
    v_column text;
BEGIN
    SELECT x.* INTO m FROM motia.mapping AS x JOIN motia.stream AS y ON y.id = x.stream
        WHERE y.namespace = p_namespace AND y.name = p_stream AND motia.intact(x);
    IF NOT FOUND THEN
        PERFORM motia.refuse_mapping(p_stream, 'is not mapped any more');
    END IF;
    FOR u IN SELECT value FROM json_array_elements(p_units::json) LOOP
        v_failed := NULL;
        v_unit := '{}';
        v_first := v_number;
        v_place := 0;
        BEGIN
            IF json_array_length(u.value) > 1 THEN  -- rows are locked in one order, by everybody
                FOR w IN SELECT DISTINCT g, i FROM json_to_recordset(u.value) AS x(g text, i text) WHERE i IS NOT NULL ORDER BY g, i LOOP
                    EXECUTE format('SELECT 1 FROM ONLY %s AS t WHERE t.%I = $1::%s AND t.%I = $2::%s FOR UPDATE',
                                   m.tbl, m.grp_column, m.grp_type, m.id_column, m.id_type) USING w.g, w.i;
                END LOOP;
            END IF;
            FOR w IN SELECT * FROM json_to_recordset(u.value) AS x(k text, g text, i text, e text, v text, d json, n text) LOOP
                v_number := v_number + 1;
                v_places[v_number] := NULL;
                IF w.k IN ('e', 'n') THEN
                    INSERT INTO motia.inbox (stream, tx, type, grp, id, value, event)
                        VALUES (m.stream, pg_current_xact_id(), 'event', w.g, w.i, w.v::json, w.n) RETURNING n INTO v_own;
                    v_unit := v_unit || jsonb_build_object('t', 'event', 'n', v_own);
                    v_place := v_place + 1;
                    CONTINUE;
                END IF;
                EXECUTE format('SELECT to_json(t.*)::text FROM ONLY %s AS t WHERE t.%I = $1::%s AND t.%I = $2::%s FOR UPDATE',
                               m.tbl, m.grp_column, m.grp_type, m.id_column, m.id_type) INTO v_row USING w.g, w.i;
                v_found := v_row IS NOT NULL;
                SELECT (SELECT max(n) FILTER (WHERE tx IS NOT DISTINCT FROM pg_current_xact_id_if_assigned()) FROM motia.inbox AS i
                          WHERE i.stream = m.stream AND i.grp = w.g AND i.id = w.i AND i.type <> 'event') AS own,
                       EXISTS (SELECT FROM motia.inbox AS i WHERE i.stream = m.stream AND i.grp = w.g AND i.id = w.i
                          AND i.type <> 'event' AND tx IS DISTINCT FROM pg_current_xact_id_if_assigned()) AS theirs,
                       (SELECT row(v.epoch, v.seq)::text FROM motia.row_version AS v
                          WHERE v.stream = m.stream AND v.grp = w.g AND v.id = w.i) AS version,
                       (SELECT v.epoch FROM motia.row_version AS v WHERE v.stream = m.stream AND v.grp = w.g AND v.id = w.i) AS epoch,
                       (SELECT v.seq FROM motia.row_version AS v WHERE v.stream = m.stream AND v.grp = w.g AND v.id = w.i) AS seq
                    INTO p;
                IF w.e IS NOT NULL AND w.e <> '-' AND NOT w.e LIKE '#%' AND p.theirs AND v_found THEN
                    v_failed := json_build_object('w', json_build_array(w.g, w.i));
                ELSIF w.e IS NOT NULL AND NOT (CASE
                        WHEN w.e = '-' THEN NOT v_found
                        WHEN w.e LIKE '#%' THEN coalesce(v_places[substr(w.e, 2)::integer] = CASE WHEN v_found THEN p.own ELSE -1 END, false)
                        ELSE v_found AND p.own IS NULL AND w.e = coalesce(p.epoch, m.base_epoch) || '-' || coalesce(p.seq, m.base_seq) END) THEN
                    v_failed := CASE
                        WHEN v_found AND (p.own IS NOT NULL OR p.theirs) THEN json_build_object('w', json_build_array(w.g, w.i))
                        WHEN v_found THEN json_build_object('c', json_build_array(v_place, coalesce(p.epoch, m.base_epoch),
                                                                                  coalesce(p.seq, m.base_seq), v_row))
                        ELSE json_build_object('c', json_build_array(v_place, NULL, NULL, NULL)) END;
                END IF;
                IF v_failed IS NOT NULL THEN
                    RAISE EXCEPTION USING ERRCODE = 'MO000';
                END IF;
                v_place := v_place + 1;
                IF w.k = 'c' OR (w.k = 'd' AND NOT v_found) THEN
                    IF w.k = 'd' THEN
                        v_places[v_number] := -1;
                    END IF;
                    v_unit := v_unit || 'null'::jsonb;
                    CONTINUE;
                END IF;
                v_before := coalesce(p.own, -1);
                IF w.k = 'd' THEN
                    v_sql := format('DELETE FROM ONLY %s AS t WHERE t.%I OPERATOR(pg_catalog.=) $2::%s AND t.%I OPERATOR(pg_catalog.=) $3::%s',
                                    m.tbl, m.grp_column, m.grp_type, m.id_column, m.id_type);
                ELSIF v_found THEN
                    SELECT array_agg(format('%1$I = r.%1$I', key)) INTO v_columns FROM json_each(w.v::json)
                        WHERE key NOT IN (m.grp_column, m.id_column)
                          AND (json_typeof(value) <> 'null' OR key NOT IN (SELECT json_array_elements_text(coalesce(w.d, '[]'))));
                    v_sql := format('UPDATE ONLY %s AS t SET %s FROM pg_catalog.json_populate_record(NULL::%s, $1) AS r'
                                    ' WHERE t.%I OPERATOR(pg_catalog.=) $2::%s AND t.%I OPERATOR(pg_catalog.=) $3::%s',
                                    m.tbl, coalesce(array_to_string(v_columns, ', '), format('%1$I = t.%1$I', m.grp_column)), m.tbl,
                                    m.grp_column, m.grp_type, m.id_column, m.id_type);
                ELSE
                    SELECT array_agg(format('%I', key)) INTO v_columns FROM json_each(w.v::json)
                        WHERE json_typeof(value) <> 'null' OR key NOT IN (SELECT json_array_elements_text(coalesce(w.d, '[]')));
                    v_sql := format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_catalog.json_populate_record(NULL::%s, $1) AS r',
                                    m.tbl, array_to_string(v_columns, ', '), 'r.' || array_to_string(v_columns, ', r.'), m.tbl);
                END IF;
                -- Nothing of ours but what names its schema runs with the owner's path: others may put objects into it.
                PERFORM set_config('search_path', v_theirs, true);
                EXECUTE v_sql USING w.v::json, w.g, w.i;
                PERFORM set_config('search_path', v_ours, true);
                SELECT n, CASE WHEN type <> 'delete' THEN value END INTO v_own, v_new FROM motia.inbox AS i
                    WHERE i.stream = m.stream AND i.tx = pg_current_xact_id() AND i.grp = w.g AND i.id = w.i AND i.type <> 'event'
                      AND n > v_before ORDER BY n DESC LIMIT 1;
                IF v_own IS NULL OR (v_new IS NULL) <> (w.k = 'd') THEN
                    RAISE EXCEPTION USING ERRCODE = 'MO001', MESSAGE = 'ignored it (a trigger of its own did)';
                END IF;
                IF w.k <> 'd' THEN
                    v_seen := CASE WHEN position(E'\\u' IN v_new::text) = 0 THEN v_new ELSE motia.plain(v_new) END;
                    SELECT key INTO v_bad FROM json_each(w.v::json) AS given
                        WHERE key NOT IN (m.grp_column, m.id_column)
                          AND NOT (json_typeof(value) = 'null' AND key IN (SELECT json_array_elements_text(coalesce(w.d, '[]'))))
                          AND (v_seen::jsonb -> key) IS DISTINCT FROM value::jsonb
                          AND (v_seen ->> key) IS DISTINCT FROM (CASE WHEN json_typeof(value) = 'string' THEN value #>> '{}' END)
                        LIMIT 1;
                    IF FOUND THEN
                        RAISE EXCEPTION USING ERRCODE = 'MO001', COLUMN = v_bad, MESSAGE = format(
                            'would hold %s in its place (by the column''s type, or a trigger of its own)', left((v_seen -> v_bad)::text, 80));
                    END IF;
                END IF;
                v_places[v_number] := CASE WHEN w.k = 'd' THEN -1 ELSE v_own END;
                v_unit := v_unit || jsonb_build_object('t', CASE WHEN w.k = 'd' THEN 'delete' WHEN v_found THEN 'update' ELSE 'create' END,
                                                       'n', v_own, 'old', v_row, 'new', v_new::text);
            END LOOP;
            PERFORM set_config('search_path', v_theirs, true);
            SET CONSTRAINTS ALL IMMEDIATE;
            PERFORM set_config('search_path', v_ours, true);
        EXCEPTION
            WHEN deadlock_detected OR serialization_failure OR lock_not_available OR insufficient_resources OR operator_intervention THEN
                RAISE;
            WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS v_code = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT, v_column = COLUMN_NAME;
                IF v_code = '23505' AND w.k IN ('s', 'u') AND NOT v_found THEN
                    EXECUTE format('SELECT to_json(t.*)::text FROM ONLY %s AS t WHERE t.%I = $1::%s AND t.%I = $2::%s',
                                   m.tbl, m.grp_column, m.grp_type, m.id_column, m.id_type) INTO v_row USING w.g, w.i;
                    IF v_row IS NOT NULL THEN
                        v_failed := json_build_object('w', json_build_array(w.g, w.i));
                    END IF;
                END IF;
                v_failed := coalesce(v_failed, json_build_object('x', json_build_array(v_place, v_code, v_message, v_column))::text);
                v_number := v_first + json_array_length(u.value);
                FOR v_at IN v_first + 1 .. v_number LOOP
                    v_places[v_at] := NULL;
                END LOOP;
        END;
        v_units := v_units || CASE WHEN v_failed IS NULL THEN to_jsonb(v_unit) ELSE to_jsonb(v_failed) END;
    END LOOP;
    SELECT array_agg(n ORDER BY n) INTO v_ns FROM motia.inbox WHERE stream = m.stream AND tx = pg_current_xact_id_if_assigned();
    IF v_ns IS NOT NULL THEN
        s := motia.locked(p_namespace, p_stream);
        PERFORM motia.sequence(s, (  -- and what others did to the same items before
            SELECT array_agg(i.n) FROM motia.inbox AS i WHERE i.stream = m.stream AND (i.n = ANY (v_ns) OR i.type = 'reset' OR (i.grp, i.id) IN (
                SELECT o.grp, o.id FROM motia.inbox AS o WHERE o.stream = m.stream AND o.n = ANY (v_ns) AND o.type <> 'event'))));
        SELECT tail.* INTO t FROM motia.stream AS x, motia.tail(x) AS tail WHERE x.id = m.stream;
        PERFORM motia.wake(p_namespace, p_stream);
    END IF;
    FOREACH v_j IN ARRAY v_units LOOP
        IF jsonb_typeof(v_j) = 'string' THEN
            v_out := v_out || (v_j #>> '{}');
            CONTINUE;
        END IF;
        v_results := '{}';
        FOR u IN SELECT value FROM jsonb_array_elements(v_j) LOOP
            IF jsonb_typeof(u.value) = 'null' THEN
                v_results := v_results || 'null'::text;
            ELSE
                v_at := cardinality(v_ns) - array_position(v_ns, (u.value ->> 'n')::bigint);
                v_results := v_results || json_build_array(u.value ->> 't', t.epoch, t.seq - v_at, t.ts - v_at,
                                                           u.value ->> 'old', u.value ->> 'new')::text;
            END IF;
        END LOOP;
        v_out := v_out || ('{"r":[' || array_to_string(v_results, ',') || ']}');
    END LOOP;
    RETURN ('[' || array_to_string(v_out, ',') || ']')::json;
END $$;

CREATE FUNCTION motia.facts() RETURNS json
-- What `motia-core doctor` looks at.
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
    SELECT json_build_object(
        'version', current_setting('server_version'),
        'number', current_setting('server_version_num')::integer,
        'replica', pg_is_in_recovery(),
        'synchronous_commit', current_setting('synchronous_commit'),
        'fsync', current_setting('fsync'),
        'statement_timeout', (SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'),
        'longest_transaction', (SELECT round(extract(epoch FROM max(now() - xact_start))) FROM pg_stat_activity
                                WHERE pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'),
        'migrations', (SELECT json_agg(name ORDER BY name) FROM motia.migration),
        'realtime', to_regprocedure('realtime.send(jsonb,text,text,boolean)') IS NOT NULL,
        'row_security', (SELECT bool_and(relrowsecurity) FROM pg_class WHERE relkind = 'r'
                         AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'motia.item'::regclass)),
        'policies', (SELECT count(*) FROM pg_policy WHERE polrelid IN ('motia.item'::regclass, 'motia.log'::regclass)),
        'log_policies', (SELECT count(*) FROM pg_policy WHERE polrelid = 'motia.log'::regclass),
        'open_to_anon', coalesce((SELECT bool_or(has_function_privilege(r.oid, p.oid, 'EXECUTE')) FROM pg_roles AS r, pg_proc AS p
                         WHERE r.rolname = 'anon' AND p.oid = 'motia.write(text,text,boolean,text)'::regprocedure), false),
        'encoding', current_setting('server_encoding'),
        'prepared', current_setting('max_prepared_transactions')::integer,
        'isolation', current_setting('default_transaction_isolation'),
        'tables', (SELECT coalesce(json_agg(json_build_object('table', m.tbl,
                        'captured', motia.intact(m) AND motia.captured(m.relid, m.stream), 'obstacle', motia.obstacle(m.relid),
                        'exists', EXISTS (SELECT FROM pg_class WHERE oid = m.relid),
                        'pending', (SELECT count(*) FROM motia.inbox AS i WHERE i.stream = m.stream)) ORDER BY m.tbl), '[]')
                   FROM motia.mapping AS m)
    )
$$;

CREATE FUNCTION motia.readable_rows(p_schema text, p_table text, p_group text, p_id text) RETURNS json
-- Whether the caller's own rights (grants and row level security of the table) show anything of a group, or the row.
-- With the caller's search_path, as policies may call functions that need it.
LANGUAGE plpgsql STABLE SECURITY INVOKER AS $$
DECLARE
    m record;
    v_found boolean;
BEGIN
    m := motia.key_names(p_schema, p_table);
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I AS t WHERE t.%I = $1::%s AND ($2 IS NULL OR t.%I::text = $2))',
                   p_schema, p_table, m.grp_column, m.grp_type, m.id_column) INTO v_found USING p_group, p_id;
    RETURN to_json(v_found);
END $$;

CREATE FUNCTION motia.key_names(p_schema text, p_table text, OUT grp_column text, OUT grp_type text, OUT id_column text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = motia, pg_temp AS $$
    SELECT m.grp_column, m.grp_type, m.id_column FROM motia.mapping AS m JOIN motia.stream AS s ON s.id = m.stream
    WHERE s.namespace = '*' AND s.name = format('%I.%I', p_schema, p_table)
$$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA motia FROM PUBLIC;
