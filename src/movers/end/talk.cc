#include "movers/end/talk.h"

#include <fmt/format.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/text.h"

namespace midstream {

namespace {

constexpr std::size_t kMost = 10'000;  // sources kept; a scan of the whole Internet must not fill the memory
constexpr std::size_t kTold = 200;

std::uint16_t big_endian(const unsigned char* bytes) { return static_cast<std::uint16_t>(bytes[0] << 8 | bytes[1]); }

}  // namespace

bool parse_packet(std::string_view packet, Heard& heard) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(packet.data());
  if (packet.size() < 20) return false;
  const bool v6 = bytes[0] >> 4 == 6;
  if (!v6 && bytes[0] >> 4 != 4) return false;
  const std::size_t header = v6 ? 40 : static_cast<std::size_t>(bytes[0] & 15) * 4;
  const int protocol = v6 ? bytes[6] : bytes[9];
  if (!v6 && (big_endian(bytes + 6) & 0x1fff) != 0) return false;  // not the first fragment: no ports in it
  heard.udp = protocol == IPPROTO_UDP;
  if (!heard.udp && protocol != IPPROTO_TCP) return false;
  if (packet.size() < header + (heard.udp ? 8 : 14)) return false;
  if (!heard.udp && (bytes[header + 13] & 0x12) != 0x02) return false;  // SYN without ACK
  heard.source = address_text(bytes + (v6 ? 8 : 12), v6);
  heard.address = address_text(bytes + (v6 ? 24 : 16), v6);
  heard.port = big_endian(bytes + header + 2);
  return true;
}

Result<Silence> parse_silence(const Json& desired) {
  Silence silence;
  silence.span_ms = TRY(get_int(desired, "silence_ms"));
  const auto set_of = [&](std::string_view key, std::set<std::string>& into) -> Result<> {
    if (!desired.contains(key)) return {};
    for (auto& one : TRY(get_strings(desired, key))) into.insert(std::move(one));
    return {};
  };
  CHECK_OK(set_of("addresses", silence.addresses));
  CHECK_OK(set_of("accept", silence.accepted));
  const Json ignored = desired.value("ignore", Json::object());
  for (const auto& [source, words] : ignored.items()) silence.ignored[source] = TRY(get_string(ignored, source));
  const Json services = desired.value("services", Json::object());
  for (const auto& [port, service] : services.items())
    silence.services[static_cast<std::uint16_t>(std::atoi(port.c_str()))] = TRY(get_string(services, port));
  return silence;
}

void Talk::came(const Heard& heard, std::int64_t now_ms) {
  if (entries_.size() >= kMost && !entries_.contains(heard)) {
    std::erase_if(entries_,
                  [&](const auto& one) { return one.second.sessions == 0 && now_ms - one.second.last_ms > 600'000; });
    if (entries_.size() >= kMost) return;
  }
  auto& entry = entries_[heard];
  ++entry.attempts;
  entry.last_ms = now_ms;
}

void Talk::standing(const std::map<Heard, int>& sessions, std::int64_t now_ms) {
  for (auto& [heard, entry] : entries_) {
    if (entry.sessions > 0) entry.last_ms = now_ms;  // until now, at the latest
    entry.sessions = 0;
  }
  for (const auto& [heard, count] : sessions) {
    if (entries_.size() >= kMost && !entries_.contains(heard)) continue;
    auto& entry = entries_[heard];
    entry.sessions = count;
    entry.last_ms = now_ms;
  }
}

void Talk::own(const std::set<std::uint16_t>& ports, const std::set<std::pair<std::string, std::uint16_t>>& sources) {
  own_ports_.insert(ports.begin(), ports.end());
  own_sources_.insert(sources.begin(), sources.end());
}

bool Talk::ours(const Heard& heard) const {
  return own_ports_.contains(heard.port) || own_sources_.contains({heard.source, heard.port});
}

Json Talk::judge(const Silence& silence, std::int64_t now_ms) const {
  std::vector<std::pair<std::int64_t, Json>> told;
  std::string loud;
  int speaking = 0;
  for (const auto& [heard, entry] : entries_) {
    if (ours(heard) || (!silence.addresses.empty() && !silence.addresses.contains(heard.address))) continue;
    const auto known = silence.services.find(heard.port);
    const auto listens = listeners_.find(heard.port);
    const auto service = known != silence.services.end() ? known->second
                         : listens != listeners_.end()   ? listens->second
                                                         : "";
    const auto quiet_ms = now_ms - entry.last_ms;
    Json one{{"service", service}, {"source", heard.source},     {"address", heard.address},   {"port", heard.port},
             {"udp", heard.udp},   {"sessions", entry.sessions}, {"attempts", entry.attempts}, {"silent_ms", quiet_ms}};
    const auto ignored = silence.ignored.find(heard.source);
    const bool accepted =
        silence.accepted.contains(heard.source) || silence.accepted.contains(service + "@" + heard.source);
    if (ignored != silence.ignored.end()) one["counted_by"] = ignored->second;
    one["accepted"] = accepted;
    if (ignored == silence.ignored.end() && !accepted && (entry.sessions > 0 || quiet_ms < silence.span_ms)) {
      ++speaking;
      if (speaking <= 3) {
        const auto what = entry.sessions > 0 ? fmt::format("{} sessions", entry.sessions)
                                             : fmt::format("{:.1f} s ago", static_cast<double>(quiet_ms) / 1000);
        loud += fmt::format("{}{} to {} port {} ({})", loud.empty() ? "" : ", ", heard.source,
                            service.empty() ? "?" : service, heard.port, what);
      }
    }
    told.emplace_back(quiet_ms, std::move(one));
  }
  std::ranges::stable_sort(told, {}, &std::pair<std::int64_t, Json>::first);
  const auto watched = now_ms - began_ms_;
  std::string why;
  if (speaking > 0) {
    why = fmt::format("{} still talk here: {}{}", speaking, loud, speaking > 3 ? ", ..." : "");
  } else if (watched < silence.span_ms) {
    why = fmt::format("listened for {:.1f} s of {:.1f} s", static_cast<double>(watched) / 1000,
                      static_cast<double>(silence.span_ms) / 1000);
  }
  Json sources = Json::array();
  for (auto& [quiet, one] : told) {
    if (sources.size() < kTold) sources.push_back(std::move(one));
  }
  return {{"reached", why.empty()},
          {"why", why},
          {"watched_ms", watched},
          {"speaking", speaking},
          {"sources", std::move(sources)}};
}

}  // namespace midstream
