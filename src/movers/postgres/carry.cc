#include "movers/postgres/carry.h"

#include <fmt/format.h>

namespace midstream::postgres {

namespace {

// In the transaction that carries: this side owns nothing, and cannot come to own anything before it is over.
constexpr const char* kFollowerSql =
    "BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; DO $body$ BEGIN PERFORM FROM "
    "midstream.owner WHERE state IN ('standby', 'yielded') FOR SHARE; IF NOT FOUND THEN RAISE EXCEPTION 'midstream: this side "
    "does not follow' USING ERRCODE = '55006'; END IF; END $body$; CREATE TABLE IF NOT EXISTS midstream.carried (turn bigint, "
    "kind text, name text, digest text NOT NULL, PRIMARY KEY (turn, kind, name))";

// Of the large objects above $1 up to $2: their content without what is only room (pages of zeros may be there or not), their
// length, owner, rights, comment and labels.
constexpr const char* kObjectsSql = R"sql(
SELECT m.oid, hashtextextended(ROW(r.rolname, (SELECT string_agg(format('%s %s %s', g.rolname, a.privilege_type, a.is_grantable), ','
      ORDER BY g.rolname COLLATE "C", a.privilege_type COLLATE "C") FROM aclexplode(m.lomacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
      WHERE a.grantee <> m.lomowner), obj_description(m.oid, 'pg_largeobject'),
    (SELECT string_agg(provider || ' ' || label, ',' ORDER BY provider) FROM pg_seclabel WHERE classoid = 'pg_largeobject'::regclass AND objoid = m.oid),
    (SELECT pageno || ' ' || octet_length(data) FROM pg_largeobject p WHERE p.loid = m.oid ORDER BY pageno DESC LIMIT 1),
    (SELECT sum(hashtextextended(pageno || ' ' || md5(rtrim(data, '\x00'::bytea)), 0)) FROM pg_largeobject p WHERE p.loid = m.oid
      AND rtrim(data, '\x00'::bytea) <> ''))::text COLLATE "C", 1)::text
FROM pg_largeobject_metadata m JOIN pg_roles r ON r.oid = m.lomowner WHERE m.oid > $1::oid AND ($2::oid = 0 OR m.oid <= $2::oid)
ORDER BY m.oid)sql";

constexpr const char* kUntilSql =
    "SELECT coalesce(least((SELECT max(loid) FROM (SELECT loid FROM pg_largeobject WHERE loid > $1::oid ORDER BY loid, pageno LIMIT "
    "8192) p), (SELECT max(oid) FROM (SELECT oid FROM pg_largeobject_metadata WHERE oid > $1::oid ORDER BY oid LIMIT 1000) m)), 0)";

// `act` in a transaction of the follower's.
template <class Act>
Result<> as_follower(const Work& work, Session& session, Act act) {
  const auto& context = work.context;
  auto done = session.run(kFollowerSql, {}, context.deadline, context.stop);
  Result<> acted = done ? act() : Result<>(std::unexpected(done.error()));
  if (acted) {
    done = session.run("COMMIT", {}, context.deadline, context.stop);
    if (!done) acted = std::unexpected(done.error());
  }
  if (!acted) (void)session.query("ROLLBACK", {}, Deadline::in(Millis(2'000)), {});
  return acted;
}

Result<> note(const Work& work, Session& session, const char* kind, const std::string& name, const std::string& digest) {
  CHECK_OK(session.run("INSERT INTO midstream.carried SELECT turn, $1, $2, $3 FROM midstream.owner ON CONFLICT (turn, kind, name) "
                       "DO UPDATE SET digest = excluded.digest",
                       {kind, name, digest}, work.context.deadline, work.context.stop));
  return {};
}

Result<Json> listed(const Work& work, Session& session) {
  const auto rows = TRY(session.run("SELECT midstream.sequences()", {}, work.context.deadline, work.context.stop));
  return parse_json(rows.text(0, 0));
}

std::string oid_text(std::int64_t oid) { return std::to_string(oid); }

Result<> write_piece(const Work& work, Session& session, const Json& args, const std::string& oid) {
  const auto& context = work.context;
  const auto run = [&](const std::string& sql, const Params& params = {}) -> Result<> {
    CHECK_OK(session.run(sql, params, context.deadline, context.stop));
    return {};
  };
  const auto offset = TRY(get_int(args, "offset"));
  if (offset == 0) {
    CHECK_OK(run("SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = $1::oid", {oid}));
    CHECK_OK(run("SELECT lo_create($1::oid)", {oid}));
  }
  const auto data = TRY(get_string(args, "data"));
  CHECK_OK(run("SELECT lo_put($1::oid, $2::bigint, decode($3, 'base64'))", {oid, std::to_string(offset), data}));
  if (get_bool_or(args, "more", false)) return {};
  CHECK_OK(run(fmt::format("ALTER LARGE OBJECT {} OWNER TO {}", oid, ident(TRY(get_string(args, "owner"))))));
  for (const auto& one : args.value("acl", Json::array())) {
    const auto to = one.at(0).get<std::string>();
    const auto right = one.at(1).get<std::string>();
    if (right != "SELECT" && right != "UPDATE") return corrupt(fmt::format("large object {}: a right '{}'", oid, right));
    CHECK_OK(run(fmt::format("GRANT {} ON LARGE OBJECT {} TO {}{}", right, oid, to.empty() ? "PUBLIC" : ident(to),
                             one.at(2).get<bool>() ? " WITH GRANT OPTION" : "")));
  }
  CHECK_OK(run("SELECT midstream.describe_object($1::oid, $2::jsonb)", {oid, args.value("about", Json::object()).dump()}));
  return note(work, session, "object", oid, TRY(get_string(args, "digest")));
}

}  // namespace

Result<Json> sequences_here(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  auto list = TRY(listed(work, *session));
  return Json{{"list", std::move(list)}};
}

Result<Json> take_sequences(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  Json after;
  CHECK_OK(as_follower(work, *session, [&]() -> Result<> {
    const auto noted = TRY(session->run("SELECT name, digest FROM midstream.carried JOIN midstream.owner USING (turn) WHERE kind = 'sequence'", {},
                                        context.deadline, context.stop));
    std::map<std::string, std::string> known;
    for (int i = 0; i < noted.size(); ++i) known[noted.text(i, 0)] = noted.text(i, 1);
    for (const auto& one : args.value("list", Json::array())) {
      const auto name = one.at(0).get<std::string>();
      const auto digest = one.dump();
      if (const auto found = known.find(name); found != known.end() && found->second == digest) continue;
      const auto set = TRY(session->run("SELECT setval(to_regclass($1), $2, $3) WHERE to_regclass($1) IS NOT NULL",
                                        {name, one.at(1).dump(), one.at(2).get<bool>() ? "true" : "false"}, context.deadline, context.stop));
      if (set.size() > 0) CHECK_OK(note(work, *session, "sequence", name, digest));
    }
    after = TRY(listed(work, *session));
    return {};
  }));
  return Json{{"list", std::move(after)}};
}

Result<Json> objects_here(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto after = oid_text(TRY(get_int(args, "after")));
  auto until = get_int_or(args, "until", -1);
  if (until < 0) until = TRY(session->run(kUntilSql, {after}, context.deadline, context.stop)).number(0, 0);
  const auto noted_here = TRY(session->run("SELECT to_regclass('midstream.carried') IS NOT NULL", {}, context.deadline, context.stop));
  std::map<std::string, std::string> known;
  if (noted_here.truth(0, 0)) {
    const auto noted = TRY(session->run("SELECT name, digest FROM midstream.carried JOIN midstream.owner USING (turn) WHERE kind = 'object' AND "
                                        "name::bigint > $1::bigint AND ($2::bigint = 0 OR name::bigint <= $2::bigint)",
                                        {after, oid_text(until)}, context.deadline, context.stop));
    for (int i = 0; i < noted.size(); ++i) known[noted.text(i, 0)] = noted.text(i, 1);
  }
  const auto rows = TRY(session->run(kObjectsSql, {after, oid_text(until)}, context.deadline, context.stop));
  Json list = Json::array();
  for (int i = 0; i < rows.size(); ++i) {
    const auto found = known.find(rows.text(i, 0));
    list.push_back({rows.number(i, 0), rows.text(i, 1), found == known.end() ? "" : found->second});
    if (found != known.end()) known.erase(found);
  }
  for (const auto& [oid, digest] : known) list.push_back({std::stoll(oid), "", digest});  // carried once, and gone
  return Json{{"list", std::move(list)}, {"until", until}};
}

Result<Json> object_piece(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto oid = oid_text(TRY(get_int(args, "oid")));
  const auto offset = TRY(get_int(args, "offset"));
  const auto rows = session->query(
      "SELECT encode(lo_get(m.oid, $2::bigint, $3::int), 'base64'), octet_length(lo_get(m.oid, $2::bigint, $3::int)), r.rolname, "
      "(SELECT coalesce(jsonb_agg(jsonb_build_array(coalesce(g.rolname, ''), a.privilege_type, a.is_grantable)), '[]') FROM "
      "aclexplode(m.lomacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee WHERE a.grantee <> m.lomowner), "
      "midstream.about_object(m.oid) FROM pg_largeobject_metadata m JOIN pg_roles r ON r.oid = m.lomowner WHERE m.oid = $1::oid",
      {oid, std::to_string(offset), std::to_string(kObjectPiece)}, context.deadline, context.stop);
  if (!rows && rows.error().sqlstate == "42704") return Json{{"gone", true}};
  if (!rows) return std::unexpected(to_error(rows.error(), "large object " + oid));
  if (rows->size() == 0) return Json{{"gone", true}};
  auto acl = TRY(parse_json(rows->text(0, 3)));
  auto about = TRY(parse_json(rows->text(0, 4)));
  return Json{{"data", rows->text(0, 0)},
              {"more", rows->number(0, 1) == kObjectPiece},
              {"owner", rows->text(0, 2)},
              {"acl", std::move(acl)},
              {"about", std::move(about)}};
}

Result<Json> take_object(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto oid = oid_text(TRY(get_int(args, "oid")));
  CHECK_OK(as_follower(work, *session, [&]() -> Result<> {
    if (!get_bool_or(args, "gone", false)) return write_piece(work, *session, args, oid);
    CHECK_OK(session->run("SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = $1::oid", {oid}, context.deadline, context.stop));
    CHECK_OK(session->run("DELETE FROM midstream.carried WHERE kind = 'object' AND name = $1", {oid}, context.deadline, context.stop));
    return {};
  }));
  return Json::object();
}

}  // namespace midstream::postgres
