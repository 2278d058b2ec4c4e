// Kind `weights`: the configuration file first, so that a reload at any moment goes forward; then the runtime
// weights, raising before lowering, so that no moment exists at which every weight is zero.
#include <fmt/format.h>

#include <cmath>

#include "base/text.h"
#include "movers/traffic/kinds.h"
#include "movers/traffic/record.h"
#include "sys/file.h"

namespace midstream::haproxy {

namespace {

struct World {
  Target target;
  std::map<std::string, Server> servers;
  Info info;
  std::filesystem::path config;  // with links resolved: a rename must not replace a link
  std::string file;
  WrittenWeights written;
  std::string default_weight;
};

struct Goal {
  int percent = 0;
  std::map<std::string, int> weights;
  WrittenWeights written;
};

Socket socket_of(const Context& context, const Target& target) {
  return {target.socket, context.deadline, context.stop};
}

Result<World> look(const Context& context, const Json& desired) {
  World world;
  world.target = TRY(read_target(desired));
  const auto socket = socket_of(context, world.target);
  world.info = TRY(socket.info());
  const auto all = TRY(socket.servers(world.target.backend));
  for (const auto& name : world.target.servers())
    world.servers[name] = TRY(find_server(all, world.target.backend, name));
  std::error_code failed;
  world.config = std::filesystem::canonical(world.target.config, failed);
  if (failed)
    return refused(fmt::format("HAProxy's configuration {}: {}", world.target.config.string(), failed.message()));
  world.file = TRY(read_file(world.config));
  world.written = TRY(written_weights(world.file, world.target.backend, world.target.servers()));
  world.default_weight = TRY(balance_settings(world.file, world.target.backend)).default_weight;
  return world;
}

Weights by_side(const Target& target, const std::map<std::string, int>& weights) {
  Weights sides;
  for (const auto& name : target.old_servers) sides.old_side.push_back(weights.at(name));
  for (const auto& name : target.new_servers) sides.new_side.push_back(weights.at(name));
  return sides;
}

std::map<std::string, int> weights_now(const World& world) {
  std::map<std::string, int> weights;
  for (const auto& [name, server] : world.servers) weights[name] = server.weight;
  return weights;
}

Origin origin_now(const Context& context, const World& world) {
  const auto weights = weights_now(world);
  const double percent = percent_of(by_side(world.target, weights));
  return {context.task.move, percent < 0 ? 0 : static_cast<int>(std::lround(percent)), weights, world.written};
}

// What `percent` means, given how the backend was found: exactly that again for the percentage found.
Result<Goal> goal_for(int percent, const Target& target, const Origin& origin) {
  for (const auto& name : target.servers()) {
    if (!origin.weights.contains(name)) {
      return refused(fmt::format("server {} was not part of the first step on backend {}", name, target.backend),
                     "keep the lists of servers as they were when the move began");
    }
  }
  Goal goal{percent, {}, {}};
  const auto found = by_side(target, origin.weights);
  const bool as_found = percent == origin.percent && percent_of(found) >= 0;
  const auto sides = as_found ? found : TRY(split_weights(percent, full_weights(found)));
  auto put = [&](const std::string& name, int weight) {
    goal.weights[name] = weight;
    goal.written[name] = as_found ? origin.written.at(name) : std::optional(std::to_string(weight));
  };
  for (std::size_t i = 0; i < target.old_servers.size(); ++i) put(target.old_servers[i], sides.old_side[i]);
  for (std::size_t i = 0; i < target.new_servers.size(); ++i) put(target.new_servers[i], sides.new_side[i]);
  return goal;
}

bool same_written(const World& world, const WrittenWeights& wanted) {
  auto value = [&](const std::optional<std::string>& text) {
    if (text) return std::stoi(*text);
    return world.default_weight.empty() ? 1 : std::stoi(world.default_weight);
  };
  for (const auto& [name, text] : wanted) {
    if (value(text) != value(world.written.at(name))) return false;
  }
  return true;
}

// A server that is not up must not get more of the traffic.
Result<> all_raised_are_up(const World& world, const Goal& goal) {
  for (const auto& [name, server] : world.servers) {
    if (goal.weights.at(name) <= server.weight || server.takes_traffic()) continue;
    const auto what = fmt::format("server {}/{} is {}: its weight is not raised from {} to {}", world.target.backend,
                                  name, server.state(), server.weight, goal.weights.at(name));
    if (server.state() == "DOWN" || server.state() == "STARTING")
      return retry(what, "HAProxy's health check must pass first");
    return refused(what, fmt::format("'set server {}/{} state ready' when it may serve", world.target.backend, name));
  }
  return {};
}

// Going back is not refused over one server that is down, only where nothing would be left to serve.
Result<> somebody_serves(const World& world, const Goal& goal) {
  bool serves_now = false;
  for (const auto& [name, server] : world.servers) {
    if (!server.takes_traffic()) continue;
    if (goal.weights.at(name) > 0) return {};
    serves_now = serves_now || server.weight > 0;
  }
  if (!serves_now) return {};
  return retry(fmt::format("no server of backend {} that would get a weight is UP: the traffic stays where it is",
                           world.target.backend),
               "bring one of them up");
}

Result<bool> write_config(const Context& context, const World& world, const Goal& goal) {
  const auto wanted = TRY(rewrite_weights(world.file, world.target.backend, goal.written));
  if (wanted == world.file) return false;
  CHECK_OK(note_writing(context, world.target, world.file, wanted));
  if (TRY(read_file(world.config)) != world.file) {
    return retry(fmt::format("{} was changed by somebody else at this moment", world.config.string()));
  }
  CHECK_OK(write_file_durably(world.config, wanted, 0644));
  return true;
}

Result<> set_weights(const Socket& socket, const World& world, const Goal& goal) {
  for (const bool raise : {true, false}) {
    for (const auto& [name, server] : world.servers) {
      const int weight = goal.weights.at(name);
      if (weight == server.weight || (weight > server.weight) != raise) continue;
      CHECK_OK(socket.set_weight(world.target.backend, name, weight));
    }
  }
  const auto after = TRY(socket.servers(world.target.backend));
  for (const auto& [name, weight] : goal.weights) {
    const auto server = TRY(find_server(after, world.target.backend, name));
    if (server.weight == weight) continue;
    return retry(fmt::format("server {}/{} has weight {} after it was set to {}", world.target.backend, name,
                             server.weight, weight),
                 "does somebody else change weights, or reload HAProxy, at the same time?");
  }
  return {};
}

Result<Json> bring_about(const Context& context, const World& world, const Goal& goal) {
  const auto socket = socket_of(context, world.target);
  const auto instances = TRY(compare_instances(context, world.target, world.info));
  const auto ours = TRY(last_written(context, world.target));
  const bool rewritten = TRY(write_config(context, world, goal));
  CHECK_OK(set_weights(socket, world, goal));
  CHECK_OK(note_instance(context, world.target, TRY(socket.info())));
  return Json{{"percent", goal.percent},
              {"weights", goal.weights},
              {"config_rewritten", rewritten},
              {"config_edited_by_others", !ours.empty() && ours != world.file},
              {"reloaded", instances.reloaded}};
}

Json figures(const StatRow& row, const Server& server) {
  const auto connect = stat_number(row, "econ");
  const auto response = stat_number(row, "eresp");
  const auto http_5xx = stat_number(row, "hrsp_5xx");
  return {{"weight", server.weight},
          {"state", server.state()},
          {"sessions", stat_number(row, "scur")},
          {"queued", stat_number(row, "qcur")},
          {"requests", stat_number(row, "stot")},
          {"errors", connect + response + http_5xx},
          {"connect_errors", connect},
          {"response_errors", response},
          {"http_5xx", http_5xx},
          {"mean_connect_ms", stat_number(row, "ctime")},
          {"mean_response_ms", stat_number(row, "rtime")},
          {"mean_total_ms", stat_number(row, "ttime")}};
}

std::string why_not(const World& world, const Goal& goal, const Instances& instances, bool config_agrees) {
  std::vector<std::string> reasons;
  for (const auto& [name, weight] : goal.weights) {
    const int now = world.servers.at(name).weight;
    if (now != weight)
      reasons.push_back(fmt::format("server {}/{} has weight {}, not {}", world.target.backend, name, now, weight));
  }
  if (!config_agrees) reasons.push_back(fmt::format("{} says other weights", world.config.string()));
  if (!reasons.empty() && instances.reloaded) reasons.emplace_back("HAProxy was reloaded since the weights were set");
  return join(reasons, "; ");
}

Result<int> percent_field(const Json& desired, std::string_view field) {
  const auto value = TRY(get_int(desired, field));
  if (value < 0 || value > 100) return refused(fmt::format("{} {} is not a percentage from 0 to 100", field, value));
  return static_cast<int>(value);
}

}  // namespace

Result<Json> observe_weights(const Context& context, const Json& desired) {
  const auto world = TRY(look(context, desired));
  const auto origin = TRY(load_origin(context, world.target)).value_or(origin_now(context, world));
  const auto goal = TRY(goal_for(TRY(percent_field(desired, "percent")), world.target, origin));
  const auto instances = TRY(compare_instances(context, world.target, world.info));
  const bool config_agrees = same_written(world, goal.written);
  auto why = why_not(world, goal, instances, config_agrees);
  const bool reached = why.empty();
  if (reached && instances.reloaded) why = "HAProxy was reloaded since the weights were set; the file kept them";
  Json answer = observation(reached, why);
  const auto rows = TRY(socket_of(context, world.target).stat(world.target.backend));
  for (const auto& [name, server] : world.servers) {
    const auto row = rows.find(name);
    answer["servers"][name] = figures(row == rows.end() ? StatRow{} : row->second, server);
  }
  const double percent = percent_of(by_side(world.target, weights_now(world)));
  answer["percent"] = std::round(percent * 10) / 10;
  answer["config_agrees"] = config_agrees;
  answer["reloaded"] = instances.reloaded;
  return answer;
}

Result<Json> apply_weights(const Context& context, const Json& desired) {
  const auto world = TRY(look(context, desired));
  const int percent = TRY(percent_field(desired, "percent"));
  auto origin = TRY(load_origin(context, world.target));
  const bool first = !origin;
  if (first) origin = origin_now(context, world);
  const auto goal = TRY(goal_for(percent, world.target, *origin));
  CHECK_OK(all_raised_are_up(world, goal));
  if (first) CHECK_OK(save_origin(context, world.target, *origin));
  return bring_about(context, world, goal);
}

Result<Json> undo_weights(const Context& context, const Json& desired) {
  const auto world = TRY(look(context, desired));
  const int from = TRY(percent_field(desired, "from"));
  auto origin = TRY(load_origin(context, world.target));
  if (!origin) {
    // Never applied, or undone already; or our state was lost, and then the weights in force are those of
    // apply.
    origin = origin_now(context, world);
    const auto applied = TRY(goal_for(TRY(percent_field(desired, "percent")), world.target, *origin));
    if (origin->percent == from || weights_now(world) != applied.weights) return Json::object();
  }
  const auto goal = TRY(goal_for(from, world.target, *origin));
  CHECK_OK(somebody_serves(world, goal));
  auto figures = TRY(bring_about(context, world, goal));
  if (from == origin->percent) CHECK_OK(forget_origin(context, world.target));
  return figures;
}

}  // namespace midstream::haproxy
