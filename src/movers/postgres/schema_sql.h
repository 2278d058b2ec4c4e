// SQL text of schema `midstream`: installed as one batch, harmless when repeated.
#pragma once

namespace midstream::postgres {

// $AGENT$ is replaced by our role as a literal.
inline constexpr const char* kSchemaSql = R"sql(
CREATE SCHEMA IF NOT EXISTS midstream;
GRANT USAGE ON SCHEMA midstream TO PUBLIC;
CREATE TABLE IF NOT EXISTS midstream.owner (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch bigint NOT NULL,
  state text NOT NULL CHECK (state IN ('owner', 'closing', 'yielded', 'standby')),
  turn bigint NOT NULL DEFAULT 0,
  connection_limit int NOT NULL DEFAULT -1,
  began pg_lsn,
  since timestamptz NOT NULL DEFAULT now());
GRANT SELECT ON midstream.owner TO PUBLIC;
CREATE TABLE IF NOT EXISTS midstream.handover (
  turn bigint PRIMARY KEY,
  epoch bigint NOT NULL,
  sequences jsonb NOT NULL,
  extras jsonb NOT NULL,
  at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS midstream.heard (
  at timestamptz PRIMARY KEY,
  turn bigint NOT NULL,
  position pg_lsn NOT NULL,
  confirmed pg_lsn,
  sync boolean NOT NULL);
CREATE TABLE IF NOT EXISTS midstream.identity (
  relation regclass PRIMARY KEY,
  was "char" NOT NULL,
  given "char" NOT NULL,
  index regclass);
CREATE TABLE IF NOT EXISTS midstream.quieted (
  relation regclass,
  name name,
  was "char" NOT NULL,
  PRIMARY KEY (relation, name));
CREATE TABLE IF NOT EXISTS midstream.proof (n bigint);
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON midstream.proof TO PUBLIC;
CREATE SEQUENCE IF NOT EXISTS midstream.proof_numbers;

-- Operators are named with their schema here and below: the session's search_path may have others in front.
CREATE OR REPLACE FUNCTION midstream.ours() RETURNS boolean LANGUAGE sql STABLE AS $body$
  SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a
    WHERE a.backend_type OPERATOR(pg_catalog.~~) 'logical replication%'
       OR (pg_catalog.current_setting('midstream.allow', true) OPERATOR(pg_catalog.=) 'on' AND a.usesysid OPERATOR(pg_catalog.=)
           (SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) $AGENT$)))
$body$;

CREATE OR REPLACE FUNCTION midstream.deny() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
  IF (SELECT state OPERATOR(pg_catalog.=) 'owner' FROM midstream.owner) IS NOT TRUE AND NOT midstream.ours() THEN
    RAISE EXCEPTION 'midstream: this side does not own the database' USING ERRCODE = '25006',
      HINT = 'The database is moving; connect again.';
  END IF;
  RETURN NULL;
END $body$;

-- DDL, at its start, at its end and where it drops something. What a command is about is known for certain only when it has been run: so
-- the gate, which makes a session's temporary tables on the side that is about to own, may begin a few kinds of command, and they are
-- refused at their end if anything but the session's own temporary objects was in them. They begin only within a function (DO):
-- CONCURRENTLY, which would commit ahead of that end, cannot be run there. The setting protects nothing; without it, as by
-- mistake, DDL is refused before it takes a lock. Names and operators are the server's own, whatever the session's search_path.
CREATE OR REPLACE FUNCTION midstream.deny_ddl() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  holding text := (SELECT state FROM midstream.owner);
  may_be constant text[] := ARRAY['CREATE SEQUENCE', 'CREATE TABLE', 'ALTER TABLE', 'CREATE INDEX', 'ALTER SEQUENCE', 'GRANT', 'COMMENT'];
  stack text;
BEGIN
  IF holding = 'owner' OR midstream.ours() THEN
    RETURN;
  ELSIF TG_EVENT = 'ddl_command_start' THEN
    IF holding IN ('standby', 'yielded') AND current_setting('midstream.temporary', true) = 'on' AND TG_TAG = ANY (may_be) AND (SELECT count(*)
        FROM pg_event_trigger WHERE evtfoid = 'midstream.deny_ddl'::regproc AND evtenabled = 'A' AND evttags IS NULL
          AND evtevent IN ('ddl_command_end', 'sql_drop')) = 2 THEN
      GET DIAGNOSTICS stack = PG_CONTEXT;
      IF strpos(stack, E'\n') > 0 THEN
        RETURN;
      END IF;
    END IF;
  ELSIF holding = 'closing' THEN
    RETURN;  -- begun while this side owned: the fence waits for it, or ends it
  ELSIF TG_EVENT = 'sql_drop' THEN
    IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN
      RETURN;
    END IF;
  ELSIF TG_TAG = ANY (may_be) AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands()) AND NOT EXISTS (
      SELECT FROM pg_event_trigger_ddl_commands() AS c WHERE c.schema_name IS DISTINCT FROM 'pg_temp'
        AND NOT (TG_TAG = 'GRANT' AND c.command_tag = 'GRANT' AND c.object_type IN ('TABLE', 'SEQUENCE'))
        OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.objid)) THEN
    -- GRANT does not tell what it was about: no row of the catalog that is about others is to be of this transaction, or newer.
    IF TG_TAG <> 'GRANT' OR NOT EXISTS (
        SELECT FROM pg_class WHERE relacl IS NOT NULL AND relpersistence <> 't' AND age(xmin) <= age(pg_current_xact_id()::xid)
        UNION ALL SELECT FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid
          WHERE attacl IS NOT NULL AND relpersistence <> 't' AND age(a.xmin) <= age(pg_current_xact_id()::xid)) THEN
      RETURN;
    END IF;
  END IF;
  RAISE EXCEPTION 'midstream: this side does not own the database' USING ERRCODE = '25006';
END $body$;

CREATE OR REPLACE FUNCTION midstream.adopt(wanted bigint) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
  UPDATE midstream.owner SET epoch = wanted WHERE epoch <= wanted;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'midstream: a newer epoch has acted on this database' USING ERRCODE = 'MS001';
  END IF;
END $body$;

-- Every sequence as it stands, the ones that were never used too.
CREATE OR REPLACE FUNCTION midstream.sequences() RETURNS jsonb LANGUAGE plpgsql AS $body$
DECLARE
  name text; last bigint; called boolean; found jsonb := '[]';
BEGIN
  FOR name IN SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'midstream' ORDER BY 1 LOOP
    EXECUTE 'SELECT last_value, is_called FROM ' || name INTO last, called;
    found := found || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array(name, last, called));
  END LOOP;
  RETURN found;
END $body$;

-- Comment and security labels of a large object. Labels are put into the catalog: what was handed over must be taken, whether or not
-- their provider is loaded here.
CREATE OR REPLACE FUNCTION midstream.about_object(object oid) RETURNS jsonb LANGUAGE sql STABLE AS $body$
  SELECT pg_catalog.jsonb_build_object('comment', pg_catalog.obj_description(object, 'pg_largeobject'),
    'labels', (SELECT pg_catalog.jsonb_object_agg(l.provider, l.label) FROM pg_catalog.pg_seclabel l
      WHERE l.classoid = 'pg_catalog.pg_largeobject'::regclass AND l.objoid = object))
$body$;

CREATE OR REPLACE FUNCTION midstream.describe_object(object oid, about jsonb) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
  IF about->>'comment' IS NOT NULL THEN
    EXECUTE pg_catalog.format('COMMENT ON LARGE OBJECT %s IS %L', object, about->>'comment');
  END IF;
  IF pg_catalog.jsonb_typeof(about->'labels') = 'object' THEN
    INSERT INTO pg_catalog.pg_seclabel (objoid, classoid, objsubid, provider, label)
      SELECT object, 'pg_catalog.pg_largeobject'::regclass, 0, key, value FROM pg_catalog.jsonb_each_text(about->'labels');
  END IF;
END $body$;

-- What no stream carries: rows of unlogged tables, and large objects with owner, rights, comment and labels.
CREATE OR REPLACE FUNCTION midstream.extras() RETURNS jsonb LANGUAGE plpgsql AS $body$
DECLARE
  t record; rows jsonb; tables jsonb := '[]'; objects jsonb;
BEGIN
  FOR t IN SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND n.nspname NOT IN ('midstream', 'pg_catalog') LOOP
    EXECUTE 'SELECT coalesce(jsonb_agg(row_to_json(r)::text), ''[]'') FROM ONLY ' || t.name || ' r' INTO rows;
    tables := tables || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('name', t.name, 'rows', rows));
  END LOOP;
  SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('oid', m.oid::bigint, 'owner', r.rolname,
      'acl', (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                coalesce(g.rolname, ''), a.privilege_type, a.is_grantable))
              FROM pg_catalog.aclexplode(m.lomacl) a LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
              WHERE a.grantee <> m.lomowner),
      'about', midstream.about_object(m.oid),
      'data', pg_catalog.encode(pg_catalog.lo_get(m.oid), 'base64'))), '[]')
    FROM pg_catalog.pg_largeobject_metadata m JOIN pg_catalog.pg_roles r ON r.oid = m.lomowner INTO objects;
  RETURN pg_catalog.jsonb_build_object('unlogged', tables, 'objects', objects);
END $body$;

CREATE OR REPLACE FUNCTION midstream.take_extras(extras jsonb) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
  t jsonb; o jsonb; a jsonb; columns text;
BEGIN
  FOR t IN SELECT * FROM pg_catalog.jsonb_array_elements(extras->'unlogged') LOOP
    EXECUTE 'DELETE FROM ONLY ' || (t->>'name');
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(attname), ', ' ORDER BY attnum) FROM pg_catalog.pg_attribute
      WHERE attrelid = (t->>'name')::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' INTO columns;
    IF columns IS NOT NULL THEN
      EXECUTE pg_catalog.format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM '
        'pg_catalog.jsonb_array_elements_text($1) e, LATERAL pg_catalog.json_populate_record(NULL::%s, e::json)',
        t->>'name', columns, columns, t->>'name') USING t->'rows';
    END IF;
  END LOOP;
  IF extras->'objects' IS NULL THEN RETURN; END IF;  -- they came another way
  PERFORM pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata;
  FOR o IN SELECT * FROM pg_catalog.jsonb_array_elements(extras->'objects') LOOP
    PERFORM pg_catalog.lo_from_bytea((o->>'oid')::bigint::oid, pg_catalog.decode(o->>'data', 'base64'));
    EXECUTE pg_catalog.format('ALTER LARGE OBJECT %s OWNER TO %I', o->>'oid', o->>'owner');
    IF pg_catalog.jsonb_typeof(o->'acl') = 'array' THEN
      FOR a IN SELECT * FROM pg_catalog.jsonb_array_elements(o->'acl') LOOP
        EXECUTE pg_catalog.format('GRANT %s ON LARGE OBJECT %s TO %s%s', a->>1, o->>'oid',
          CASE WHEN a->>0 = '' THEN 'PUBLIC' ELSE pg_catalog.quote_ident(a->>0) END,
          CASE WHEN (a->>2)::boolean THEN ' WITH GRANT OPTION' ELSE '' END);
      END LOOP;
    END IF;
    PERFORM midstream.describe_object((o->>'oid')::bigint::oid, o->'about');
  END LOOP;
END $body$;

DO $body$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = 'midstream.proof'::regclass) THEN
    CREATE TRIGGER midstream_deny BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON midstream.proof
      FOR EACH STATEMENT EXECUTE FUNCTION midstream.deny();
    ALTER TABLE midstream.proof ENABLE ALWAYS TRIGGER midstream_deny;
  END IF;
END $body$;
)sql";

// Ordinary tables and partitioned parents of the database's own schemas.
inline constexpr const char* kTablesSql = R"sql(
SELECT format('%I.%I', n.nspname, c.relname), c.relkind, c.relpersistence, c.oid
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'midstream') AND n.nspname NOT LIKE 'pg\_toast%'
  AND n.nspname NOT LIKE 'pg\_temp%'
ORDER BY 1)sql";

// Columns in their order (by name where the table inherits some: column_order.h), identity, persistence, keys; sequences with their definition; indexes. Of what else there is, its name, and what
// is the same text on both sides however it came there: an expression that was dumped and restored need not be. Not what belongs to an extension.
inline constexpr const char* kFingerprintSql = R"sql(
WITH t AS (SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind, c.relpersistence, c.relreplident,
    NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid) AS inherits
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'S', 'v', 'm') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'midstream') AND n.nspname NOT LIKE 'pg\_toast%'
    AND n.nspname NOT LIKE 'pg\_temp%'), n AS (SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg\_%' AND nspname NOT IN ('information_schema', 'midstream'))
SELECT coalesce(string_agg(line, E'\n' ORDER BY line COLLATE "C"), '') FROM (
  SELECT format('%s %s%s%s %s', name, relkind, relpersistence, relreplident,
    CASE WHEN relkind = 'S' THEN (SELECT format('%s %s %s %s %s %s', format_type(seqtypid, NULL), seqstart,
      seqincrement, seqmin, seqmax, seqcycle) FROM pg_catalog.pg_sequence WHERE seqrelid = t.oid)
    ELSE (SELECT string_agg(format('%I %s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
      a.attidentity, a.attgenerated), ', ' ORDER BY CASE WHEN inherits THEN 0 ELSE a.attnum END, a.attname COLLATE "C")
      FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped) END) AS line FROM t
  UNION ALL
  SELECT format('%s index %s', t.name, replace(pg_get_indexdef(i.indexrelid), ' ONLY ', ' ')) FROM t
    JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
  UNION ALL SELECT format('%s constraint %I %s', t.name, conname, contype) FROM t JOIN pg_catalog.pg_constraint ON conrelid = t.oid WHERE conparentid = 0 AND coninhcount = 0
  UNION ALL SELECT format('%s trigger %I %s %s', t.name, tgname, tgtype, tgenabled) FROM t JOIN pg_catalog.pg_trigger ON tgrelid = t.oid
    WHERE NOT tgisinternal AND tgparentid = 0 AND tgname <> 'midstream_deny'
  UNION ALL SELECT format('%s policy %I %s', t.name, polname, polcmd) FROM t JOIN pg_catalog.pg_policy ON polrelid = t.oid
  UNION ALL SELECT format('%s rule %I', t.name, rulename) FROM t JOIN pg_catalog.pg_rewrite ON ev_class = t.oid WHERE rulename <> '_RETURN'
  UNION ALL SELECT format('%s owner %s %s%s', t.name, pg_get_userbyid(c.relowner), c.relrowsecurity, c.relforcerowsecurity) FROM t JOIN pg_catalog.pg_class c ON c.oid = t.oid
  UNION ALL SELECT format('schema %I', nspname) FROM n
  UNION ALL SELECT format('extension %I', extname) FROM pg_catalog.pg_extension
  UNION ALL SELECT format('function %I.%I(%s) %s %s', nspname, proname, pg_get_function_identity_arguments(p.oid), prokind, md5(prosrc)) FROM pg_catalog.pg_proc p JOIN n ON n.oid = pronamespace
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')
  UNION ALL SELECT format('type %I.%I %s %s %s', nspname, typname, typtype, format_type(nullif(typbasetype, 0), typtypmod), concat((SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM
      pg_catalog.pg_enum WHERE enumtypid = y.oid), (SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ',' ORDER BY attnum) FROM pg_catalog.pg_attribute
      WHERE attrelid = y.typrelid AND attnum > 0 AND NOT attisdropped)))
    FROM pg_catalog.pg_type y JOIN n ON n.oid = typnamespace LEFT JOIN pg_catalog.pg_class c ON c.oid = typrelid WHERE typtype IN ('e', 'd', 'c', 'r') AND coalesce(c.relkind, 'c') = 'c'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE classid = 'pg_type'::regclass AND objid = y.oid AND deptype = 'e')) lines)sql";

}  // namespace midstream::postgres
