#include "movers/postgres/late_checks.h"

#include <fmt/format.h>

namespace midstream::postgres {

namespace {

constexpr Millis kAtOnce{10'000};
constexpr const char* kOwnTables =
    "relkind IN ('r', 'p') AND relpersistence <> 't' AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, "
    "'midstream'::regnamespace)";

}  // namespace

Result<> set_checks_aside(Session& session, std::string_view guard, const std::stop_token& stop) {
  CHECK_OK(session.run(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; {}; UPDATE pg_catalog.pg_class SET relchecks = 0 WHERE relchecks > 0 "
                                   "AND {}; COMMIT",
                                   guard, kOwnTables),
                       {}, Deadline::in(kAtOnce), stop));
  return {};
}

Result<> put_checks_back(const Work& work, const std::string& database) {
  auto session = TRY(Session::connect(work.target(database, work.plan.agent_role()), Deadline::in(kAtOnce), work.context.stop));
  CHECK_OK(session.run(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; UPDATE pg_catalog.pg_class c SET relchecks = n FROM (SELECT conrelid, "
                                   "count(*) AS n FROM pg_catalog.pg_constraint WHERE contype = 'c' GROUP BY conrelid) k WHERE c.oid = k.conrelid AND "
                                   "relchecks = 0 AND {}; COMMIT",
                                   kOwnTables),
                       {}, Deadline::in(kAtOnce), work.context.stop));
  return {};
}

}  // namespace midstream::postgres
