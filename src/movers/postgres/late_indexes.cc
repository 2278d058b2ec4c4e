#include "movers/postgres/late_indexes.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <thread>

#include "base/text.h"

namespace midstream::postgres {

namespace {

constexpr Millis kAtOnce{10'000};
constexpr Millis kLongBuild{30ll * 86'400'000};  // as long as it takes; a stop request ends it
constexpr std::int64_t kMostMemory = 1024;       // MiB, all builds together

// Largest tables first, so that no long build is left for the end.
constexpr const char* kUnbuiltSql =
    "SELECT format('%I.%I', n.nspname, c.relname), i.indrelid::regclass::text FROM pg_catalog.pg_index i JOIN "
    "pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT "
    "i.indisready AND i.indislive AND c.relkind = 'i' AND n.nspname NOT LIKE 'pg\\_%' ORDER BY pg_relation_size(i.indrelid) "
    "DESC, 1";

// MiB of one build: an eighth of this host's memory for all of them.
std::int64_t memory_of_one(int builds) {
  const auto pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  return std::max<std::int64_t>(std::min((pages * page >> 20) / 8, kMostMemory) / builds, 64);
}

// Statements, each in a transaction of its own, by several sessions at once: the first that fails ends all.
class Builders {
 public:
  // `point`: of a checkpoint, after each of them.
  Builders(const Work& work, const std::string& database, std::vector<std::string> statements, const char* point,
           std::atomic<int>& done)
      : work_(work), database_(database), statements_(std::move(statements)), point_(point), done_(done) {}

  Result<> run(int most) {
    const auto count = std::min<int>(most, static_cast<int>(statements_.size()));
    memory_ = memory_of_one(std::max(count, 1));
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < count; ++i) threads.emplace_back([this] { work_on(); });
    }  // joined
    const std::lock_guard lock(mutex_);
    if (failed_) return std::unexpected(*failed_);
    return {};
  }

 private:
  void work_on() {
    auto session = Session::connect(work_.target(database_, work_.plan.agent_role()), Deadline::in(kAtOnce), work_.context.stop);
    Result<> how = session ? Result<>() : Result<>(std::unexpected(session.error()));
    while (how) {
      const auto statement = next();
      if (statement.empty()) return;
      how = one(*session, statement);
      if (!how) break;
      ++done_;
      work_.at(point_);
    }
    const std::lock_guard lock(mutex_);
    if (!failed_) failed_ = how.error();
  }

  std::string next() {
    const std::lock_guard lock(mutex_);
    return failed_ || taken_ == statements_.size() ? "" : statements_[taken_++];
  }

  Result<> one(Session& session, const std::string& statement) {
    const auto done = session.query(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = "
                                                "replica; SET LOCAL maintenance_work_mem = '{}MB'; {}; COMMIT",
                                                memory_, statement),
                                    {}, Deadline::in(kLongBuild), work_.context.stop);
    if (!done) return std::unexpected(to_error(done.error(), statement));
    return {};
  }

  const Work& work_;
  const std::string& database_;
  const std::vector<std::string> statements_;
  const char* const point_;
  std::atomic<int>& done_;
  std::int64_t memory_ = 64;
  std::mutex mutex_;  // guards what follows
  std::size_t taken_ = 0;
  std::optional<Error> failed_;
};

}  // namespace

Result<> set_indexes_aside(Session& session, const std::vector<std::string>& tables, std::string_view guard,
                           const std::stop_token& stop) {
  if (tables.empty()) return {};
  std::vector<std::string> oids;
  for (const auto& table : tables) oids.push_back(fmt::format("pg_catalog.to_regclass({})", quote(table)));
  CHECK_OK(session.run(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; {}; UPDATE pg_catalog.pg_index i SET indisready = "
                                   "false, indisvalid = false FROM pg_catalog.pg_class c WHERE c.oid = i.indexrelid AND "
                                   "c.relkind = 'i' AND i.indislive AND i.indisready AND NOT i.indisexclusion AND i.indexprs "
                                   "IS NULL AND i.indpred IS NULL AND i.indrelid IN ({}); COMMIT",
                                   guard, join(oids, ", ")),
                       {}, Deadline::in(kAtOnce), stop));
  return {};
}

Result<> build_indexes(const Work& work, const std::string& database, int most_workers, IndexFigures& figures) {
  auto session = TRY(Session::connect(work.target(database, work.plan.agent_role()), Deadline::in(kAtOnce), work.context.stop));
  const auto rows = TRY(session.run(kUnbuiltSql, {}, Deadline::in(kAtOnce), work.context.stop));
  std::vector<std::string> builds, analyses;
  for (int i = 0; i < rows.size(); ++i) builds.push_back("REINDEX INDEX " + rows.text(i, 0));
  const auto tables = rows.column(1);
  for (const auto& table : std::set<std::string>(tables.begin(), tables.end())) analyses.push_back("ANALYZE " + table);
  figures.all = static_cast<int>(builds.size());
  figures.built = 0;
  const int workers = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, most_workers);
  CHECK_OK(Builders(work, database, std::move(builds), "copy.index", figures.built).run(workers));
  std::atomic<int> analyzed = 0;
  return Builders(work, database, std::move(analyses), "copy.analyzed", analyzed).run(workers);
}

}  // namespace midstream::postgres
