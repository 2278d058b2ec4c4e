// What the temporary tables and sequences of a session are, asked within the session: rows of (kind, step, owner, name, sql), in the order in
// which they are made again. Nothing in them is of this server alone (no OIDs, no name of the temporary schema), so that those of
// two servers can be compared.
//
//   pin        sql: why it cannot be copied
//   size       sql: bytes of that table
//   empty      owner: a table without a page, name: its TOAST table; it may be ON COMMIT DELETE ROWS, which no catalog has. sql: "" where
//              the server says it in its own way (temporary.cc), else whether a function or only the client's texts could have made it so
//   do, table  owner: the role that runs sql; table: name bare
//   copy       sql: COPY of its columns, without TO or FROM
//   sequence   owner as above; sql: its name, quoted
//   analyze    it has been
//   fact       what must be the same, and is not made by anything above
//
// The search path is pg_catalog, with the temporary schema before it for tables and types: those have their schema in front.
#pragma once

#include <string_view>

namespace midstream::gate {

inline constexpr std::string_view kAskTemporary = R"sql(
WITH mine AS MATERIALIZED (
  SELECT d.classid, d.objid, c.relname, c.relkind, c.relowner, c.relacl, pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text AS owner,
    pg_catalog.quote_ident(c.relname) AS name FROM pg_catalog.pg_depend d
  LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
  WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid = pg_catalog.pg_my_temp_schema()),
t AS MATERIALIZED (SELECT c.*, m.owner, m.name FROM mine m JOIN pg_catalog.pg_class c ON c.oid = m.objid WHERE m.relkind = 'r'),
s AS MATERIALIZED (SELECT m.*, q.*, i.deptype, tc.name AS of_table, pg_catalog.quote_ident(a.attname) AS of_column, a.attrelid, a.attnum,
    pg_catalog.format('%sINCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %sCYCLE', CASE WHEN i.deptype = 'i' THEN '' ELSE
      'AS ' || pg_catalog.format_type(q.seqtypid, NULL) || ' ' END, q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN '' ELSE 'NO ' END) AS options
  FROM mine m JOIN pg_catalog.pg_sequence q ON q.seqrelid = m.objid LEFT JOIN pg_catalog.pg_depend i ON i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND
    i.objid = m.objid AND i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.refobjsubid > 0 AND i.deptype IN ('a', 'i')
  LEFT JOIN t tc ON tc.oid = i.refobjid LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = tc.oid AND a.attnum = i.refobjsubid WHERE m.relkind = 'S'),
a AS MATERIALIZED (SELECT t.owner, t.name, a.*, y.typcollation, y.typstorage, pg_catalog.quote_ident(a.attname) AS col, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
    pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS expr, coalesce(e.typnamespace, y.typnamespace) AS space
  FROM t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_type e ON e.oid = y.typelem AND y.typlen = -1 LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum),
x AS MATERIALIZED (SELECT t.owner, t.name, pg_catalog.quote_ident(c.relname) AS index, c.oid, i.indrelid, EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x')) AS made,
    pg_catalog.regexp_replace(pg_catalog.pg_get_indexdef(c.oid), ' ON (ONLY )?pg_temp(_[0-9]+)?\.', ' ON pg_temp.') AS def, i.*
  FROM t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid),
k AS MATERIALIZED (SELECT t.owner, t.name, k.oid, k.contype, k.conindid, pg_catalog.quote_ident(k.conname) AS con, pg_catalog.pg_get_constraintdef(k.oid) AS def
  FROM t JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid WHERE k.contype IN ('c', 'p', 'u', 'x', 'f'))
SELECT kind, part::pg_catalog.text AS step, owner, name, sql FROM (
SELECT 'pin' AS kind, 0 AS part, '' AS owner, '' AS name, 'its ' || pg_catalog.regexp_replace(pg_catalog.pg_describe_object(classid, objid, 0), 'pg_temp_[0-9]+\.', 'pg_temp.') || ' is temporary, and only tables and sequences are copied' AS sql
  FROM mine WHERE relkind IS NULL OR relkind NOT IN ('r', 'S')
UNION ALL SELECT 'pin', 0, '', '', 'its temporary table ' || name || ' ' || why FROM (SELECT name, CASE WHEN reloftype <> 0 THEN 'is of a composite type'
    WHEN relispartition OR relhassubclass OR EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = t.oid OR h.inhparent = t.oid) THEN 'inherits, or is inherited from'
    WHEN relrowsecurity OR relforcerowsecurity THEN 'has row security' WHEN relhasrules THEN 'has rules'
    WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal) THEN 'has triggers'
    WHEN reltablespace <> 0 THEN 'is in a tablespace of its own' WHEN relam <> (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'heap') THEN 'is not a heap'
    WHEN relreplident <> 'd' THEN 'has a replica identity of its own'
    WHEN EXISTS (SELECT FROM a WHERE a.attrelid = t.oid AND a.space = t.relnamespace) THEN 'has a column of a temporary type'
    WHEN EXISTS (SELECT FROM pg_catalog.pg_seclabel l WHERE l.objoid = t.oid AND l.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass) THEN 'has a security label'
    ELSE 'has the ' || (SELECT pg_catalog.min(pg_catalog.pg_describe_object(d.classid, d.objid, 0)) FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = t.oid
      AND d.classid NOT IN ('pg_catalog.pg_attrdef'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass,
        'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_trigger'::pg_catalog.regclass)) || ' hanging on it' END AS why FROM t) AS found WHERE why IS NOT NULL
UNION ALL SELECT 'size', 0, '', name, (pg_catalog.pg_table_size(oid))::pg_catalog.text FROM t
UNION ALL SELECT 'empty', 0, relname, coalesce((SELECT r.relname FROM pg_catalog.pg_class r WHERE r.oid = t.reltoastrelid), ''), CASE WHEN reltoastrelid <> 0 OR relhasindex THEN '' WHEN EXISTS (SELECT FROM
    pg_catalog.pg_proc p WHERE p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace AND p.prosrc ~* 'temp' AND p.prosrc ~* 'commit' AND p.prosrc ~* 'delete') THEN 'function' ELSE 'wire' END FROM t WHERE pg_catalog.pg_relation_size(oid) = 0
UNION ALL SELECT 'do', 1, owner, name, 'CREATE TEMPORARY SEQUENCE pg_temp.' || name || ' ' || options FROM s WHERE deptype IS DISTINCT FROM 'i'
UNION ALL SELECT 'table', 2, owner, relname, pg_catalog.format('CREATE TEMPORARY TABLE pg_temp.%s (%s)%s', name, (SELECT pg_catalog.string_agg(a.col || ' ' || a.type ||
    CASE WHEN a.attcollation <> a.typcollation THEN (SELECT pg_catalog.format(' COLLATE %I.%I', n.nspname, l.collname) FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = a.attcollation) ELSE '' END ||
    CASE WHEN a.attidentity <> '' THEN pg_catalog.format(' GENERATED %s AS IDENTITY (SEQUENCE NAME %s %s)', CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END,
      (SELECT s.name FROM s WHERE s.attrelid = a.attrelid AND s.attnum = a.attnum), (SELECT s.options FROM s WHERE s.attrelid = a.attrelid AND s.attnum = a.attnum))
      WHEN a.attgenerated = 's' THEN ' GENERATED ALWAYS AS (' || a.expr || ') STORED' WHEN a.expr IS NOT NULL THEN ' DEFAULT ' || a.expr ELSE '' END || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum)
    FROM a WHERE a.attrelid = t.oid), CASE WHEN reloptions IS NOT NULL THEN ' WITH (' || pg_catalog.array_to_string(reloptions, ', ') || ')' ELSE '' END) FROM t
UNION ALL SELECT 'copy', 3, owner, relname, pg_catalog.format('COPY pg_temp.%s (%s)', name, (SELECT pg_catalog.string_agg(a.col, ', ' ORDER BY a.attnum) FROM a WHERE a.attrelid = t.oid AND a.attgenerated = '')) FROM t
UNION ALL SELECT 'sequence', 4, owner, relname, name FROM s
UNION ALL SELECT 'do', 5, owner, con, pg_catalog.format('ALTER TABLE pg_temp.%s ADD CONSTRAINT %s %s', name, con, def) FROM k WHERE contype <> 'f'
UNION ALL SELECT 'do', 6, owner, index, def FROM x WHERE NOT made
UNION ALL SELECT 'do', 7, owner, con, pg_catalog.format('ALTER TABLE pg_temp.%s ADD CONSTRAINT %s %s', name, con, def) FROM k WHERE contype = 'f'
UNION ALL SELECT 'do', 8, owner, name, pg_catalog.format('ALTER SEQUENCE pg_temp.%s OWNED BY pg_temp.%s.%s', name, of_table, of_column) FROM s WHERE deptype = 'a'
UNION ALL SELECT 'do', 9, owner, name, pg_catalog.format('GRANT %s ON %s pg_temp.%s TO %s%s', g.privilege_type, CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, name,
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END, CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM mine, pg_catalog.aclexplode(relacl) AS g WHERE relkind IN ('r', 'S') AND g.grantor = relowner AND g.grantee <> relowner
UNION ALL SELECT 'do', 10, owner, name, pg_catalog.format('COMMENT ON %s pg_temp.%s%s IS %L', CASE WHEN c.objsubid > 0 THEN 'COLUMN' WHEN relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, name,
    coalesce('.' || (SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.objoid AND a.attnum = c.objsubid AND c.objsubid > 0), ''), c.description)
  FROM mine JOIN pg_catalog.pg_description c ON c.objoid = objid AND c.classoid = classid WHERE relkind IN ('r', 'S')
UNION ALL SELECT 'do', 11, owner, index, pg_catalog.format('COMMENT ON INDEX pg_temp.%s IS %L', index, c.description) FROM x JOIN pg_catalog.pg_description c ON c.objoid = x.oid AND c.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL SELECT 'do', 11, owner, con, pg_catalog.format('COMMENT ON CONSTRAINT %s ON pg_temp.%s IS %L', con, name, c.description) FROM k JOIN pg_catalog.pg_description c ON c.objoid = k.oid AND c.classoid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
UNION ALL SELECT 'analyze', 12, owner, name, 'ANALYZE pg_temp.' || name FROM t WHERE reltuples > 0
UNION ALL SELECT 'fact', 13, owner, name, pg_catalog.format('column %s: %s', col, pg_catalog.concat_ws(' ', nullif(attstattarget, -1), nullif(attstorage, typstorage), nullif(pg_catalog.to_jsonb(a) ->> 'attcompression', ''), attoptions, attacl, attislocal, attinhcount)) FROM a
UNION ALL SELECT 'fact', 14, owner, index, pg_catalog.concat_ws(' ', def, indisvalid, indisready, indisclustered, indisreplident, indimmediate) FROM x
UNION ALL SELECT 'fact', 15, owner, name, 'may be: ' || coalesce((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.pg_get_userbyid(g.grantor), g.grantee::pg_catalog.regrole, g.privilege_type, g.is_grantable), ', ' ORDER BY 1, g.grantee::pg_catalog.regrole::pg_catalog.text, g.privilege_type)
    FROM pg_catalog.aclexplode(coalesce(relacl, pg_catalog.acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::pg_catalog."char", relowner))) AS g), '') FROM mine WHERE relkind IN ('r', 'S')
UNION ALL SELECT 'fact', 16, owner, name, 'TOAST: ' || coalesce((SELECT pg_catalog.array_to_string(r.reloptions, ',') FROM pg_catalog.pg_class r WHERE r.oid = t.reltoastrelid), '') FROM t
) AS all_of_it ORDER BY all_of_it.part, kind COLLATE pg_catalog."C", name COLLATE pg_catalog."C", sql COLLATE pg_catalog."C"
)sql";

}  // namespace midstream::gate
