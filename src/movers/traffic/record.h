// What the traffic mover keeps in its state directory, and how it reads its desired states.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "movers/mover.h"
#include "movers/traffic/config_file.h"
#include "movers/traffic/haproxy.h"
#include "movers/traffic/split.h"

namespace midstream::haproxy {

// Fields common to all kinds.
struct Target {
  std::filesystem::path socket;
  std::filesystem::path config;
  std::string backend;
  std::vector<std::string> old_servers;
  std::vector<std::string> new_servers;

  std::vector<std::string> servers() const;
};
Result<Target> read_target(const Json& desired);

// How a backend was found before the first step of this move touched it; written before the first effect.
struct Origin {
  std::string move;
  int percent = 0;                     // to new
  std::map<std::string, int> weights;  // at run time
  WrittenWeights written;              // in the configuration file
};
// nullopt where this move has not touched the backend yet.
Result<std::optional<Origin>> load_origin(const Context& context, const Target& target);
Result<> save_origin(const Context& context, const Target& target, const Origin& origin);
Result<> forget_origin(const Context& context, const Target& target);

// The servers that a drain found ready and took out.
Result<std::optional<std::vector<std::string>>> load_drained(const Context& context, const Target& target,
                                                             const std::vector<std::string>& servers);
Result<> save_drained(const Context& context, const Target& target, const std::vector<std::string>& servers,
                      const std::vector<std::string>& drained);
Result<> forget_drained(const Context& context, const Target& target, const std::vector<std::string>& servers);

// HAProxy processes that our effects went to. A reload starts a process that knows nothing of what was set at
// run time, while the old one may go on serving its sessions, invisible on the socket.
struct Instances {
  bool reloaded = false;                // the process is not the one that took our last effect
  std::vector<std::int64_t> lingering;  // earlier ones that still run on this host
};
Result<> note_instance(const Context& context, const Target& target, const Info& now);
Result<Instances> compare_instances(const Context& context, const Target& target, const Info& now);

// The configuration file as we last wrote it; "" where we never did.
Result<std::string> last_written(const Context& context, const Target& target);
// Notes the original, once, as a copy for people, and what is about to be written.
Result<> note_writing(const Context& context, const Target& target, const std::string& original,
                      const std::string& bytes);

}  // namespace midstream::haproxy
