#include "movers/postgres/digests.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "movers/postgres/compare.h"
#include "movers/postgres/digest_sql.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/stream.h"

namespace midstream::postgres {

namespace {

constexpr Millis kPinned(300);  // the longest that a writer is kept waiting

// A unique index over columns that are never NULL, compared as the type itself does: the primary key where it is one. Both
// sides walk it in the same order, or near enough: where orders differ (another collation version) ranges overlap, and rows
// are seen twice rather than not at all.
constexpr const char* kSubjectsSql = R"sql(
SELECT t.name, coalesce((SELECT to_jsonb(array_agg(a.attname ORDER BY k.at)) FROM
    (SELECT i.* FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
     WHERE i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
       AND m.amname = 'btree' AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) n
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[n] JOIN pg_opclass o ON o.oid = i.indclass[n]
         WHERE NOT a.attnotnull OR i.indoption[n] <> 0 OR i.indcollation[n] <> a.attcollation OR NOT o.opcdefault
           OR o.opcnamespace <> 'pg_catalog'::regnamespace)
     ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, x.relname LIMIT 1) i,
    generate_series(0, i.indnkeyatts - 1) AS k (at) JOIN pg_attribute a ON true
    WHERE a.attrelid = t.oid AND a.attnum = i.indkey[k.at]), '[]'), greatest(c.reltuples, 0)::bigint, pg_table_size(t.oid),
  getdatabaseencoding() = pg_client_encoding() AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0
    AND NOT a.attisdropped AND a.atttypid NOT IN ()sql"
    // Types whose binary form is one for each value that text can tell from others, and the same on every server. Not the
    // floating ones (NaN has many forms), nor what holds numbers of catalogs' rows.
    "'bool'::regtype, 'bytea'::regtype, 'name'::regtype, 'int8'::regtype, 'int2'::regtype, 'int4'::regtype, 'text'::regtype, "
    "'json'::regtype, 'bpchar'::regtype, 'varchar'::regtype, 'date'::regtype, 'time'::regtype, 'timestamp'::regtype, "
    "'timestamptz'::regtype, 'interval'::regtype, 'timetz'::regtype, 'bit'::regtype, 'varbit'::regtype, 'numeric'::regtype, "
    "'uuid'::regtype, 'jsonb'::regtype, 'inet'::regtype, 'cidr'::regtype, 'macaddr'::regtype, 'money'::regtype)) FROM (";

constexpr const char* kSubjectsEnd =
    ") AS t (name, kind, persistence, oid) JOIN pg_class c ON c.oid = t.oid WHERE kind = 'r' AND persistence = 'p'";

Error while_asked(Error error, const std::string& table) {
  error.what = fmt::format("{}: {}", table, error.what);
  return error;
}

// A session to read in. Ranges are small beside their tables: without statistics (a table that has just been copied) the
// planner may not know, and would read the whole table for each. And nothing here takes a second core from anybody.
Result<Pool::Loan> reading(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  const auto title = TRY(session->run(
      "SELECT state, set_config('max_parallel_workers_per_gather', '0', false), set_config('enable_seqscan', 'off', false), "
      "set_config('enable_sort', 'off', false) FROM midstream.owner",
      {}, work.context.deadline, work.context.stop));
  if (title.size() == 0) return refused(fmt::format("{} has no title on {}", database, work.context.host));
  if (title.text(0, 0) == "closing")
    return retry(fmt::format("{} is being handed over: nothing is compared meanwhile", database));
  return session;
}

Result<Subject> subject_of(const Work& work, Session& session, const Json& args) {
  Subject subject;
  subject.table = TRY(get_string(args, "table"));
  subject.exact = get_bool_or(args, "exact", false);
  const auto rows = TRY(session.run(
      "SELECT attname, quote_ident(attname), format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = "
      "to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attname COLLATE \"C\"",
      {subject.table}, work.context.deadline, work.context.stop));
  std::map<std::string, Subject::Column> by_name;
  for (int i = 0; i < rows.size(); ++i) {
    subject.columns.push_back(rows.text(i, 1));
    by_name[rows.text(i, 0)] = {rows.text(i, 1), rows.text(i, 2)};
  }
  for (const auto& name : TRY(get_strings(args, "key"))) {
    const auto found = by_name.find(name);
    if (found == by_name.end())
      return refused(fmt::format("{} has no column {} on {}", subject.table, printable(name), work.context.host));
    subject.key.push_back(found->second);
  }
  return subject;
}

Result<std::optional<Key>> key_from(const Json& args, std::string_view field) {
  if (!args.contains(field) || args.at(field).is_null()) return std::nullopt;
  return TRY(get_strings(args, field));
}

Result<Range> range_from(const Json& args) {
  Range range;
  range.after = TRY(key_from(args, "after"));
  range.until = TRY(key_from(args, "until"));
  return range;
}

struct Slice {
  Pages pages;
  bool more = false;
};
Result<Slice> slice_from(const Work& work, Session& session, const Subject& subject, const Json& args) {
  Slice slice{{TRY(get_int(args, "first")), std::clamp<std::int64_t>(TRY(get_int(args, "count")), 1, 1 << 20)}};
  const auto pages =
      TRY(session.run("SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::int", {subject.table},
                      work.context.deadline, work.context.stop));
  slice.more = slice.pages.first + slice.pages.count < pages.number(0, 0);
  return slice;
}

Result<Rows> run(const Work& work, Session& session, const std::string& table, const std::string& sql, const Params& params = {}) {
  auto rows = session.run(sql, params, work.context.deadline, work.context.stop);
  if (!rows) return std::unexpected(while_asked(rows.error(), table));
  return rows;
}

Result<Json> row_digests(const Rows& rows) {
  Json out = Json::object();
  for (int i = 0; i < rows.size(); ++i) {
    const auto digest = TRY(digest_from(rows.number(i, 1), rows.text(i, 2)));
    out[rows.text(i, 0)] = fmt::format("{}:{}", digest.rows, digest.sum);
  }
  return out;
}

Result<std::vector<int>> wanted_from(const Json& args) {
  std::vector<int> wanted;
  for (const auto& one : args.value("wanted", Json::array())) {
    if (!one.is_number_integer()) return corrupt("a bucket that is asked for is no number");
    wanted.push_back(one.get<int>());
  }
  if (wanted.empty()) return corrupt("no bucket is asked for");
  return wanted;
}

}  // namespace

Result<Json> list_subjects(const Work& work, const std::string& database) {
  auto session = TRY(reading(work, database));
  const auto rows = TRY(run(work, *session, "the tables", std::string(kSubjectsSql) + kTablesSql + kSubjectsEnd));
  Json out = Json::array();
  for (int i = 0; i < rows.size(); ++i) {
    auto key = TRY(parse_json(rows.text(i, 1)));
    out.push_back({{"table", rows.text(i, 0)}, {"key", std::move(key)}, {"rows", rows.number(i, 2)}, {"bytes", rows.number(i, 3)}, {"exact", rows.text(i, 4) == "t"}});
  }
  return Json{{"tables", std::move(out)}};
}

Result<Json> walk_keys(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(reading(work, database));
  const auto subject = TRY(subject_of(work, *session, args));
  const auto after = TRY(key_from(args, "after"));
  const auto count = TRY(get_int(args, "rows"));
  const auto rows = TRY(run(work, *session, subject.table, walk_sql(subject, after, count)));
  if (rows.size() == 0) return Json{{"until", nullptr}};
  Json key = Json::array();
  for (std::size_t i = 0; i < subject.key.size(); ++i) key.push_back(rows.text(0, static_cast<int>(i)));
  return Json{{"until", std::move(key)}};
}

Result<Json> digest_range(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(reading(work, database));
  const auto subject = TRY(subject_of(work, *session, args));
  const auto rows = TRY(run(work, *session, subject.table, digest_sql(subject, TRY(range_from(args)))));
  const auto digest = TRY(digest_from(rows.number(0, 0), rows.text(0, 1)));
  return Json{{"digest", to_json(digest)}};
}

Result<Json> digest_buckets(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(reading(work, database));
  const auto subject = TRY(subject_of(work, *session, args));
  Slice slice;
  std::string sql;
  if (subject.key.empty()) {
    slice = TRY(slice_from(work, *session, subject, args));
    sql = buckets_sql(subject, slice.pages, kPageBuckets);
  } else {
    sql = buckets_sql(subject, TRY(range_from(args)), kBuckets);
  }
  const auto rows = TRY(run(work, *session, subject.table, sql));
  Buckets buckets;
  for (int i = 0; i < rows.size(); ++i)
    buckets[static_cast<int>(rows.number(i, 0))] = TRY(digest_from(rows.number(i, 1), rows.text(i, 2)));
  return Json{{"buckets", to_json(buckets)}, {"more", slice.more}};
}

Result<Json> digest_rows(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(reading(work, database));
  const auto subject = TRY(subject_of(work, *session, args));
  const auto wanted = TRY(wanted_from(args));
  Slice slice;
  std::string sql;
  if (subject.key.empty()) {
    slice = TRY(slice_from(work, *session, subject, args));
    sql = rows_sql(subject, slice.pages, kPageBuckets, wanted);
  } else {
    sql = rows_sql(subject, TRY(range_from(args)), kBuckets, wanted);
  }
  const auto rows = TRY(run(work, *session, subject.table, sql));
  auto digests = TRY(row_digests(rows));
  return Json{{"rows", std::move(digests)}, {"more", slice.more}};
}

Result<Json> digest_keys(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(reading(work, database));
  const auto subject = TRY(subject_of(work, *session, args));
  Slice slice;
  if (subject.key.empty()) slice = TRY(slice_from(work, *session, subject, args));
  const auto sql = subject.key.empty() ? look_sql(subject, slice.pages) : look_sql(subject, false);
  const auto rows = TRY(run(work, *session, subject.table, sql, {args.value("keys", Json::array()).dump()}));
  auto digests = TRY(row_digests(rows));
  return Json{{"rows", std::move(digests)}, {"more", slice.more}};
}

Result<Json> name_row(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(reading(work, database));
  const auto subject = TRY(subject_of(work, *session, args));
  const auto slice = TRY(slice_from(work, *session, subject, args));
  const auto hash = TRY(get_string(args, "hash"));
  const auto rows = TRY(run(work, *session, subject.table, name_sql(subject, slice.pages), {hash}));
  return Json{{"name", rows.size() > 0 ? Json(rows.text(0, 0)) : Json(nullptr)}, {"more", slice.more}};
}

Result<Json> pinned_rows(const Work& work, const std::string& database, const Json& args) {
  auto holder = TRY(reading(work, database));
  auto marker = TRY(work.session(database));
  const auto subject = TRY(subject_of(work, *holder, args));
  const auto& keys = args.at("keys");
  if (subject.key.empty() || keys.size() > kMostPinned) return refused("only few rows at once, told apart by a key, can be held");
  const auto deadline = work.context.deadline.sooner(kPinned);
  const auto& stop = work.context.stop;
  const auto compare = [&]() -> Result<Json> {
    CHECK_OK(holder->run("BEGIN", {}, deadline, stop));
    CHECK_OK(holder->run("SET LOCAL lock_timeout = '100ms'", {}, deadline, stop));
    const auto mine = TRY(row_digests_from_json(TRY(row_digests(TRY(holder->run(look_sql(subject, true), {keys.dump()}, deadline, stop))))));
    const auto position = TRY(barrier_position(work, *marker));
    CHECK_OK(wait_confirmed(work, *marker, work.outgoing(database), position, deadline));
    auto asked = args;
    asked["database"] = database;
    const auto answer = TRY(work.ask("digest_keys", std::move(asked)));
    const auto theirs = TRY(row_digests_from_json(answer.value("rows", Json())));
    return Json{{"differing", differing(mine, theirs)}};
  };
  auto out = compare();
  (void)holder->query("ROLLBACK", {}, Deadline::in(Millis(2000)), {});
  return out;
}

Result<Json> report_promptly(const Work& work, const std::string& database) {
  CHECK_OK(enable_subscription(work, database));
  return Json::object();
}

Result<Json> settle_lag(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  const auto position = TRY(barrier_position(work, *session));
  CHECK_OK(wait_confirmed(work, *session, work.outgoing(database), position, work.context.deadline));
  return Json{{"position", position}};
}

}  // namespace midstream::postgres
