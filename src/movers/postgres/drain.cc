#include "movers/postgres/drain.h"

#include <fmt/format.h>

#include "base/text.h"

namespace midstream::postgres {

namespace {

struct Direct {
  int count = 0;
  int closed = 0;
  std::string words;  // about one of them
};

// Backends of the gate's sessions, as far as it is there to be asked.
Result<std::string> of_the_gate(const Work& work, const std::string& database) {
  const auto ready = TRY(work.ask_gate("ready", database, "new"));
  std::string pids = "{";
  for (const auto& pid : ready.value("server_pids", Json::array())) pids += (pids.size() > 1 ? "," : "") + pid.dump();
  return pids + '}';
}

Result<> look(const Work& work, const std::string& database, std::int64_t idle_ms, Direct& direct) {
  const auto pids = TRY(of_the_gate(work, database));
  const auto rows = TRY(work.run_cluster(
      "SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(client_addr::text, 'local'), CASE WHEN $4::bigint > 0 AND state = 'idle' AND "
      "clock_timestamp() - state_change > $4::bigint * interval '1 ms' THEN pg_terminate_backend(pid) ELSE false END FROM pg_stat_activity WHERE datname = $1 AND "
      "backend_type = 'client backend' AND pid <> ALL ($2::int[]) AND pid <> pg_backend_pid() AND usename <> ALL ($3::text[]) AND NOT (client_addr IS NULL AND application_name LIKE 'midstream%')",
      {database, pids,
       fmt::format("{{\"{}\",\"{}\",\"{}\",\"{}\"}}", work.plan.agent_role(), work.plan.gate_role(), work.plan.probe_role(), work.plan.replication_role()),
       std::to_string(idle_ms)}));
  for (int i = 0; i < rows.size(); ++i) {
    ++direct.count;
    if (rows.truth(i, 4)) ++direct.closed;
    direct.words = fmt::format("one of role {} ({}, from {}, pid {}) in {}", printable(rows.text(i, 1)), printable(rows.text(i, 2)), rows.text(i, 3),
                               rows.number(i, 0), database);
  }
  return {};
}

}  // namespace

Result<Json> apply_drain(const Work& work) {
  if (!work.plan.gate.present()) return refused("there is no gate that sessions could come through");
  const auto idle_ms = get_int_or(work.plan.raw, "idle_ms", 0);
  int closed = 0;
  for (;;) {
    Direct direct;
    for (const auto& database : work.plan.databases) CHECK_OK(look(work, database, idle_ms, direct));
    closed += direct.closed;
    if (direct.count == 0) return Json{{"closed", closed}};
    CHECK_OK(wait_a_bit(Millis(20), work.context.deadline, work.context.stop,
                        fmt::format("{} sessions that do not come through the gate, {}", direct.count, direct.words)));
  }
}

Result<Json> observe_drain(const Work& work) {
  Direct direct;
  for (const auto& database : work.plan.databases) CHECK_OK(look(work, database, 0, direct));
  auto out = observation(direct.count == 0, direct.count == 0 ? "" : fmt::format("{} sessions do not come through the gate, {}", direct.count, direct.words));
  out["direct"] = direct.count;
  return out;
}

}  // namespace midstream::postgres
