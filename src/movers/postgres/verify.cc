#include "movers/postgres/verify.h"

#include <fmt/format.h>

#include <map>

#include "base/text.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/switch.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

namespace {

constexpr int kRounds = 3;      // without a lock
constexpr int kPins = 10;       // with one, where others may be in the way
constexpr Millis kPinned(300);  // the longest that a writer is kept waiting

// The columns that tell rows apart, as one text; a table with REPLICA IDENTITY FULL is told apart by all of
// them.
Result<std::string> key_of(const Work& work, Session& session, const std::string& table) {
  const auto rows = TRY(session.run(
      "SELECT string_agg(format('midstream_row.%I', a.attname), ', ' ORDER BY a.attnum) FROM pg_class c JOIN "
      "pg_index i ON "
      "i.indrelid = c.oid AND ((c.relreplident <> 'i' AND i.indisprimary) OR (c.relreplident = 'i' AND "
      "i.indisreplident)) "
      "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) WHERE c.oid = $1::regclass",
      {table}, work.context.deadline, work.context.stop));
  return rows.is_null(0, 0) ? std::string("midstream_row::text") : fmt::format("ROW({})::text", rows.text(0, 0));
}

std::string hashed_rows(const std::string& table, const std::string& key) {
  return fmt::format(
      "SELECT {1} AS k, hashtextextended({1} COLLATE \"C\", 0) & 63 AS b, "
      "hashtextextended(midstream_row::text COLLATE \"C\", 1)::numeric AS h FROM ONLY {0} midstream_row",
      table, key);
}

struct Comparison {
  const Work& work;
  const std::string& database;
  bool owner_is_old;

  Result<Json> side(bool owner, std::string_view verb, Json args) const {
    args["database"] = database;
    const bool old_side = owner == owner_is_old;
    return old_side == work.on_old ? answer(work, verb, args) : work.ask(verb, std::move(args));
  }

  // Keys of `keys` (or of whole buckets) that differ between what the owner had and what the follower has
  // once the stream has passed; and those among them that did not change on the owner meanwhile.
  struct Look {
    Json differing = Json::array();
    Json still = Json::array();
  };
  Result<Look> look(const Json& args) const {
    const auto before = TRY(side(true, "rows", args));
    CHECK_OK(side(true, "settle_lag", Json::object()));
    const auto there = TRY(side(false, "rows", args));
    const auto after = TRY(side(true, "rows", args));
    Look look;
    const auto judge = [&](const std::string& key) {
      const auto of = [&](const Json& rows) { return get_string_or(rows, key, ""); };
      if (of(before) == of(there)) return;
      look.differing.push_back(key);
      if (of(before) == of(after)) look.still.push_back(key);
    };
    for (const auto& [key, hash] : before.items()) judge(key);
    for (const auto& [key, hash] : there.items())
      if (!before.contains(key)) judge(key);
    return look;
  }

  // Keys that really differ, and the rows that were compared.
  Result<Json> table(const std::string& name, std::int64_t& rows) const {
    const auto mine = TRY(side(true, "buckets", {{"table", name}}));
    CHECK_OK(side(true, "settle_lag", Json::object()));
    const auto theirs = TRY(side(false, "buckets", {{"table", name}}));
    rows += get_int_or(mine, "rows", 0);
    Json buckets = Json::array();
    for (int bucket = 0; bucket < 64; ++bucket) {
      const auto key = std::to_string(bucket);
      if (get_string_or(mine["buckets"], key, "") != get_string_or(theirs["buckets"], key, ""))
        buckets.push_back(bucket);
    }
    if (buckets.empty()) return Json::array();
    return sort_out(name, TRY(look({{"table", name}, {"buckets", buckets}})).differing);
  }

  Result<Json> sort_out(const std::string& name, Json candidates) const {
    std::map<std::string, int> strikes;
    for (int round = 0; !candidates.empty() && round < kRounds; ++round) {
      const auto found = TRY(look({{"table", name}, {"keys", candidates}}));
      Json real = Json::array();
      for (const auto& key : found.still)
        if (++strikes[key.get<std::string>()] >= 2) real.push_back(key);
      // Those that stand still have been seen twice: nothing on its way can mend them.
      if (!real.empty() && real.size() == found.differing.size()) return real;
      candidates = found.differing;
    }
    for (int pin = 0; !candidates.empty(); ++pin) {
      const auto found = side(true, "pinned_rows", {{"table", name}, {"keys", candidates}});
      if (found) return found->value("differing", Json::array());
      if (found.error().kind != ErrorKind::retry || pin >= kPins) return found;
      CHECK_OK(wait_a_bit(Millis(50), work.context.deadline, work.context.stop, "busy rows"));
    }
    return candidates;
  }
};

}  // namespace

Result<Json> bucket_hashes(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(work.session(database));
  const auto table = TRY(get_string(args, "table"));
  const auto key = TRY(key_of(work, *session, table));
  const auto rows = TRY(session->run(
      fmt::format("SELECT b, count(*), count(*) || ':' || sum(h) FROM ({}) x GROUP BY b", hashed_rows(table, key)), {},
      work.context.deadline, work.context.stop));
  Json out{{"rows", 0}, {"buckets", Json::object()}};
  std::int64_t count = 0;
  for (int i = 0; i < rows.size(); ++i) {
    count += rows.number(i, 1);
    out["buckets"][rows.text(i, 0)] = rows.text(i, 2);
  }
  out["rows"] = count;
  return out;
}

Result<Json> row_hashes(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(work.session(database));
  const auto table = TRY(get_string(args, "table"));
  const auto key = TRY(key_of(work, *session, table));
  const bool by_key = args.contains("keys");
  const auto filter = by_key ? "k IN (SELECT jsonb_array_elements_text($1::jsonb))"
                             : "b IN (SELECT jsonb_array_elements_text($1::jsonb)::int)";
  const auto rows = TRY(session->run(fmt::format("SELECT k, count(*) || ':' || sum(h) FROM ({}) x WHERE {} GROUP BY k",
                                                 hashed_rows(table, key), filter),
                                     {(by_key ? args.at("keys") : args.at("buckets")).dump()}, work.context.deadline,
                                     work.context.stop));
  Json out = Json::object();
  for (int i = 0; i < rows.size(); ++i) out[rows.text(i, 0)] = rows.text(i, 1);
  return out;
}

Result<Json> pinned_rows(const Work& work, const std::string& database, const Json& args) {
  auto holder = TRY(work.session(database));
  auto marker = TRY(work.session(database));
  const auto table = TRY(get_string(args, "table"));
  const auto key = TRY(key_of(work, *holder, table));
  const auto deadline = work.context.deadline.sooner(kPinned);
  const auto& stop = work.context.stop;
  const auto compare = [&]() -> Result<Json> {
    CHECK_OK(holder->run("BEGIN", {}, deadline, stop));
    CHECK_OK(holder->run("SET LOCAL lock_timeout = '100ms'", {}, deadline, stop));
    const auto rows =
        TRY(holder->run(fmt::format("WITH held AS MATERIALIZED (SELECT {1} AS k, "
                                    "hashtextextended(midstream_row::text COLLATE \"C\", 1)::numeric "
                                    "AS h FROM ONLY {0} midstream_row WHERE {1} IN (SELECT "
                                    "jsonb_array_elements_text($1::jsonb)) FOR SHARE OF "
                                    "midstream_row) SELECT k, count(*) || ':' || sum(h) FROM held GROUP BY k",
                                    table, key),
                        {args.at("keys").dump()}, deadline, stop));
    const auto position = TRY(barrier_position(work, *marker));
    CHECK_OK(wait_confirmed(work, *marker, work.outgoing(database), position, deadline));
    const auto theirs = TRY(work.ask("rows", {{"database", database}, {"table", table}, {"keys", args.at("keys")}}));
    Json mine = Json::object();
    for (int i = 0; i < rows.size(); ++i) mine[rows.text(i, 0)] = rows.text(i, 1);
    Json differing = Json::array();
    for (const auto& one : args.at("keys")) {
      const auto name = one.get<std::string>();
      if (get_string_or(mine, name, "") != get_string_or(theirs, name, "")) differing.push_back(name);
    }
    return Json{{"differing", std::move(differing)}};
  };
  auto out = compare();
  (void)holder->query("ROLLBACK", {}, Deadline::in(Millis(2000)), {});
  return out;
}

Result<Json> report_promptly(const Work& work, const std::string& database) {
  CHECK_OK(enable_subscription(work, database));
  return Json::object();
}

Result<Json> settle_lag(const Work& work, const std::string& database, const Json&) {
  auto session = TRY(work.session(database));
  const auto position = TRY(barrier_position(work, *session));
  CHECK_OK(wait_confirmed(work, *session, work.outgoing(database), position, work.context.deadline));
  return Json{{"position", position}};
}

Result<Json> run_verify(const Work& work) {
  const auto start = boot_now();
  std::int64_t rows = 0;
  std::int64_t tables = 0;
  std::vector<std::string> bad;
  for (const auto& database : work.plan.databases) {
    const auto title = TRY(read_title(work, database));
    const Comparison compare{work, database, (title.state == "owner") == work.on_old};
    CHECK_OK(compare.side(false, "report_promptly", Json::object()));
    const auto names =
        TRY(work.run(database, fmt::format("SELECT name FROM ({}) AS t (name, kind, persistence, oid) WHERE "
                                           "kind = 'r' AND persistence = 'p'",
                                           kTablesSql)))
            .column(0);
    for (const auto& name : names) {
      ++tables;
      const auto differing = TRY(compare.table(name, rows));
      if (differing.empty()) continue;
      std::vector<std::string> keys;
      for (const auto& key : differing)
        if (keys.size() < 10) keys.push_back(printable(key.get<std::string>().substr(0, 60)));
      bad.push_back(fmt::format("{}: {} rows, with keys {}", name, differing.size(), join(keys, " ")));
    }
  }
  if (!bad.empty())
    return refused("both sides differ in " + join(bad, "; "),
                   "undo follow and run it again, and find who wrote on new");
  const auto ms = std::chrono::duration_cast<Millis>(boot_now() - start).count();
  return Json{{"rows", rows}, {"tables", tables}, {"ms", ms}};
}

}  // namespace midstream::postgres
