#include "movers/postgres/identity.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/brief_lock.h"
#include "movers/postgres/schema_sql.h"

namespace midstream::postgres {

namespace {

// An index that may be an identity: PostgreSQL itself asks for no less (RelationGetIndexList, CheckReplicaIdentity). A deferrable primary
// key is none.
constexpr const char* kFitSql =
    "x.indisunique AND x.indimmediate AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL AND NOT EXISTS (SELECT FROM "
    "unnest(x.indkey) WITH ORDINALITY k (column_number, place) LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = "
    "k.column_number AND a.attnum > 0 WHERE k.place <= x.indnkeyatts AND NOT coalesce(a.attnotnull, false))";

// Types that the columns of table $TABLE$ are made of, and that have no default equality: apply compares whole rows by it, and fails where
// there is none.
constexpr const char* kOddTypesSql = R"sql(
WITH RECURSIVE used AS (
  SELECT atttypid AS type FROM pg_attribute WHERE attrelid = $TABLE$ AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
  UNION
  SELECT part FROM used JOIN pg_type t ON t.oid = used.type, LATERAL (
    SELECT t.typbasetype WHERE t.typtype = 'd'
    UNION ALL SELECT t.typelem WHERE t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
    UNION ALL SELECT atttypid FROM pg_attribute WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped) p (part))
SELECT t.oid AS type FROM used JOIN pg_type t ON t.oid = used.type
WHERE t.typtype = 'b' AND t.typsubscript <> 'pg_catalog.array_subscript_handler'::regproc AND NOT EXISTS (
  SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod WHERE m.amname IN ('btree', 'hash') AND o.opcdefault AND (o.opcintype = t.oid
    OR EXISTS (SELECT FROM pg_cast WHERE castsource = t.oid AND casttarget = o.opcintype AND castmethod = 'b' AND castcontext = 'i'))))sql";

std::string odd_types_of(std::string_view table) {
  std::string sql = kOddTypesSql;
  sql.replace(sql.find("$TABLE$"), 7, table);
  return sql;
}

std::string identity_clause(char given, const std::string& index) {
  if (given == 'i') return "USING INDEX " + index;
  return given == 'd' ? "DEFAULT" : given == 'n' ? "NOTHING" : "FULL";
}

// The note first: it reads what the table has, under the lock that the change needs.
std::string giving_sql(const Bare& bare) {
  return fmt::format(
      "LOCK TABLE ONLY {0} IN ACCESS EXCLUSIVE MODE; INSERT INTO midstream.identity (relation, was, given, index) SELECT oid, relreplident, "
      "'{1}', {2}::regclass FROM pg_class WHERE oid = {3}::regclass ON CONFLICT (relation) DO UPDATE SET was = excluded.was, given = "
      "excluded.given, index = excluded.index; ALTER TABLE {0} REPLICA IDENTITY {4}",
      bare.table, bare.given, bare.index.empty() ? "NULL" : quote(bare.index), quote(bare.table), identity_clause(bare.given, bare.index_name));
}

// 'i' without an index is what DROP INDEX leaves: no ALTER TABLE says it.
std::string taking_sql(const std::string& table, const std::string& oid, char was) {
  auto sql = fmt::format("LOCK TABLE ONLY {0} IN ACCESS EXCLUSIVE MODE; ALTER TABLE {0} REPLICA IDENTITY {1}; ", table,
                         identity_clause(was == 'i' ? 'n' : was, ""));
  if (was == 'i') sql += fmt::format("UPDATE pg_catalog.pg_class SET relreplident = 'i' WHERE oid = {}; ", oid);
  return sql + fmt::format("DELETE FROM midstream.identity WHERE relation = {}", oid);
}

// For each type an operator class of ours, which goes with schema midstream; nobody finds its operator by a name of his own. Values are
// the same where they are the same byte for byte: the stream brings them so.
constexpr const char* kComparableSql = R"sql(
DO $body$
DECLARE
  odd record;
BEGIN
  FOR odd IN SELECT DISTINCT o.type, pg_catalog.format_type(o.type, NULL) AS name FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, LATERAL ($ODD$) o
      WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident = 'f'
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'midstream') LOOP
    EXECUTE pg_catalog.format('CREATE FUNCTION midstream.same(%1$s, %1$s) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS '
      '''SELECT pg_catalog.record_image_eq(ROW($1), ROW($2))''', odd.name);
    EXECUTE pg_catalog.format('CREATE OPERATOR midstream.=== (FUNCTION = midstream.same, LEFTARG = %1$s, RIGHTARG = %1$s)', odd.name);
    EXECUTE pg_catalog.format('CREATE OPERATOR CLASS midstream.same_%s DEFAULT FOR TYPE %s USING hash AS OPERATOR 1 midstream.===', odd.type, odd.name);
  END LOOP;
END $body$)sql";

// RESTRICT: a view that hangs on one is named, not dropped.
constexpr const char* kIncomparableSql = R"sql(
DO $body$
DECLARE
  o record;
BEGIN
  FOR o IN SELECT opfname FROM pg_catalog.pg_opfamily WHERE opfnamespace = 'midstream'::regnamespace AND opfname LIKE 'same\_%' LOOP
    EXECUTE pg_catalog.format('DROP OPERATOR FAMILY midstream.%I USING hash', o.opfname);
  END LOOP;
  FOR o IN SELECT pg_catalog.format_type(oprleft, NULL) AS name FROM pg_catalog.pg_operator WHERE oprnamespace = 'midstream'::regnamespace LOOP
    EXECUTE pg_catalog.format('DROP OPERATOR midstream.=== (%1$s, %1$s)', o.name);
    EXECUTE pg_catalog.format('DROP FUNCTION midstream.same(%1$s, %1$s)', o.name);
  END LOOP;
END $body$)sql";

Result<> make_comparable(const Work& work, Session& session) {
  std::string sql = kComparableSql;
  sql.replace(sql.find("$ODD$"), 5, odd_types_of("c.oid"));
  return briefly_locked(work, session, sql);
}

Result<bool> has_notes(const Work& work, Session& session) {
  return TRY(session.run("SELECT to_regclass('midstream.identity') IS NOT NULL", {}, work.context.deadline, work.context.stop)).truth(0, 0);
}

}  // namespace

Result<std::vector<Bare>> tables_without_identity(const Work& work, Session& session) {
  const auto rows = TRY(session.run(
      fmt::format("SELECT t.name, CASE WHEN best.indisprimary THEN 'd' WHEN best.name IS NOT NULL THEN 'i' ELSE 'f' END, CASE WHEN NOT "
                  "best.indisprimary THEN best.name END, best.own_name, pg_table_size(c.oid), CASE WHEN best.name IS NULL THEN (SELECT string_agg(DISTINCT "
                  "format_type(o.type, NULL), ', ') FROM ({2}) o) END FROM ({0}) AS t (name, kind, persistence, oid) JOIN pg_class c ON c.oid = "
                  "t.oid LEFT JOIN LATERAL (SELECT format('%I.%I', n.nspname, i.relname) AS name, quote_ident(i.relname) AS own_name, x.indisprimary FROM pg_index x JOIN pg_class i ON "
                  "i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace WHERE x.indrelid = c.oid AND {1} ORDER BY NOT x.indisprimary, "
                  "x.indnkeyatts, i.relname LIMIT 1) best ON true WHERE kind = 'r' AND persistence = 'p' AND c.relreplident <> 'f' AND NOT EXISTS "
                  "(SELECT FROM pg_index x WHERE x.indrelid = c.oid AND {1} AND ((c.relreplident = 'd' AND x.indisprimary) OR (c.relreplident = 'i' "
                  "AND x.indisreplident))) ORDER BY 1",
                  kTablesSql, kFitSql, odd_types_of("c.oid")),
      {}, work.context.deadline, work.context.stop));
  std::vector<Bare> out;
  for (int i = 0; i < rows.size(); ++i) out.push_back({rows.text(i, 0), rows.text(i, 1)[0], rows.text(i, 2), rows.text(i, 3), rows.number(i, 4), rows.text(i, 5)});
  return out;
}

std::string words_of(const Bare& bare) {
  if (bare.given == 'd') return "gets REPLICA IDENTITY DEFAULT, its primary key, while the move lasts";
  if (bare.given == 'i') return fmt::format("gets REPLICA IDENTITY USING INDEX {} while the move lasts", bare.index);
  return fmt::format(
      "gets REPLICA IDENTITY FULL while the move lasts: each UPDATE or DELETE of one of its rows logs the row as it was, and reads the table "
      "({} KiB now) on the other side{}",
      (bare.bytes + 1023) / 1024, bare.odd_types.empty() ? "" : fmt::format("; {} are compared byte for byte", bare.odd_types));
}

Result<> give_identities(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  for (const auto& bare : TRY(tables_without_identity(work, *session))) {
    CHECK_OK(briefly_locked(work, *session, giving_sql(bare), bare.table));
    work.at("identity.given");
  }
  return make_comparable(work, *session);
}

Result<> take_identities_back(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  if (!TRY(has_notes(work, *session))) return {};
  const auto rows = TRY(session->run(
      "SELECT format('%I.%I', n.nspname, c.relname), c.oid, i.was, c.relreplident = i.given AND (i.given <> 'i' OR coalesce((SELECT indexrelid "
      "FROM pg_index WHERE indrelid = c.oid AND indisreplident), i.index) = i.index) FROM midstream.identity i JOIN pg_class c ON c.oid = "
      "i.relation JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1",
      {}, work.context.deadline, work.context.stop));
  for (int i = 0; i < rows.size(); ++i) {
    if (!rows.truth(i, 3)) continue;
    CHECK_OK(briefly_locked(work, *session, taking_sql(rows.text(i, 0), rows.text(i, 1), rows.text(i, 2)[0]), rows.text(i, 0)));
    work.at("identity.taken");
  }
  return briefly_locked(work, *session, kIncomparableSql);
}

Result<Json> given_identities(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  if (!TRY(has_notes(work, *session))) return Json::array();
  return parse_json(TRY(session->run("SELECT coalesce(jsonb_agg(jsonb_build_array(format('%I.%I', n.nspname, c.relname), i.was, i.given, CASE "
                                     "WHEN x.oid IS NULL THEN '' ELSE format('%I.%I', n.nspname, x.relname) END)), '[]') FROM midstream.identity i JOIN pg_class c ON c.oid = "
                                     "i.relation JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class x ON x.oid = i.index",
                                     {}, work.context.deadline, work.context.stop))
                        .text(0, 0));
}

Result<std::string> note_identities_sql(const Json& given) {
  std::string sql;
  for (const auto& one : given) {
    if (!one.is_array() || one.size() != 4) return corrupt("identities of the other side: not [table, was, given, index]");
    const auto index = one.at(3).get<std::string>();
    sql += fmt::format("INSERT INTO midstream.identity (relation, was, given, index) VALUES ({}, {}, {}, {});\n", quote(one.at(0).get<std::string>()),
                       quote(one.at(1).get<std::string>()), quote(one.at(2).get<std::string>()), index.empty() ? "NULL" : quote(index));
  }
  return sql;
}

}  // namespace midstream::postgres
