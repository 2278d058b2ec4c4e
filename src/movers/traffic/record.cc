#include "movers/traffic/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "base/text.h"
#include "sys/file.h"

namespace midstream::haproxy {

namespace fs = std::filesystem;

namespace {

// FNV-1a: file names of a fixed length for paths and names of any.
std::string digest(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return fmt::format("{:016x}", hash);
}

fs::path file_for(const Context& context, std::string_view what, std::string_view key) {
  return context.state / fmt::format("{}-{}.json", what, digest(key));
}

std::string backend_key(const Target& target) { return target.socket.string() + "\n" + target.backend; }
std::string drain_key(const Target& target, const std::vector<std::string>& servers) {
  return backend_key(target) + "\n" + join(servers, "\n");
}

Result<std::optional<Json>> load(const fs::path& path) {
  std::error_code gone;
  if (!fs::exists(path, gone)) return std::nullopt;
  auto value = parse_json(TRY(read_file(path)));
  if (!value) return with_context(std::move(value).error(), path.string());
  return *value;
}

Result<> save(const Context& context, const fs::path& path, const Json& value) {
  CHECK_OK(make_directories(context.state));
  return write_file_durably(path, value.dump(1));
}

Result<std::vector<std::string>> proxy_names(const Json& desired, std::string_view field) {
  auto names = TRY(get_strings(desired, field));
  for (const auto& name : names) {
    if (!is_proxy_name(name)) return refused(fmt::format("'{}' cannot be the name of a server", printable(name)));
  }
  return names;
}

bool runs_here(std::int64_t pid) {
  const auto comm = read_file(fmt::format("/proc/{}/comm", pid), 64);
  return comm && trim(*comm) == "haproxy";
}

}  // namespace

std::vector<std::string> Target::servers() const {
  auto all = old_servers;
  all.insert(all.end(), new_servers.begin(), new_servers.end());
  return all;
}

Result<Target> read_target(const Json& desired) {
  Target target;
  target.socket = TRY(get_string(desired, "socket"));
  target.config = TRY(get_string(desired, "config"));
  target.backend = TRY(get_string(desired, "backend"));
  target.old_servers = TRY(proxy_names(desired, "old"));
  target.new_servers = TRY(proxy_names(desired, "new"));
  if (!is_proxy_name(target.backend)) {
    return refused(fmt::format("'{}' cannot be the name of a backend", printable(target.backend)));
  }
  auto all = target.servers();
  std::sort(all.begin(), all.end());
  if (const auto twice = std::adjacent_find(all.begin(), all.end()); twice != all.end()) {
    return refused(fmt::format("server {} is named twice among old and new", *twice));
  }
  return target;
}

Result<std::optional<Origin>> load_origin(const Context& context, const Target& target) {
  const auto stored = TRY(load(file_for(context, "origin", backend_key(target))));
  if (!stored || get_string_or(*stored, "move", "") != context.task.move) return std::nullopt;
  Origin origin;
  origin.move = context.task.move;
  origin.percent = static_cast<int>(TRY(get_int(*stored, "percent")));
  const auto servers = TRY(get_object(*stored, "servers"));
  for (const auto& [name, server] : servers.items()) {
    origin.weights[name] = static_cast<int>(TRY(get_int(server, "weight")));
    auto written = get_string(server, "written");
    origin.written[name] = written ? std::optional(*written) : std::nullopt;
  }
  return origin;
}

Result<> save_origin(const Context& context, const Target& target, const Origin& origin) {
  Json servers = Json::object();
  for (const auto& [name, weight] : origin.weights) {
    servers[name]["weight"] = weight;
    if (const auto& written = origin.written.at(name)) servers[name]["written"] = *written;
  }
  return save(context, file_for(context, "origin", backend_key(target)),
              {{"move", origin.move}, {"backend", target.backend}, {"percent", origin.percent}, {"servers", servers}});
}

Result<> forget_origin(const Context& context, const Target& target) {
  return remove_file_durably(file_for(context, "origin", backend_key(target)));
}

Result<std::optional<std::vector<std::string>>> load_drained(const Context& context, const Target& target,
                                                             const std::vector<std::string>& servers) {
  const auto stored = TRY(load(file_for(context, "drain", drain_key(target, servers))));
  if (!stored || get_string_or(*stored, "move", "") != context.task.move) return std::nullopt;
  return TRY(get_strings(*stored, "drained"));
}

Result<> save_drained(const Context& context, const Target& target, const std::vector<std::string>& servers,
                      const std::vector<std::string>& drained) {
  return save(context, file_for(context, "drain", drain_key(target, servers)),
              {{"move", context.task.move}, {"backend", target.backend}, {"drained", drained}});
}

Result<> forget_drained(const Context& context, const Target& target, const std::vector<std::string>& servers) {
  return remove_file_durably(file_for(context, "drain", drain_key(target, servers)));
}

Result<> note_instance(const Context& context, const Target& target, const Info& now) {
  const auto path = file_for(context, "instances", target.socket.string());
  auto stored = TRY(load(path)).value_or(Json::array());
  const Json one = {{"pid", now.pid}, {"start_s", now.start_s}};
  if (!stored.empty() && stored.back() == one) return {};
  stored.push_back(one);
  return save(context, path, stored);
}

Result<Instances> compare_instances(const Context& context, const Target& target, const Info& now) {
  const auto stored = TRY(load(file_for(context, "instances", target.socket.string()))).value_or(Json::array());
  Instances instances;
  for (const auto& one : stored) {
    const auto pid = TRY(get_int(one, "pid"));
    instances.reloaded = pid != now.pid || TRY(get_int(one, "start_s")) != now.start_s;
    const bool known =
        std::find(instances.lingering.begin(), instances.lingering.end(), pid) != instances.lingering.end();
    if (pid != now.pid && !known && runs_here(pid)) instances.lingering.push_back(pid);
  }
  return instances;
}

Result<std::string> last_written(const Context& context, const Target& target) {
  const auto path = context.state / fmt::format("written-{}.cfg", digest(target.config.string()));
  std::error_code gone;
  if (!fs::exists(path, gone)) return std::string();
  return read_file(path);
}

Result<> note_writing(const Context& context, const Target& target, const std::string& original,
                      const std::string& bytes) {
  CHECK_OK(make_directories(context.state));
  const auto copy = context.state / fmt::format("original-{}.cfg", digest(target.config.string()));
  std::error_code gone;
  if (!fs::exists(copy, gone)) CHECK_OK(write_file_durably(copy, original));
  return write_file_durably(context.state / fmt::format("written-{}.cfg", digest(target.config.string())), bytes);
}

}  // namespace midstream::haproxy
