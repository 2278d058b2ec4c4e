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
CREATE OR REPLACE FUNCTION midstream.turn() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT turn FROM midstream.owner';
CREATE TABLE IF NOT EXISTS midstream.ddl (
  turn bigint NOT NULL DEFAULT midstream.turn(),
  n bigint GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  role name NOT NULL DEFAULT current_user,
  tag text NOT NULL,
  about text NOT NULL,
  command text,      -- NULL where it is not known
  why_not text,      -- it is not to be repeated in the stream
  by_copy boolean,   -- but it may be before a copy, which brings what it would have missed
  settings jsonb NOT NULL,
  roles jsonb,       -- that it speaks of, as roles_in() says
  stored jsonb,
  PRIMARY KEY (turn, n));
GRANT INSERT (tag, about, command, why_not, by_copy, settings, roles, stored) ON midstream.ddl TO PUBLIC;
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
CREATE OR REPLACE FUNCTION midstream.is_told(bare text) RETURNS boolean LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT upper(bare) ~ '^(CREATE|ALTER|DROP|COMMENT|SECURITY|IMPORT|REFRESH|GRANT|REVOKE|REINDEX) '
    AND upper(bare) !~ '^(CREATE|ALTER|DROP|COMMENT ON|SECURITY LABEL ON|SECURITY LABEL FOR \S+ ON) (ROLE|USER(?! MAPPING)|GROUP|DATABASE|TABLESPACE|EVENT TRIGGER|SYSTEM)\M'
    AND NOT (upper(bare) ~ '^(GRANT|REVOKE) ' AND (upper(bare) !~ ' ON ' OR upper(bare) ~ ' ON (DATABASE|TABLESPACE|PARAMETER) '))
$body$;

-- Which statement of `query` is the one of `tag` that is being run, as written; NULL where it cannot be known. `place`: how many told ones
-- of the same query were run before it; NULL where nobody has counted.
CREATE OR REPLACE FUNCTION midstream.statement_of(query text, tag text, place int) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  raws text[]; bares text[]; told text[]; many int;
BEGIN
  IF length(query) > 1000000 THEN RETURN NULL; END IF;
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
    'default_toast_compression', 'default_tablespace', 'timezone_abbreviations']) AS name
$body$;

-- Roles whose name is in a command's text, and who runs it; with what it may take: [[role, [role it is a member of, ...], may create in the
-- database, is superuser], ...]. No
-- event tells of roles; who they are in full is carried over before the switch (shared.h).
CREATE OR REPLACE FUNCTION midstream.roles_in(command text) RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $body$
  SELECT jsonb_agg(jsonb_build_array(r.rolname, (SELECT coalesce(jsonb_agg(g.rolname), '[]') FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid WHERE m.member = r.oid),
    has_database_privilege(r.oid, (SELECT oid FROM pg_database WHERE datname = current_database()), 'CREATE'), r.rolsuper))
  FROM pg_roles AS r WHERE r.rolname !~ '^(pg|midstream)_' AND (r.rolname = current_user OR lower(r.rolname) = ANY (regexp_split_to_array(lower(command), '[^[:alnum:]_$]+'))
    OR strpos(command, format('"%s"', r.rolname)) > 0)
$body$;

-- Who called the one that asks, "" if nobody.
CREATE OR REPLACE FUNCTION midstream.stack() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lc_messages = 'C' AS $body$
DECLARE
  whole text;
BEGIN
  GET DIAGNOSTICS whole = PG_CONTEXT;
  whole := substr(whole, strpos(whole, E'\nPL/pgSQL function midstream.record_ddl() line ') + 1);
  RETURN CASE WHEN strpos(whole, E'\n') > 0 THEN substr(whole, strpos(whole, E'\n') + 1) ELSE '' END;
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
CREATE OR REPLACE FUNCTION midstream.adopt_tables(everything boolean) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  t record; publication oid := (SELECT oid FROM pg_publication WHERE pubname = $PUBLICATION$); made oid;
BEGIN
  FOR t IN SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind = 'r' AND c.relpersistence = 'p' AND publication IS NOT NULL AS carried, c.relreplident, EXISTS (SELECT FROM
        pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = 'midstream_deny' AND g.tgenabled = 'A') AS denies
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'midstream')
        AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp%'
        AND (everything OR age(c.xmin) <= age(pg_current_xact_id()::xid)) ORDER BY 2 LOOP
    IF t.carried AND NOT EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = publication AND prrelid = t.oid) THEN
      made := pg_nextoid('pg_publication_rel', 'oid', 'pg_publication_rel_oid_index');
      INSERT INTO pg_publication_rel (oid, prpubid, prrelid) VALUES (made, publication, t.oid);
      INSERT INTO pg_depend VALUES ('pg_publication_rel'::regclass, made, 0, 'pg_publication'::regclass, publication, 0, 'a'),
        ('pg_publication_rel'::regclass, made, 0, 'pg_class'::regclass, t.oid, 0, 'a');
    END IF;
    IF t.carried THEN
      INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT s.oid, t.oid, 'r' FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
        WHERE d.datname = current_database() AND s.subname IN ($STREAMS$)
          AND NOT EXISTS (SELECT FROM pg_subscription_rel AS r WHERE r.srsubid = s.oid AND r.srrelid = t.oid);
    END IF;
    IF t.carried AND t.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t.oid AND indisprimary AND indimmediate) THEN
      INSERT INTO midstream.identity (relation, was, given) VALUES (t.oid, t.relreplident, 'f') ON CONFLICT (relation) DO UPDATE SET was = excluded.was, given = 'f', index = NULL;
      EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', t.name);
    END IF;
    IF NOT t.denies THEN
      EXECUTE format('CREATE OR REPLACE TRIGGER midstream_deny BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION midstream.deny()', t.name);
      EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER midstream_deny', t.name);
    END IF;
  END LOOP;
END $body$;

-- Why a command cannot be repeated on the other side with the same effect on the rows there; NULL where nothing speaks against it.
CREATE OR REPLACE FUNCTION midstream.why_not(tag text, query text, tables oid[]) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  reason int := nullif(current_setting('midstream.rewrites', true), '')::int; bare text; odd text;
BEGIN
  IF reason IS NOT NULL THEN
    SELECT string_agg(s.bare, ' ') FROM midstream.statements(query) AS s INTO bare;
  END IF;
  IF tag IN ('CREATE TABLE AS', 'SELECT INTO') AND pg_total_relation_size(tables[1]) > 33554432 THEN
    RETURN 'the rows that it makes are in no stream, and are too many to be written once more';
  ELSIF tag = 'IMPORT FOREIGN SCHEMA' THEN
    RETURN 'another server says what it makes';
  ELSIF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = ANY (tables) AND NOT tgisinternal AND tgenabled IN ('A', 'R') AND tgname <> 'midstream_deny') THEN
    RETURN 'a trigger that is ENABLE ALWAYS or REPLICA would fire once more for what the stream brings';
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

-- Of the command that is ending: writes it down, or finds that there is nothing to write. As who runs it: the column `role` says truly who.
CREATE OR REPLACE FUNCTION midstream.record(event text, tag text, stack text, path text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  place int := 0; about text; query text; command text; why text; tables oid[]; only_index oid; again text; stamp text := statement_timestamp()::text || ' ';
BEGIN
  IF stack = '' THEN
    query := current_query();
    IF starts_with(current_setting('midstream.place', true), stamp) THEN
      place := substr(current_setting('midstream.place', true), length(stamp) + 1)::int;
    END IF;
    IF event = 'ddl_command_end' THEN
      PERFORM set_config('midstream.place', stamp || place + 1, true);
    END IF;
  ELSE
    place := NULL;
    query := substring(stack FROM '^SQL statement "(.*?)"(?:\n(?:PL/[A-Za-z0-9]+ |SQL function |extension script ).*)?$');
  END IF;
  IF tag ~ '^(REFRESH MATERIALIZED VIEW|REINDEX|.* SUBSCRIPTION)$' THEN
    RETURN;
  ELSIF event = 'sql_drop' THEN
    SELECT string_agg(format('%s %s', object_type, object_identity), ', ') FROM pg_event_trigger_dropped_objects()
      WHERE original AND NOT is_temporary INTO about;
    IF tag !~ '^DROP ' OR about IS NULL THEN RETURN; END IF;
  ELSE
    IF tag ~ '^DROP ' THEN RETURN; END IF;
    SELECT string_agg(format('%s %s', c.object_type, coalesce(c.object_identity, '')), ', '), array_agg(c.objid) FILTER (WHERE c.classid = 'pg_class'::regclass),
        max(c.objid) FILTER (WHERE tag = 'CREATE INDEX' AND (SELECT relkind FROM pg_class WHERE oid = c.objid) = 'i')
      FROM pg_event_trigger_ddl_commands() AS c WHERE NOT c.in_extension AND c.schema_name IS DISTINCT FROM 'pg_temp' INTO about, tables, only_index;
    IF about IS NULL OR tag IN ('GRANT', 'REVOKE') AND midstream.only_temporary(about) THEN RETURN; END IF;
  END IF;
  command := CASE WHEN only_index IS NOT NULL THEN pg_get_indexdef(only_index) ELSE midstream.statement_of(query, tag, place) END;
  IF command IS NULL AND tag IN ('CREATE FUNCTION', 'CREATE PROCEDURE') THEN
    SELECT pg_get_functiondef(c.objid) FROM pg_event_trigger_ddl_commands() AS c INTO command;
  ELSIF command IS NULL AND (SELECT count(*) = 1 AND bool_and(s.bare ~* '^(CREATE|ALTER|DROP) EXTENSION\M') FROM midstream.statements(query) AS s) THEN
    RETURN;  -- of an extension's script: the extension itself is written down
  ELSIF command ~* '\mCONCURRENTLY\M' THEN
    command := regexp_replace(command, '\mCONCURRENTLY\M', '', 'i');
  END IF;
  IF event = 'ddl_command_end' THEN
    why := midstream.why_not(tag, query, tables);
    PERFORM set_config('midstream.rewrites', '', true);
  END IF;
  IF tag IN ('CREATE TABLE AS', 'SELECT INTO') AND why IS NULL THEN
    -- Its rows were written before the table was part of the move: they are set aside, and written once more when it is.
    command := midstream.table_as(tables[1]);
    EXECUTE format('CREATE TEMPORARY TABLE midstream_rows AS TABLE %s', tables[1]::regclass);
    EXECUTE format('TRUNCATE %s', tables[1]::regclass);
    again := format('INSERT INTO %s SELECT * FROM pg_temp.midstream_rows; DROP TABLE pg_temp.midstream_rows', tables[1]::regclass);
  END IF;
  IF event = 'ddl_command_end' THEN
    PERFORM midstream.adopt_tables(false);
  END IF;
  IF command IS NULL AND why IS NULL THEN
    why := CASE WHEN stack <> '' THEN format('its text is not known: it was run by %s', split_part(regexp_replace(stack, '^SQL statement ".*"\n', ''), E'\n', 1))
      ELSE 'which part of the query it was is not known' END;
  END IF;
  INSERT INTO midstream.ddl (tag, about, command, why_not, by_copy, settings, roles, stored) VALUES (tag, about, command, why, why ~ '^(it|the rows) ' AND command IS NOT NULL,
    midstream.settings() || jsonb_build_object('search_path', path),
    midstream.roles_in(command),
    CASE WHEN tag = 'ALTER TABLE' AND why IS NULL THEN midstream.stored_defaults(tables) END);
  IF again IS NOT NULL THEN
    EXECUTE again;
  END IF;
END $body$;

-- Without settings of its own: it is to see the session's.
CREATE OR REPLACE FUNCTION midstream.record_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $body$
DECLARE
  stack text;
BEGIN
  IF current_user OPERATOR(pg_catalog.=) $AGENT$ OR (SELECT state FROM midstream.owner) OPERATOR(pg_catalog.<>) ALL (ARRAY['owner', 'closing']) OR midstream.ours() THEN
    RETURN;
  END IF;
  IF TG_EVENT OPERATOR(pg_catalog.=) 'table_rewrite' THEN
    PERFORM midstream.note_rewrite();
    RETURN;
  END IF;
  stack := midstream.stack();
  PERFORM midstream.record(TG_EVENT, TG_TAG, stack, pg_catalog.current_setting('search_path'));
EXCEPTION WHEN OTHERS THEN
  -- Whatever it is: the command itself goes through, and stops on the other side.
  INSERT INTO midstream.ddl (tag, about, why_not, settings) VALUES (TG_TAG, '', pg_catalog.format('it could not be written down: %s', SQLERRM), '{}');
END $body$;

-- Of an empty table nothing is computed. By its size: no query can be planned over a table whose indexes are being made anew.
CREATE OR REPLACE FUNCTION midstream.note_rewrite() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  id oid := pg_event_trigger_table_rewrite_oid();
BEGIN
  IF (SELECT relpersistence FROM pg_class WHERE oid = id) = 't' THEN RETURN; END IF;
  IF pg_relation_size(id) > 0 THEN
    PERFORM set_config('midstream.rewrites', (coalesce(nullif(current_setting('midstream.rewrites', true), ''), '0')::int | pg_event_trigger_table_rewrite_reason())::text, true);
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
  said text; state text;
BEGIN
  CREATE FUNCTION midstream.as_role(command text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE command; END';
  EXECUTE format('ALTER FUNCTION midstream.as_role(text) OWNER TO %I', role);
  PERFORM set_config(key, value, true) FROM jsonb_each_text(settings);
  EXECUTE 'SELECT midstream.as_role($1)' USING command;
  PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
  EXECUTE 'DROP FUNCTION midstream.as_role(text)';
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

CREATE OR REPLACE FUNCTION midstream.repeat_ddl() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  IF (SELECT state FROM midstream.owner) IN ('owner', 'closing') THEN
    RETURN NULL;  -- a session of the owner's that has session_replication_role = replica
  END IF;
  IF NOT EXISTS (SELECT FROM midstream.settled AS s WHERE s.turn = NEW.turn AND s.n = NEW.n) THEN
    IF NEW.why_not IS NOT NULL AND NOT (coalesce(NEW.by_copy, false) AND current_setting('midstream.before_copy', true) IS NOT DISTINCT FROM 'on') THEN
      RAISE EXCEPTION 'midstream: % (%), number % of turn %, is not repeated here: %', NEW.tag, NEW.about, NEW.n, NEW.turn, NEW.why_not USING ERRCODE = 'MS010';
    END IF;
    PERFORM midstream.make_roles(NEW.roles);
    PERFORM midstream.repeat(NEW.role, NEW.command, NEW.settings);
    PERFORM midstream.store_defaults(NEW.stored);
  END IF;
  PERFORM midstream.adopt_tables(true);
  RETURN NULL;
END $body$;
DO $body$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = 'midstream.ddl'::regclass AND tgname = 'midstream_repeat') THEN
    CREATE TRIGGER midstream_repeat AFTER INSERT ON midstream.ddl FOR EACH ROW EXECUTE FUNCTION midstream.repeat_ddl();
    ALTER TABLE midstream.ddl ENABLE REPLICA TRIGGER midstream_repeat;
  END IF;
END $body$;
)sql";

}  // namespace midstream::postgres
