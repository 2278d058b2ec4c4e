// The HAProxy runtime socket: one exchange, and pure parsers of what it answers. Reference: HAProxy
// management guide, section 9 (CSV statistics and Unix socket commands).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sys/clock.h"

namespace midstream::haproxy {

// Bits of srv_admin_state.
inline constexpr unsigned kForcedMaint = 0x01;
inline constexpr unsigned kAnyMaint = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;  // forced, inherited, configured, by resolution
inline constexpr unsigned kForcedDrain = 0x08;
inline constexpr unsigned kAnyDrain = 0x08 | 0x10;

struct Server {
  std::string name;
  int weight = 0;          // in force now, 0..256 (srv_uweight)
  int initial_weight = 0;  // what the configuration that HAProxy started with says (srv_iweight)
  int op_state = 0;        // 0 stopped, 1 starting, 2 running, 3 stopping
  unsigned admin_state = 0;
  std::string address;  // numeric; "" where it has none (a unix socket, a name not resolved yet)
  std::uint16_t port = 0;
  bool tls = false;  // HAProxy speaks TLS to it

  bool takes_traffic() const { return op_state == 2 && (admin_state & (kAnyMaint | kAnyDrain)) == 0; }
  // "UP", "DOWN", "MAINT", "DRAIN" ..., for people.
  std::string state() const;
};

// One row of `show stat`, by column name. HAProxy leaves a column empty where it does not apply.
using StatRow = std::map<std::string, std::string, std::less<>>;
std::int64_t stat_number(const StatRow& row, std::string_view column);
std::string stat_text(const StatRow& row, std::string_view column);

struct Info {
  std::string version;
  std::int64_t pid = 0;
  std::int64_t start_s = 0;  // seconds since 1970; 0 where the version does not tell
};

Result<std::vector<Server>> parse_servers_state(std::string_view text);
Result<std::vector<StatRow>> parse_stat(std::string_view csv);
Result<Info> parse_info(std::string_view text);
// What a `set` command answered: silence is success, "No such server." and the like are refusals.
Result<> parse_set_reply(std::string_view command, std::string_view reply);

// One runtime socket. Stateless, thread-safe: each command is a connection of its own.
class Socket {
 public:
  Socket(std::filesystem::path path, Deadline deadline, std::stop_token stop)
      : path_(std::move(path)), deadline_(deadline), stop_(std::move(stop)) {}

  // The answer to one command. A link that breaks after the command has left is `unknown`, unless it only
  // shows.
  Result<std::string> ask(std::string_view command) const;

  Result<Info> info() const;
  Result<std::vector<Server>> servers(const std::string& backend) const;
  // Rows of `backend` by server name; the backend's own row is "BACKEND".
  Result<std::map<std::string, StatRow>> stat(const std::string& backend) const;
  Result<> set_weight(const std::string& backend, const std::string& server, int weight) const;
  // `state` is ready or drain.
  Result<> set_state(const std::string& backend, const std::string& server, std::string_view state) const;

 private:
  std::filesystem::path path_;
  Deadline deadline_;
  std::stop_token stop_;
};

// The server `name` of `servers`; refused where the backend has none of that name.
Result<Server> find_server(const std::vector<Server>& servers, const std::string& backend, const std::string& name);

// HAProxy proxy and server names: letters, digits, - _ . :  Anything else could end a command and begin
// another.
bool is_proxy_name(std::string_view name);

}  // namespace midstream::haproxy
