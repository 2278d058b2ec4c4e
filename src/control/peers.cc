#include "control/peers.h"

#include <fmt/format.h>

#include <algorithm>

#include "sys/net.h"

namespace midstream {

namespace {
// Shorter than the accepting end's patience, so that a kept connection is never one that it has just given up.
constexpr std::chrono::seconds kIdleLimit{5};
constexpr Millis kConnectLimit{5'000};
}  // namespace

Json to_json(const std::map<std::string, PeerAddress>& peers) {
  Json out = Json::object();
  for (const auto& [host, peer] : peers) {
    out[host] = {{"address", peer.address}, {"port", peer.port}, {"fingerprint", peer.fingerprint}};
  }
  return out;
}

Result<std::map<std::string, PeerAddress>> peers_from_json(const Json& value) {
  std::map<std::string, PeerAddress> peers;
  if (!value.is_object()) return corrupt("the list of peers is not an object");
  for (const auto& [host, peer] : value.items()) {
    const auto port = TRY(get_int(peer, "port"));
    if (port < 1 || port > 65535) return corrupt(fmt::format("peer {}: port {}", host, port));
    peers[host] = {TRY(get_string(peer, "address")), static_cast<std::uint16_t>(port), TRY(get_string(peer, "fingerprint"))};
  }
  return peers;
}

void TlsPeers::lift(std::uint64_t epoch) {
  for (auto now = epoch_.load(); now < epoch && !epoch_.compare_exchange_weak(now, epoch);) {
  }
}

void TlsPeers::set(std::map<std::string, PeerAddress> peers, std::uint64_t epoch) {
  lift(epoch);
  std::lock_guard lock(mutex_);
  peers_ = std::move(peers);
  idle_.clear();
}

std::string TlsPeers::host_of(std::string_view fingerprint) const {
  std::lock_guard lock(mutex_);
  for (const auto& [host, peer] : peers_) {
    if (peer.fingerprint == fingerprint) return host;
  }
  return "";
}

Result<std::unique_ptr<Stream>> TlsPeers::connect(const std::string& host, Deadline deadline, const std::stop_token& stop) {
  PeerAddress peer;
  {
    std::lock_guard lock(mutex_);
    const auto found = peers_.find(host);
    if (found == peers_.end()) return refused(fmt::format("host {} is not one of this move's agents", host));
    peer = found->second;
  }
  const auto limit = deadline.sooner(kConnectLimit);
  auto socket = connect_tcp(peer.address, peer.port, limit, stop);
  if (!socket) return with_context(std::move(socket).error(), fmt::format("agent on {}", host));
  const auto pinned = [&](std::string_view fingerprint) { return fingerprint == peer.fingerprint; };
  auto tls = tls_connect(std::move(*socket), identity_, pinned, limit, stop);
  if (!tls) return with_context(std::move(tls).error(), fmt::format("agent on {}", host));
  return std::move(tls->stream);
}

std::unique_ptr<Stream> TlsPeers::take_idle(const std::string& host) {
  std::lock_guard lock(mutex_);
  auto& list = idle_[host];
  std::erase_if(list, [](const Idle& idle) { return boot_now() - idle.since > kIdleLimit; });
  if (list.empty()) return nullptr;
  auto stream = std::move(list.back().stream);
  list.pop_back();
  return stream;
}

void TlsPeers::keep_idle(const std::string& host, std::unique_ptr<Stream> stream) {
  std::lock_guard lock(mutex_);
  auto& list = idle_[host];
  if (list.size() < 4) list.push_back({std::move(stream), boot_now()});
}

Result<Json> TlsPeers::call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args,
                            const Task& task, Deadline deadline, const std::stop_token& stop) {
  // An epoch older than ours can only be that of work which goes on in the background from one controller to the
  // next: adopting ours ended every command before it.
  const auto epoch = std::max(task.epoch, epoch_.load());
  const Json request{{"type", "call"}, {"mover", mover}, {"verb", verb}, {"args", args}, {"move", task.move},
                     {"step", task.step}, {"epoch", epoch}, {"deadline_ms", deadline.remaining().count()}};
  return exchange(host, verb, request, deadline, stop);
}

Result<> TlsPeers::level_epochs(const std::string& host, Deadline deadline, const std::stop_token& stop) {
  const Json request{{"type", "epoch"}, {"epoch", epoch_.load()}, {"deadline_ms", deadline.remaining().count()}};
  const auto theirs = TRY(get_int(TRY(exchange(host, "epoch", request, deadline, stop)), "epoch"));
  if (theirs > static_cast<std::int64_t>(epoch_.load())) TRY(raise_(static_cast<std::uint64_t>(theirs), deadline));
  return {};
}

Result<Json> TlsPeers::exchange(const std::string& host, std::string_view what, const Json& request, Deadline deadline,
                                const std::stop_token& stop) {
  auto stream = take_idle(host);
  if (!stream || !write_message(*stream, request, deadline, stop)) {
    stream = TRY(connect(host, deadline, stop));
    CHECK_OK(write_message(*stream, request, deadline, stop));
  }
  auto reply = read_message(*stream, deadline, stop);
  if (!reply) {
    if (stop.stop_requested()) return failure(ErrorKind::cancelled, fmt::format("stopped while {} was asked for '{}'", host, what));
    return failure(ErrorKind::unknown, fmt::format("{} did not answer '{}': {}", host, what, reply.error().what));
  }
  keep_idle(host, std::move(stream));
  if (!get_bool_or(*reply, "ok", false)) {
    return with_context(error_from_json(reply->value("error", Json::object())), fmt::format("on {}", host));
  }
  return reply->value("result", Json::object());
}

Result<std::unique_ptr<Stream>> TlsPeers::open(const std::string& host, std::string_view mover, const Json& hello,
                                               const Task& task, Deadline deadline, const std::stop_token& stop) {
  auto stream = TRY(connect(host, deadline, stop));
  CHECK_OK(write_message(*stream,
                         {{"type", "open"}, {"mover", mover}, {"hello", hello}, {"move", task.move}, {"step", task.step},
                          {"epoch", task.epoch}},
                         deadline, stop));
  return stream;
}

}  // namespace midstream
