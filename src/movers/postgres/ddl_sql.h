// SQL text of the part of schema `midstream` that carries DDL: installed as one batch after kSchemaSql (schema_sql.h), harmless when
// repeated. On the side that owns, event triggers write each command down in `midstream.ddl`, in its own transaction; that table is
// published, and on the side that follows a trigger of it repeats the command inside of PostgreSQL's apply, so at its place in the
// stream: rows before it have the old shape, rows after it the new one. docs/decisions/0023-ddl-during-the-move.md says why it is so.
#pragma once

namespace midstream::postgres {

// $AGENT$, $PUBLICATION$ and $STREAMS$ (both subscriptions of the database) are replaced by literals.
inline constexpr const char* kDdlSql = R"sql(
-- In a function of an ordinary role (repeat(), below) the kind of a backend is told to superusers only.
ALTER FUNCTION midstream.ours() SECURITY DEFINER;
CREATE OR REPLACE FUNCTION midstream.turn() RETURNS bigint LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS 'SELECT turn FROM midstream.owner';
CREATE TABLE IF NOT EXISTS midstream.ddl (
  turn bigint NOT NULL DEFAULT midstream.turn(),
  n bigint GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  role name NOT NULL,
  tag text NOT NULL,
  about text NOT NULL,
  command text,      -- NULL where it is not known
  why_not text,      -- it is not to be repeated in the stream
  by_copy boolean,   -- but it may be before a copy, which brings what it would have missed
  settings jsonb NOT NULL,
  roles jsonb,       -- that it speaks of, as roles_in() says
  stored jsonb,
  PRIMARY KEY (turn, n));
-- Who runs the command that an event trigger is told of: one event trigger notes it as him, in a column that he cannot fill; the next, which
-- writes the command down and is the only one who may, takes it from there. Nobody calls an event trigger's function by himself.
CREATE TABLE IF NOT EXISTS midstream.acting (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  role name NOT NULL DEFAULT current_user,
  xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
  mark int);
GRANT INSERT (mark) ON midstream.acting TO PUBLIC;
CREATE TABLE IF NOT EXISTS midstream.made_roles (role name PRIMARY KEY);
CREATE TABLE IF NOT EXISTS midstream.settled (turn bigint, n bigint, PRIMARY KEY (turn, n));

-- What somebody has made by hand on the side that follows: it is taken as repeated there.
CREATE OR REPLACE FUNCTION midstream.settle(turn bigint, n bigint) RETURNS void LANGUAGE sql AS 'INSERT INTO midstream.settled VALUES ($1, $2) ON CONFLICT DO NOTHING';

-- The statements of a query text as they were written, and bare: without comments, with '' for every string. No row at all where the
-- text is not understood for certain.
CREATE OR REPLACE FUNCTION midstream.statements(query text, OUT raw text, OUT bare text) RETURNS SETOF record LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  rest text := query; piece text; tag text; raws text[] := '{}'; bares text[] := '{}';
BEGIN
  raw := ''; bare := '';
  WHILE rest <> '' LOOP
    piece := substring(rest FROM '^[^''"$;/-]+');
    IF piece IS NOT NULL THEN
      bare := bare || piece;
    ELSIF rest LIKE '''%' THEN
      IF bare ~ '(^|[\x01-#%-/:-@\[-^`\{-\x7f])[eE]$' THEN
        piece := substring(rest FROM '^''(?:[^''\\]|\\.|'''')*''');
      ELSIF current_setting('standard_conforming_strings') = 'on' THEN
        piece := substring(rest FROM '^''(?:[^'']|'''')*''');
      END IF;
      bare := bare || '''''';
    ELSIF rest LIKE '"%' THEN
      piece := substring(rest FROM '^"(?:[^"]|"")*"');
      bare := bare || piece;
    ELSIF rest ~ '^\$([^\x01-@\[-^`\{-\x7f][^\x01-/:-@\[-^`\{-\x7f]*)?\$' AND bare !~ '[^\x01-#%-/:-@\[-^`\{-\x7f]$' THEN
      tag := substring(rest FROM '^\$[^$]*\$');
      IF strpos(substr(rest, length(tag) + 1), tag) > 0 THEN
        piece := substr(rest, 1, 2 * length(tag) + strpos(substr(rest, length(tag) + 1), tag) - 1);
      END IF;
      bare := bare || '''''';
    ELSIF rest LIKE '--%' THEN
      piece := substring(rest FROM '^[^\n\r]+');
      bare := bare || ' ';
    ELSIF rest LIKE '/*%' THEN
      piece := substring(rest FROM '^/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/');
      bare := bare || ' ';
    ELSIF rest LIKE ';%' THEN
      piece := ';';
      IF bare ~* '\mBEGIN\s+ATOMIC\M' THEN RETURN; END IF;
      raws := raws || raw; bares := bares || bare;
      raw := NULL; bare := '';
    ELSE
      piece := left(rest, 1);
      bare := bare || piece;
    END IF;
    IF piece IS NULL THEN RETURN; END IF;
    raw := CASE WHEN raw IS NULL THEN '' ELSE raw || piece END;
    rest := substr(rest, length(piece) + 1);
  END LOOP;
  raws := raws || raw; bares := bares || bare;
  RETURN QUERY SELECT r, btrim(regexp_replace(b, '\s+', ' ', 'g')) FROM unnest(raws, bares) AS s (r, b) WHERE b ~ '\S';
END $body$;

-- Whether the bare statement is a command of that tag.
CREATE OR REPLACE FUNCTION midstream.says(bare text, tag text) RETURNS boolean LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT CASE
    WHEN tag = 'SELECT INTO' THEN said ~ '^(SELECT|WITH)\M.*\mINTO\M'
    WHEN tag = 'CREATE TABLE AS' THEN said ~ '^CREATE TABLE\M.*\mAS\M'
    ELSE said = tag OR starts_with(said, tag || ' ') END
  FROM (SELECT regexp_replace(upper(bare), '^CREATE (OR REPLACE |UNIQUE |UNLOGGED |GLOBAL |LOCAL |TEMPORARY |TEMP |RECURSIVE |TRUSTED |PROCEDURAL |CONSTRAINT |DEFAULT )+', 'CREATE ') AS said) x
$body$;

-- Whether it is a command that event triggers are told of.
CREATE OR REPLACE FUNCTION midstream.is_told(bare text) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT upper(bare) ~ (CASE WHEN current_setting('server_version_num')::int >= 170000 THEN '^(CREATE|ALTER|DROP|COMMENT|SECURITY|IMPORT|REFRESH|GRANT|REVOKE|REINDEX) '
    ELSE '^(CREATE|ALTER|DROP|COMMENT|SECURITY|IMPORT|REFRESH|GRANT|REVOKE) ' END)
    AND upper(bare) !~ '^(CREATE|ALTER|DROP|COMMENT ON|SECURITY LABEL ON|SECURITY LABEL FOR \S+ ON) (ROLE|USER(?! MAPPING)|GROUP|DATABASE|TABLESPACE|EVENT TRIGGER|SYSTEM)\M'
    AND NOT (upper(bare) ~ '^(GRANT|REVOKE) ' AND (upper(bare) !~ ' ON ' OR upper(bare) ~ ' ON (DATABASE|TABLESPACE|PARAMETER) '))
$body$;

-- Which statement of `query` is the one of `tag` that is being run, as written; NULL where it cannot be known. `place`: how many told ones
-- of the same query were run before it; NULL where nobody has counted.
CREATE OR REPLACE FUNCTION midstream.statement_of(query text, tag text, place int) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  raws text[]; bares text[]; told text[]; many int;
BEGIN
  IF length(query) > 20000 THEN RETURN NULL; END IF;  -- reading it would take its user's time
  SELECT array_agg(s.raw), array_agg(s.bare), count(*) FROM midstream.statements(query) AS s INTO raws, bares, many;
  IF many = 1 THEN
    RETURN CASE WHEN midstream.says(bares[1], tag) THEN raws[1] END;
  ELSIF many = 0 OR place IS NULL OR EXISTS (SELECT FROM unnest(bares) WITH ORDINALITY AS b (bare, i)
      WHERE bare ~* '^(SAVEPOINT|ROLLBACK|RELEASE|PREPARE TRANSACTION|ABORT)\M' OR bare ~* '^(SELECT|WITH)\M.*\mINTO\M'
        OR bare ~* '^(CREATE|ALTER|DROP) EXTENSION\M' OR bare ~* '^(BEGIN|START)\M' AND i > 1 OR bare ~* '^(COMMIT|END)\M' AND i < many) THEN
    RETURN NULL;
  END IF;
  SELECT array_agg(b.bare ORDER BY i), array_agg(raws[i] ORDER BY i) FROM unnest(bares) WITH ORDINALITY AS b (bare, i) WHERE midstream.is_told(b.bare) INTO told, raws;
  RETURN CASE WHEN midstream.says(told[place + 1], tag) THEN raws[place + 1] END;
END $body$;

-- What a command's meaning hangs on beside its text and search_path, in the session that runs it.
CREATE OR REPLACE FUNCTION midstream.settings() RETURNS jsonb LANGUAGE sql STABLE AS $body$
  SELECT pg_catalog.jsonb_object_agg(name, pg_catalog.current_setting(name)) FROM pg_catalog.unnest(ARRAY['DateStyle', 'IntervalStyle', 'TimeZone',
    'lc_monetary', 'lc_numeric', 'lc_time', 'bytea_output', 'extra_float_digits', 'xmloption', 'xmlbinary', 'array_nulls', 'transform_null_equals',
    'standard_conforming_strings', 'backslash_quote', 'check_function_bodies', 'default_text_search_config', 'default_table_access_method',
    'default_toast_compression', 'timezone_abbreviations']) AS name
$body$;

-- Roles whose name is in a command's text, and who runs it; with what it may take: [[role, [role it is a member of, ...], may create in the
-- database, is superuser], ...]. No
-- event tells of roles; who they are in full is carried over before the switch (shared.h).
CREATE OR REPLACE FUNCTION midstream.roles_in(command text, who name) RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT jsonb_agg(jsonb_build_array(r.rolname, (SELECT coalesce(jsonb_agg(g.rolname), '[]') FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid WHERE m.member = r.oid),
    has_database_privilege(r.oid, (SELECT oid FROM pg_database WHERE datname = current_database()), 'CREATE'), r.rolsuper))
  FROM pg_roles AS r WHERE r.rolname !~ '^(pg|midstream)_' AND (r.rolname = who OR lower(r.rolname) = ANY (regexp_split_to_array(lower(command), '[^[:alnum:]_$]+'))
    OR strpos(command, format('"%s"', r.rolname)) > 0)
$body$;

-- Who called the one that asks, "" if nobody.
CREATE OR REPLACE FUNCTION midstream.stack() RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lc_messages = 'C' AS $body$
DECLARE
  whole text; own text;
BEGIN
  GET DIAGNOSTICS whole = PG_CONTEXT;
  -- Without the schema where the session's search_path finds it.
  own := substring(whole FROM E'\nPL/pgSQL function (?:midstream\\.)?record_ddl\\(\\) line [^\n]*\n?');
  RETURN CASE WHEN own IS NULL THEN whole ELSE substr(whole, strpos(whole, own) + length(own)) END;
END $body$;

-- The value that rows have which are older than a column, of the table and all that inherit from it.
CREATE OR REPLACE FUNCTION midstream.stored_defaults(tables oid[]) RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $body$
  WITH RECURSIVE t AS (SELECT unnest(tables) AS id UNION SELECT inhrelid FROM t JOIN pg_inherits ON inhparent = id)
  SELECT jsonb_object_agg(format('%s.%I', id::regclass, attname), attmissingval::text) FROM t JOIN pg_attribute ON attrelid = id WHERE atthasmissing AND NOT attisdropped
$body$;

-- Tables that this transaction has made, or any that are not yet part of the move, become part of it: the deny trigger, the publication,
-- the list of the stream that comes in, an identity. Straight into the catalog: ALTER PUBLICATION would have one transaction that
-- makes a table wait for the end of another's.
CREATE OR REPLACE FUNCTION midstream.adopt_tables(everything boolean, named oid[] DEFAULT '{}') RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  t record; publication oid := (SELECT oid FROM pg_publication WHERE pubname = $PUBLICATION$); made oid;
  streams oid[] := ARRAY(SELECT s.oid FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database() AND s.subname IN ($STREAMS$));
BEGIN
  FOR t IN SELECT * FROM (
      SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relreplident, c.carried,
        c.carried AND NOT EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = publication AND prrelid = c.oid) AS unpublished,
        c.carried AND (SELECT count(*) FROM pg_subscription_rel WHERE srsubid = ANY (streams) AND srrelid = c.oid) < cardinality(streams) AS unlisted,
        c.carried AND (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary AND indimmediate)
          OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisreplident AND indisvalid)) AS unnamed,
        NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = 'midstream_deny' AND g.tgenabled = 'A') AS open
      FROM (SELECT oid, relname, relnamespace, relreplident, relkind = 'r' AND relpersistence = 'p' AND publication IS NOT NULL AS carried FROM pg_class
          WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND (everything OR oid = ANY (named) OR relreplident = 'i' AND named IS NULL
            OR age(xmin) <= age(pg_current_xact_id()::xid))) AS c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'midstream') AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp%') AS x
    WHERE unpublished OR unlisted OR unnamed OR open ORDER BY name LOOP
    IF t.unpublished THEN
      made := pg_nextoid('pg_publication_rel', 'oid', 'pg_publication_rel_oid_index');
      INSERT INTO pg_publication_rel (oid, prpubid, prrelid) VALUES (made, publication, t.oid);
      INSERT INTO pg_depend VALUES ('pg_publication_rel'::regclass, made, 0, 'pg_publication'::regclass, publication, 0, 'a'),
        ('pg_publication_rel'::regclass, made, 0, 'pg_class'::regclass, t.oid, 0, 'a');
    END IF;
    IF t.unlisted THEN
      INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT s, t.oid, 'r' FROM unnest(streams) AS s
        WHERE NOT EXISTS (SELECT FROM pg_subscription_rel AS r WHERE r.srsubid = s AND r.srrelid = t.oid);
    END IF;
    IF t.unnamed THEN
      -- Its key is gone, or never was: without an identity UPDATE and DELETE of a published table are refused to its users. What it was given for
      -- the move is put back as what it was before that; an index that is gone names nothing.
      INSERT INTO midstream.identity (relation, was, given) VALUES (t.oid, CASE t.relreplident WHEN 'i' THEN 'n' ELSE t.relreplident END, 'f')
        ON CONFLICT (relation) DO UPDATE SET given = 'f', index = NULL;
      EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', t.name);
    END IF;
    IF t.open THEN
      EXECUTE format('CREATE OR REPLACE TRIGGER midstream_deny BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION midstream.deny()', t.name);
      EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER midstream_deny', t.name);
    END IF;
  END LOOP;
END $body$;

-- Why a command cannot be repeated on the other side with the same effect on the rows there; NULL where nothing speaks against it.
CREATE OR REPLACE FUNCTION midstream.why_not(tag text, query text, tables oid[]) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  reason int := substring(current_setting('midstream.rewrites', true) FROM '^[0-7]$')::int; bare text; odd text;
  no_equality constant text[] := ARRAY['json', 'xml', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle', 'jsonpath', 'refcursor'];
BEGIN
  IF reason IS NOT NULL AND length(query) <= 20000 THEN
    SELECT string_agg(s.bare, ' ') FROM midstream.statements(query) AS s INTO bare;
  END IF;
  IF tag IN ('CREATE TABLE AS', 'SELECT INTO') AND pg_total_relation_size(tables[1]) > 33554432 THEN
    RETURN 'the rows that it makes are in no stream, and are too many to be written once more';
  ELSIF tag = 'IMPORT FOREIGN SCHEMA' THEN
    RETURN 'another server says what it makes';
  ELSIF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = ANY (tables) AND NOT tgisinternal AND tgenabled IN ('A', 'R') AND tgname <> 'midstream_deny') THEN
    RETURN 'a trigger that is ENABLE ALWAYS or REPLICA would fire once more for what the stream brings';
  ELSIF EXISTS (SELECT FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type AS y ON y.oid = a.atttypid
      LEFT JOIN pg_type AS e ON e.oid IN (y.typelem, y.typbasetype) AND e.oid <> 0 WHERE c.oid = ANY (tables) AND c.relkind = 'r' AND c.relpersistence = 'p'
        AND (y.typname = ANY (no_equality) OR e.typname = ANY (no_equality)) AND (c.relreplident = 'f' OR c.relreplident IN ('d', 'i')
          AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisvalid AND (c.relreplident = 'd' AND indisprimary AND indimmediate OR c.relreplident = 'i' AND indisreplident)))) THEN
    RETURN 'its rows could not be told apart there: the table has no key, and a column whose type has no equality';
  ELSIF reason & 1 <> 0 THEN
    RETURN 'it changes whether a table is logged';
  ELSIF reason & 2 <> 0 AND NOT coalesce(bare !~* '\mDEFAULT|SERIAL|\mIDENTITY' AND (SELECT count(*) FROM regexp_matches(bare, '\mSTORED\M', 'gi')) =
      (SELECT count(*) FROM regexp_matches(bare, '\mADD\M', 'gi')), false) THEN
    RETURN 'it computes a default for every row anew';
  ELSIF reason & 4 <> 0 THEN
    SELECT min(word[1]) FROM regexp_matches(lower(bare), '([a-z_][a-z0-9_$]*)\s*\(', 'g') AS word WHERE EXISTS (SELECT FROM pg_proc WHERE proname = word[1] AND provolatile <> 'i') INTO odd;
    IF odd IS NULL THEN odd := substring(lower(bare) FROM '\m(current_[a-z]+|localtime[a-z]*|session_user|user|select|"[^"]*"\s*\()'); END IF;
    IF bare IS NULL OR odd IS NOT NULL THEN
      RETURN format('it computes every row anew by an expression that may give something else there (%s)', coalesce(odd, '?'));
    END IF;
  END IF;
  RETURN NULL;
END $body$;

-- Makes an empty one, of what CREATE TABLE AS has made.
CREATE OR REPLACE FUNCTION midstream.table_as(id oid) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT format('CREATE %sTABLE %s (%s) USING %I%s', CASE WHEN relpersistence = 'u' THEN 'UNLOGGED ' END, id::regclass, (SELECT string_agg(format('%I %s%s', attname, format_type(atttypid, atttypmod),
      (SELECT format(' COLLATE %s', l.oid::regcollation) FROM pg_collation AS l JOIN pg_type AS t ON t.oid = atttypid WHERE l.oid = attcollation AND attcollation <> typcollation)), ', ' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = id AND attnum > 0), amname, ' WITH (' || array_to_string(reloptions, ', ') || ')')
  FROM pg_class AS c JOIN pg_am AS m ON m.oid = relam WHERE c.oid = id
$body$;
-- What GRANT and REVOKE are about is not told: nothing but temporary tables, where no other row of the catalog is of this transaction.
CREATE OR REPLACE FUNCTION midstream.only_temporary(about text) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT pg_my_temp_schema() <> 0 AND about ~ '^(TABLE|SEQUENCE|COLUMN) *$' AND NOT EXISTS (
    SELECT FROM pg_class WHERE relacl IS NOT NULL AND relpersistence <> 't' AND age(xmin) <= age(pg_current_xact_id()::xid)
    UNION ALL SELECT FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid WHERE attacl IS NOT NULL AND relpersistence <> 't'
      AND age(a.xmin) <= age(pg_current_xact_id()::xid))
$body$;

-- How many commands of the query that is being run have ended before this one, which is counted too.
CREATE OR REPLACE FUNCTION midstream.count_command(event text) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  place int := 0; stamp text := statement_timestamp()::text || ' '; known text := current_setting('midstream.place', true);
BEGIN
  IF starts_with(known, stamp) AND substr(known, length(stamp) + 1) ~ '^\d{1,6}$' THEN
    place := substr(known, length(stamp) + 1)::int;
  END IF;
  IF event = 'ddl_command_end' THEN
    PERFORM set_config('midstream.place', stamp || place + 1, true);
  END IF;
  RETURN place;
END $body$;

-- Of the command that is ending: writes it down, or finds that there is nothing to write. `who` runs it. No code of a user's runs in here.
DROP FUNCTION IF EXISTS midstream.record(text, text, text, text);
CREATE OR REPLACE FUNCTION midstream.record(who name, event text, tag text, stack text, path text, counted int) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  place int; about text; query text; command text; why text; tables oid[]; only_index oid; again text;
BEGIN
  IF stack = '' THEN
    query := current_query();
    place := counted;
  ELSE
    query := substring(stack FROM '^SQL statement "(.*?)"(?:\n(?:PL/[A-Za-z0-9]+ |SQL function |extension script ).*)?$');
  END IF;
  IF tag ~ '^(REFRESH MATERIALIZED VIEW|REINDEX|.* SUBSCRIPTION)$' THEN
    RETURN;
  ELSIF event = 'sql_drop' THEN
    SELECT string_agg(format('%s %s', object_type, object_identity), ', ') FROM pg_event_trigger_dropped_objects()
      WHERE original AND NOT is_temporary AND schema_name IS DISTINCT FROM 'midstream' AND object_type <> 'large object' INTO about;
    IF tag !~ '^DROP ' OR about IS NULL THEN RETURN; END IF;
  ELSE
    IF tag ~ '^DROP ' THEN
      PERFORM midstream.adopt_tables(false, NULL);  -- an index that is gone may have been an identity
      RETURN;
    END IF;
    SELECT string_agg(format('%s %s', c.object_type, coalesce(c.object_identity, '')), ', '), array_agg(c.objid) FILTER (WHERE c.classid = 'pg_class'::regclass),
        max(c.objid) FILTER (WHERE tag = 'CREATE INDEX' AND (SELECT relkind FROM pg_class WHERE oid = c.objid) = 'i')
      FROM pg_event_trigger_ddl_commands() AS c WHERE NOT c.in_extension AND coalesce(c.schema_name, '') NOT IN ('pg_temp', 'midstream') AND lower(c.object_type) <> 'large object'
      INTO about, tables, only_index;
    IF about IS NULL OR tag IN ('GRANT', 'REVOKE') AND midstream.only_temporary(about) THEN RETURN; END IF;
  END IF;
  command := CASE WHEN only_index IS NOT NULL THEN pg_get_indexdef(only_index) ELSE midstream.statement_of(query, tag, place) END;
  IF command IS NULL AND tag IN ('CREATE FUNCTION', 'CREATE PROCEDURE') THEN
    SELECT pg_get_functiondef(c.objid) FROM pg_event_trigger_ddl_commands() AS c INTO command;
  ELSIF command IS NULL AND length(query) <= 20000 AND
      (SELECT count(*) = 1 AND bool_and(s.bare ~* '^(CREATE|ALTER|DROP) EXTENSION\M') FROM midstream.statements(query) AS s) THEN
    RETURN;  -- of an extension's script: the extension itself is written down
  ELSIF tag = 'DROP INDEX' THEN
    command := regexp_replace(command, '^(\s*DROP\s+INDEX\s+)CONCURRENTLY\M', '\1', 'i');
  END IF;
  IF event = 'ddl_command_end' THEN
    why := midstream.why_not(tag, query, tables);
    IF tag = 'ALTER TABLE' AND command ~* '\mDETACH\s+PARTITION\M.*\mCONCURRENTLY\s*;?\s*$' THEN
      why := 'it leaves a constraint behind, which DETACH PARTITION in a transaction does not';
    END IF;
    PERFORM set_config('midstream.rewrites', '', true);
  END IF;
  IF tag IN ('CREATE TABLE AS', 'SELECT INTO') THEN
    command := midstream.table_as(tables[1]);  -- of its rows none is made by the command: they come after it, or with a copy
    IF why IS NULL THEN
      -- They were written before the table was part of the move: they are set aside, and written once more when it is.
      EXECUTE format('CREATE UNLOGGED TABLE midstream.rows_%s AS TABLE %s', tables[1], tables[1]::regclass);
      EXECUTE format('TRUNCATE %s', tables[1]::regclass);
      again := format('INSERT INTO %s SELECT * FROM midstream.rows_%s; DROP TABLE midstream.rows_%2$s', tables[1]::regclass, tables[1]);
    END IF;
  END IF;
  IF event = 'ddl_command_end' THEN
    PERFORM midstream.adopt_tables(false, tables);
  END IF;
  IF command IS NULL AND why IS NULL THEN
    why := CASE WHEN stack <> '' THEN format('its text is not known: it was run by %s', split_part(regexp_replace(stack, '^SQL statement ".*"\n', ''), E'\n', 1))
      ELSE 'which part of the query it was is not known' END;
  END IF;
  INSERT INTO midstream.ddl (role, tag, about, command, why_not, by_copy, settings, roles, stored) VALUES (who, tag, about, command, why,
    why ~ '^(it|the rows) ' AND command IS NOT NULL, midstream.settings() || jsonb_build_object('search_path', path), midstream.roles_in(command, who),
    CASE WHEN tag = 'ALTER TABLE' AND why IS NULL THEN midstream.stored_defaults(tables) END);
  IF again IS NOT NULL THEN
    EXECUTE again;
  END IF;
END $body$;

-- Who is told: not what we do ourselves, on neither side.
CREATE OR REPLACE FUNCTION midstream.note_actor() RETURNS event_trigger LANGUAGE plpgsql AS $body$
BEGIN
  IF current_user OPERATOR(pg_catalog.<>) $AGENT$ THEN
    INSERT INTO midstream.acting (mark) VALUES (NULL);
  END IF;
END $body$;

-- Without settings of its own: it is to see the session's. With our rights, so every name in it has its schema.
CREATE OR REPLACE FUNCTION midstream.record_ddl() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $body$
DECLARE
  stack pg_catalog.text; who pg_catalog.name; counted pg_catalog.int4;
BEGIN
  who := midstream.take_actor();
  IF who IS NULL OR (SELECT state FROM midstream.owner) OPERATOR(pg_catalog.<>) ALL (ARRAY['owner', 'closing']::pg_catalog.text[]) OR midstream.ours() THEN
    RETURN;
  END IF;
  IF TG_EVENT OPERATOR(pg_catalog.=) 'table_rewrite' THEN
    PERFORM midstream.note_rewrite();
    RETURN;
  END IF;
  stack := midstream.stack();
  IF stack OPERATOR(pg_catalog.=) '' THEN
    counted := midstream.count_command(TG_EVENT);
  END IF;
  BEGIN
    PERFORM midstream.record(who, TG_EVENT, TG_TAG, stack, pg_catalog.current_setting('search_path'), counted);
  EXCEPTION WHEN OTHERS THEN
    -- Whatever it is: the command itself goes through, and stops on the other side.
    INSERT INTO midstream.ddl (role, tag, about, why_not, settings) VALUES (who, TG_TAG, '', pg_catalog.format('it could not be written down: %s', SQLERRM), '{}');
    PERFORM midstream.set_rewrites('');
  END;
END $body$;

-- The last one who was noted in this transaction is who runs the command: nothing of anybody's came in between.
CREATE OR REPLACE FUNCTION midstream.take_actor() RETURNS name LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
  WITH gone AS (DELETE FROM midstream.acting WHERE xact = pg_current_xact_id() RETURNING n, role) SELECT role FROM gone ORDER BY n DESC LIMIT 1
$body$;
CREATE OR REPLACE FUNCTION midstream.set_rewrites(bits text) RETURNS text LANGUAGE sql AS $body$ SELECT pg_catalog.set_config('midstream.rewrites', bits, true) $body$;

-- Of an empty table nothing is computed. By its size: no query can be planned over a table whose indexes are being made anew.
CREATE OR REPLACE FUNCTION midstream.note_rewrite() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  id oid := pg_event_trigger_table_rewrite_oid();
BEGIN
  IF (SELECT relpersistence FROM pg_class WHERE oid = id) = 't' THEN RETURN; END IF;
  IF pg_relation_size(id) > 0 THEN
    PERFORM set_config('midstream.rewrites', (coalesce(substring(current_setting('midstream.rewrites', true) FROM '^[0-7]$'), '0')::int | pg_event_trigger_table_rewrite_reason())::text, true);
  END IF;
END $body$;

-- On the side that follows, at its place in the stream. As who ran it, in a function of his, in which nobody can become somebody else. The
-- settings are those of the session that ran it; here, until the function ends. An error does not repeat the text, which may hold a secret.
CREATE OR REPLACE FUNCTION midstream.repeat(role name, command text, settings jsonb) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET lc_monetary = 'C' SET lc_numeric = 'C' SET lc_time = 'C'
    SET bytea_output = 'hex' SET extra_float_digits = 1 SET xmloption = 'content' SET xmlbinary = 'base64' SET array_nulls = on SET transform_null_equals = off
    SET standard_conforming_strings = on SET backslash_quote = safe_encoding SET check_function_bodies = off SET default_text_search_config = 'simple'
    SET default_table_access_method = 'heap' SET default_toast_compression = 'pglz' SET default_tablespace = '' SET timezone_abbreviations = 'Default' AS $body$
DECLARE
  said text; state text; one record;
BEGIN
  CREATE FUNCTION midstream.as_role(command pg_catalog.text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE command; END';
  EXECUTE format('ALTER FUNCTION midstream.as_role(text) OWNER TO %I', role);
  FOR one IN SELECT e.key, e.value FROM jsonb_each_text(settings) AS e WHERE e.key <> 'search_path' AND current_setting(e.key, true) IS DISTINCT FROM e.value LOOP
    BEGIN
      PERFORM pg_catalog.set_config(one.key, one.value, true);
    EXCEPTION WHEN invalid_parameter_value THEN
      IF one.key NOT LIKE 'lc\_%' THEN RAISE; END IF;  -- a locale that this host has not
    END;
  END LOOP;
  -- From here on names are looked up as the session that ran it would: ours have their schema.
  PERFORM pg_catalog.set_config('search_path', settings OPERATOR(pg_catalog.->>) 'search_path', true);
  EXECUTE 'SELECT midstream.as_role($1)' USING command;
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  EXECUTE 'DROP FUNCTION midstream.as_role(pg_catalog.text)';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
  RAISE EXCEPTION '%', said USING ERRCODE = state;
END $body$;

-- What rows older than a new column have in it, as it is on the side that owns: `DEFAULT now()` was computed there at another time. By a
-- column of a table that does not last, whose value goes from catalog to catalog: it has no other way in.
CREATE OR REPLACE FUNCTION midstream.store_defaults(stored jsonb) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $body$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT a.attrelid, a.attnum, format_type(a.atttypid, a.atttypmod) AS type, s.value FROM jsonb_each_text(stored) AS s JOIN pg_attribute AS a
      ON a.atthasmissing AND NOT a.attisdropped AND s.key = format('%s.%I', a.attrelid::regclass, a.attname) WHERE a.attmissingval::text <> s.value LOOP
    CREATE TABLE midstream.carrier ();
    EXECUTE format('ALTER TABLE midstream.carrier ADD COLUMN value %s DEFAULT (%L::%s[])[1]', one.type, one.value, one.type);
    UPDATE pg_attribute AS a SET attmissingval = c.attmissingval FROM pg_attribute AS c WHERE c.attrelid = 'midstream.carrier'::regclass AND c.attname = 'value'
      AND c.attmissingval::text = one.value AND a.attrelid = one.attrelid AND a.attnum = one.attnum;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'midstream: what older rows have in column % of % cannot be carried over', one.attnum, one.attrelid::regclass USING ERRCODE = 'MS010';
    END IF;
    DROP TABLE midstream.carrier;
  END LOOP;
END $body$;

-- Roles that a command needs: without a password, and nobody logs in as one, until they are carried over.
CREATE OR REPLACE FUNCTION midstream.make_roles(roles jsonb) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT name, bool_or(super) AS super FROM jsonb_array_elements(roles) AS r, LATERAL (SELECT r->>0, (r->>3)::boolean UNION ALL SELECT jsonb_array_elements_text(r->1), false) AS n (name, super)
      WHERE name !~ '^(pg|midstream)_' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) GROUP BY 1 LOOP
    EXECUTE format('CREATE ROLE %I%s', one.name, CASE WHEN one.super THEN ' SUPERUSER' END);
    INSERT INTO midstream.made_roles VALUES (one.name) ON CONFLICT DO NOTHING;
  END LOOP;
  FOR one IN SELECT r->>0 AS member, name FROM jsonb_array_elements(roles) AS r, LATERAL jsonb_array_elements_text(r->1) AS n (name)
      WHERE name !~ '^midstream_' AND NOT EXISTS (SELECT FROM pg_auth_members AS m WHERE m.member = to_regrole(quote_ident(r->>0)) AND m.roleid = to_regrole(quote_ident(name))) LOOP
    EXECUTE format('GRANT %I TO %I', one.name, one.member);
  END LOOP;
  FOR one IN SELECT r->>0 AS name FROM jsonb_array_elements(roles) AS r WHERE (r->>2)::boolean AND NOT has_database_privilege(r->>0, current_database(), 'CREATE') LOOP
    EXECUTE format('GRANT CREATE ON DATABASE %I TO %I', current_database(), one.name);
  END LOOP;
END $body$;

CREATE OR REPLACE FUNCTION midstream.repeat_row(one midstream.ddl) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  settled boolean := EXISTS (SELECT FROM midstream.settled AS s WHERE s.turn = one.turn AND s.n = one.n);
BEGIN
  IF NOT settled THEN
    IF one.why_not IS NOT NULL AND NOT (coalesce(one.by_copy, false) AND current_setting('midstream.before_copy', true) IS NOT DISTINCT FROM 'on') THEN
      RAISE EXCEPTION 'midstream: % (%), number % of turn %, is not repeated here: %', one.tag, one.about, one.n, one.turn, one.why_not USING ERRCODE = 'MS010';
    END IF;
    PERFORM midstream.make_roles(one.roles);
    PERFORM midstream.repeat(one.role, one.command, one.settings);
    PERFORM midstream.store_defaults(one.stored);
    IF EXISTS (SELECT FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = tgrelid WHERE NOT tgisinternal AND tgenabled IN ('A', 'R') AND tgname <> 'midstream_deny'
        AND relnamespace <> 'midstream'::regnamespace AND age(t.xmin) <= age(pg_current_xact_id()::xid)) THEN
      RAISE EXCEPTION 'midstream: % (%), number % of turn %, is not repeated here: it makes a trigger that the stream fires', one.tag, one.about, one.n, one.turn USING ERRCODE = 'MS010';
    END IF;
  END IF;
  PERFORM midstream.adopt_tables(settled OR one.tag ~ '^(ALTER TABLE|DROP )');
END $body$;

CREATE OR REPLACE FUNCTION midstream.session_settings() RETURNS jsonb LANGUAGE sql AS $body$
  SELECT pg_catalog.jsonb_object_agg(name, setting) FROM (SELECT name, pg_catalog.current_setting(name, true) AS setting FROM pg_catalog.pg_settings WHERE context OPERATOR(pg_catalog.=) ANY (ARRAY['user', 'superuser']::pg_catalog.text[])
    UNION ALL SELECT name, pg_catalog.current_setting(name, true) FROM pg_catalog.unnest(ARRAY['midstream.allow', 'midstream.before_copy', 'midstream.temporary']) AS name) AS s
$body$;

-- Without settings of its own, which would hide what the command's code leaves set: the process goes on to apply the rows of others.
CREATE OR REPLACE FUNCTION midstream.repeat_ddl() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
  before pg_catalog.jsonb;
BEGIN
  IF (SELECT state FROM midstream.owner) OPERATOR(pg_catalog.=) ANY (ARRAY['owner', 'closing']::pg_catalog.text[]) THEN
    RETURN NULL;  -- a session of the owner's that has session_replication_role = replica
  END IF;
  before := midstream.session_settings();
  PERFORM midstream.repeat_row(NEW);
  PERFORM pg_catalog.set_config(key, coalesce(value, ''), false) FROM pg_catalog.jsonb_each_text(before)
    WHERE value OPERATOR(pg_catalog.<>) coalesce(pg_catalog.current_setting(key, true), '') OR value IS NULL AND pg_catalog.current_setting(key, true) OPERATOR(pg_catalog.<>) '';
  RETURN NULL;
END $body$;
-- None of these is for anybody else.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA midstream FROM PUBLIC;
GRANT EXECUTE ON FUNCTION midstream.ours(), midstream.turn() TO PUBLIC;
DO $body$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = 'midstream.ddl'::regclass AND tgname = 'midstream_repeat') THEN
    CREATE TRIGGER midstream_repeat AFTER INSERT ON midstream.ddl FOR EACH ROW EXECUTE FUNCTION midstream.repeat_ddl();
    ALTER TABLE midstream.ddl ENABLE REPLICA TRIGGER midstream_repeat;
  END IF;
END $body$;
)sql";

}  // namespace midstream::postgres
