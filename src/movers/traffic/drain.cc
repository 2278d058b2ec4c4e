// Kind `drain`: out of load balancing, health checks go on, sessions end by themselves.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "movers/traffic/kinds.h"
#include "movers/traffic/record.h"

namespace midstream::haproxy {

namespace {

struct Drain {
  Target target;
  std::vector<std::string> names;
  std::vector<Server> all;  // of the backend

  Result<Server> server(const std::string& name) const { return find_server(all, target.backend, name); }
};

Socket socket_of(const Context& context, const Target& target) {
  return {target.socket, context.deadline, context.stop};
}

Result<std::vector<std::string>> server_names(const Json& desired) {
  auto names = TRY(get_strings(desired, "servers"));
  for (const auto& name : names) {
    if (!is_proxy_name(name)) return refused(fmt::format("'{}' cannot be the name of a server", printable(name)));
  }
  return names;
}

Result<Drain> look(const Context& context, const Json& desired) {
  Drain drain{TRY(read_target(desired)), TRY(server_names(desired)), {}};
  drain.all = TRY(socket_of(context, drain.target).servers(drain.target.backend));
  for (const auto& name : drain.names) CHECK_OK(drain.server(name));
  return drain;
}

bool is_out(const Server& server) { return (server.admin_state & (kAnyDrain | kAnyMaint)) != 0; }

Result<> others_serve(const Drain& drain) {
  for (const auto& server : drain.all) {
    const bool stays = std::find(drain.names.begin(), drain.names.end(), server.name) == drain.names.end();
    if (stays && server.takes_traffic() && server.weight > 0) return {};
  }
  return refused(fmt::format("draining {} would leave backend {} without a server that takes traffic",
                             join(drain.names, ", "), drain.target.backend),
                 "bring another server up and give it a weight first");
}

}  // namespace

Result<Json> observe_drain(const Context& context, const Json& desired) {
  const auto drain = TRY(look(context, desired));
  const auto socket = socket_of(context, drain.target);
  const auto rows = TRY(socket.stat(drain.target.backend));
  const auto instances = TRY(compare_instances(context, drain.target, TRY(socket.info())));
  std::vector<std::string> reasons;
  std::int64_t sessions = 0;
  Json servers = Json::object();
  for (const auto& name : drain.names) {
    const auto row = rows.find(name);
    const auto left = row == rows.end() ? 0 : stat_number(row->second, "scur") + stat_number(row->second, "qcur");
    const auto server = TRY(drain.server(name));
    servers[name] = {{"state", server.state()}, {"sessions", left}, {"address", server.address}, {"port", server.port}};
    sessions += left;
    if (!is_out(server))
      reasons.push_back(fmt::format("server {}/{} is {}, not drained", drain.target.backend, name, server.state()));
    if (left > 0) reasons.push_back(fmt::format("{} sessions left on {}/{}", left, drain.target.backend, name));
  }
  for (const auto pid : instances.lingering) {
    reasons.push_back(fmt::format("HAProxy process {} from before a reload still serves its sessions", pid));
  }
  Json answer = observation(reasons.empty(), join(reasons, "; "));
  answer["sessions"] = sessions;
  answer["servers"] = std::move(servers);
  answer["reloaded"] = instances.reloaded;
  return answer;
}

Result<Json> apply_drain(const Context& context, const Json& desired) {
  const auto drain = TRY(look(context, desired));
  const auto socket = socket_of(context, drain.target);
  CHECK_OK(others_serve(drain));
  auto drained = TRY(load_drained(context, drain.target, drain.names));
  if (!drained) {
    drained.emplace();
    for (const auto& name : drain.names) {
      if (!is_out(TRY(drain.server(name)))) drained->push_back(name);
    }
    CHECK_OK(save_drained(context, drain.target, drain.names, *drained));
  }
  for (const auto& name : drain.names) {
    if (!is_out(TRY(drain.server(name)))) CHECK_OK(socket.set_state(drain.target.backend, name, "drain"));
  }
  const auto after = TRY(socket.servers(drain.target.backend));
  for (const auto& name : drain.names) {
    const auto server = TRY(find_server(after, drain.target.backend, name));
    if (!is_out(server))
      return retry(fmt::format("server {}/{} is {} after it was drained", drain.target.backend, name, server.state()));
  }
  CHECK_OK(note_instance(context, drain.target, TRY(socket.info())));
  return Json{{"drained", *drained}};
}

Result<Json> undo_drain(const Context& context, const Json& desired) {
  const auto target = TRY(read_target(desired));
  const auto names = TRY(server_names(desired));
  const auto drained = TRY(load_drained(context, target, names));
  if (!drained) return Json::object();  // never applied, or undone already
  const auto socket = socket_of(context, target);
  const auto before = TRY(socket.servers(target.backend));
  for (const auto& name : *drained) {
    const auto server = TRY(find_server(before, target.backend, name));
    const bool in_maint = (server.admin_state & kForcedMaint) != 0;  // somebody else's, and `ready` would end it
    if ((server.admin_state & kForcedDrain) != 0 && !in_maint)
      CHECK_OK(socket.set_state(target.backend, name, "ready"));
  }
  const auto after = TRY(socket.servers(target.backend));
  for (const auto& name : *drained) {
    const auto server = TRY(find_server(after, target.backend, name));
    if (server.state() == "DRAIN") return retry(fmt::format("server {}/{} is still DRAIN", target.backend, name));
  }
  CHECK_OK(forget_drained(context, target, names));
  return Json{{"ready", *drained}};
}

// A server that our drain has taken out of balancing is as good as one that serves: its health checks go on.
Result<Json> observe_way_back(const Context& context, const Json& desired) {
  const auto target = TRY(read_target(desired));
  const auto all = socket_of(context, target).servers(target.backend);
  if (!all) return undo_outlook(fmt::format("HAProxy cannot be asked: {}", all.error().what));
  const auto healthy = [&](const std::vector<std::string>& names) -> Result<int> {
    int count = 0;
    for (const auto& name : names) {
      const auto server = TRY(find_server(*all, target.backend, name));
      count += server.op_state == 2 && (server.admin_state & kAnyMaint) == 0 ? 1 : 0;
    }
    return count;
  };
  const bool old_serves = TRY(healthy(target.old_servers)) > 0;
  auto out = undo_outlook(
      old_serves ? "" : fmt::format("none of {} in backend {} is UP", join(target.old_servers, ", "), target.backend));
  out["new_dead"] = TRY(healthy(target.new_servers)) == 0;
  return out;
}

}  // namespace midstream::haproxy
