// Who talks to this host: what is kept of it, and when it counts as silent. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "sys/sockets.h"

namespace midstream {

// One end of a TCP connection that somebody made to this host, or a UDP port that somebody sent to.
struct Heard {
  bool udp = false;
  std::string source;      // numeric
  std::string address;     // of ours
  std::uint16_t port = 0;  // of ours
  auto operator<=>(const Heard&) const = default;
};

// The start of a TCP connection, or a UDP datagram, as it came to this host: an IP packet. False for anything else.
bool parse_packet(std::string_view packet, Heard& heard);

// What is asked of the talk.
struct Silence {
  std::int64_t span_ms = 60'000;
  std::set<std::string> addresses;                // of ours that count; empty: all
  std::map<std::string, std::string> ignored;     // source -> who counts it instead, in words
  std::map<std::uint16_t, std::string> services;  // port -> the service that it belongs to
  std::set<std::string> accepted;                 // sources, or SERVICE@SOURCE, that the operator let go
};
Result<Silence> parse_silence(const Json& desired);

class Talk {
 public:
  explicit Talk(std::int64_t now_ms) : began_ms_(now_ms) {}

  // A connection was begun, or a datagram came.
  void came(const Heard& heard, std::int64_t now_ms);
  // The connections that stand now, all of them.
  void standing(const std::map<Heard, int>& sessions, std::int64_t now_ms);
  // Ports that are midstream's own, and sources whose connections to a port are (the controller's ssh).
  void own(const std::set<std::uint16_t>& ports, const std::set<std::pair<std::string, std::uint16_t>>& sources);
  // Who listens on a port, for people.
  void listener(std::uint16_t port, const std::string& process) { listeners_[port] = process; }

  // {"reached", "why", "watched_ms", "sources": [{"service", "source", "port", "address", "sessions", "attempts", "silent_ms",
  // "accepted", "counted_by"}]}, who spoke last first. Reached: watched for the span, and nobody spoke within it.
  Json judge(const Silence& silence, std::int64_t now_ms) const;

 private:
  struct Entry {
    int sessions = 0;
    std::uint64_t attempts = 0;
    std::int64_t last_ms = 0;
  };
  bool ours(const Heard& heard) const;

  std::int64_t began_ms_;
  std::map<Heard, Entry> entries_;
  std::set<std::uint16_t> own_ports_;
  std::set<std::pair<std::string, std::uint16_t>> own_sources_;
  std::map<std::uint16_t, std::string> listeners_;
};

}  // namespace midstream
