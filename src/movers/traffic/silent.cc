// Kind `silent`: nobody is served by these servers any more. HAProxy's own health checks are no sessions.
#include <fmt/format.h>

#include "base/text.h"
#include "movers/traffic/kinds.h"
#include "movers/traffic/record.h"

namespace midstream::haproxy {

Result<Json> Silences::observe(const Context& context, const Json& desired) {
  const auto target = TRY(read_target(desired));
  const auto names = TRY(get_strings(desired, "servers"));
  const auto span_ms = TRY(get_int(desired, "silence_ms"));
  const Socket socket{target.socket, context.deadline, context.stop};
  const auto info = TRY(socket.info());
  const auto rows = TRY(socket.stat(target.backend));
  const auto instance = fmt::format("{} {}", info.pid, info.start_s);
  const auto now_ms = std::chrono::duration_cast<Millis>(boot_now()).count();
  std::vector<std::string> loud;
  Json servers = Json::object();
  std::int64_t least = span_ms;
  const std::lock_guard lock(mutex_);
  for (const auto& name : names) {
    const auto row = rows.find(name);
    if (row == rows.end()) continue;  // taken out of the file: nobody is served by it
    const auto sessions = stat_number(row->second, "scur") + stat_number(row->second, "qcur");
    const auto requests = stat_number(row->second, "stot");
    auto& heard = heard_[target.backend + "\n" + name];
    if (heard.since_ms == 0 || sessions > 0 || heard.instance != instance || heard.requests != requests) heard = {instance, requests, now_ms};
    const auto quiet = now_ms - heard.since_ms;
    least = std::min(least, quiet);
    servers[name] = {{"sessions", sessions}, {"silent_ms", quiet}};
    if (sessions > 0) loud.push_back(fmt::format("{} sessions on {}/{}", sessions, target.backend, name));
  }
  std::string why = join(loud, ", ");
  if (why.empty() && least < span_ms) why = fmt::format("{} was given its last session {:.1f} s ago, waits for {:.1f} s", target.backend,
                                                        static_cast<double>(least) / 1000, static_cast<double>(span_ms) / 1000);
  auto answer = observation(why.empty(), why);
  answer["servers"] = std::move(servers);
  return answer;
}

}  // namespace midstream::haproxy
