#include "lab/checker/collect.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <vector>

#include "base/json.h"
#include "base/text.h"
#include "lab/checker/collection.h"
#include "lab/workload/pq.h"
#include "lab/workload/sha256.h"

namespace midstream::lab {
namespace {

class Collector {
 public:
  Collector(PgConnection& connection, std::ostream& out) : connection_(connection), out_(out) {}

  Result<> run() {
    CHECK_OK(query("begin isolation level repeatable read read only"));
    // Sequential scans: what is wrong with an index must not hide a row.
    CHECK_OK(query("set local enable_indexscan = off"));
    CHECK_OK(query("set local enable_indexonlyscan = off"));
    CHECK_OK(query("set local enable_bitmapscan = off"));
    const auto tracked = TRY(head());
    CHECK_OK(rows());
    CHECK_OK(runs());
    if (tracked) CHECK_OK(commits());
    CHECK_OK(query("rollback"));
    out_ << end_line(lines_) << "\n";
    return {};
  }

 private:
  Result<Rows> query(const std::string& sql) { return connection_.exec(sql, {}, Deadline::in(Millis(60000)), {}); }
  void put(const std::string& line) {
    out_ << line << "\n";
    ++lines_;
  }

  Result<bool> head() {
    const auto found =
        TRY(query("select (select system_identifier::text from pg_control_system()), current_database(), "
                  "current_setting('track_commit_timestamp')"));
    DatabaseCollection collection;
    collection.system = found.at(0, 0);
    collection.name = found.at(0, 1);
    collection.commit_timestamps = found.at(0, 2) == "on";
    put(database_line(collection));
    return collection.commit_timestamps;
  }

  Result<> rows() {
    const auto found =
        TRY(query("with l as (select order_id, jsonb_agg(item order by line) items from order_lines group by 1), "
                  "i as (select order_id, count(*) n from invoices group by 1) "
                  "select o.key, o.id, o.customer, o.amount, coalesce(l.items, '[]'), coalesce(i.n, 0) "
                  "from orders o left join l on l.order_id = o.id left join i on i.order_id = o.id order by "
                  "o.id, o.key"));
    for (std::size_t r = 0; r < found.rows.size(); ++r) {
      OrderRow row;
      row.key = found.at(r, 0);
      row.id = std::stoll(found.at(r, 1));
      row.customer = found.at(r, 2);
      row.amount = std::stoll(found.at(r, 3));
      row.invoices = std::stoll(found.at(r, 5));
      const auto items = TRY(parse_json(found.at(r, 4)));
      for (const auto& item : items) row.items.push_back(item.is_string() ? item.get<std::string>() : std::string());
      put(to_line(row));
    }
    return {};
  }

  Result<> runs() {
    const auto found = TRY(query("select n, host from worker_runs order by n"));
    for (std::size_t r = 0; r < found.rows.size(); ++r) put(to_line(RunRow{std::stoll(found.at(r, 0)), found.at(r, 1)}));
    return {};
  }

  // Unlogged tables are left out: no replication carries them, so whoever moves them writes them locally, and
  // so are midstream's own schemas, which both sides write.
  Result<> commits() {
    const auto tables =
        TRY(query("select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid "
                  "= c.relnamespace "
                  "where c.relkind = 'r' and c.relpersistence = 'p' and n.nspname !~ "
                  "'^(pg_|information_schema$|midstream)' "
                  "order by 1"));
    std::vector<Commit> all;
    for (std::size_t t = 0; t < tables.rows.size(); ++t) {
      const auto found = TRY(query(
          fmt::format("select x.xmin::text, (extract(epoch from c.timestamp) * 1000000)::bigint, c.roident::bigint "
                      "from (select distinct xmin from {}) x, lateral pg_xact_commit_timestamp_origin(x.xmin) c "
                      "where c.timestamp is not null",
                      tables.at(t, 0))));
      for (std::size_t r = 0; r < found.rows.size(); ++r) {
        all.push_back(Commit{std::stoll(found.at(r, 0)), std::stoll(found.at(r, 1)), std::stoll(found.at(r, 2))});
      }
    }
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    for (const auto& commit : all) put(to_line(commit));
    return {};
  }

  PgConnection& connection_;
  std::ostream& out_;
  std::size_t lines_ = 0;
};

bool is_unfinished(const std::string& name) { return name.starts_with('.') && name.ends_with(".tmp"); }

}  // namespace

Result<> collect_database(const std::string& conninfo, std::ostream& out) {
  auto connection = TRY(PgConnection::connect(conninfo, {}, Deadline::in(Millis(10000)), {}));
  return Collector(connection, out).run();
}

Result<> collect_files(const std::filesystem::path& directory, std::ostream& out) {
  std::error_code error;
  auto walk = std::filesystem::recursive_directory_iterator(directory, error);
  std::vector<std::filesystem::path> paths;
  for (; !error && walk != std::filesystem::recursive_directory_iterator(); walk.increment(error)) {
    const auto status = walk->symlink_status(error);
    if (error) break;
    // What a move keeps beside the files while it lasts.
    if (walk.depth() == 0 && walk->path().filename() == ".midstream") walk.disable_recursion_pending();
    if (std::filesystem::is_regular_file(status) && !is_unfinished(walk->path().filename()))
      paths.push_back(walk->path());
  }
  if (error) return errno_failure(fmt::format("{} cannot be read", printable(directory.native())), error.value());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    FileEntry entry;
    entry.path = path.lexically_relative(directory);
    entry.size = static_cast<std::int64_t>(std::filesystem::file_size(path, error));
    if (error) return errno_failure(fmt::format("{} cannot be read", printable(path.native())), error.value());
    entry.sha256 = TRY(sha256_of_file(path));
    out << to_line(entry) << "\n";
  }
  out << end_line(paths.size()) << "\n";
  return {};
}

}  // namespace midstream::lab
