// The agents' side of the data link: TLS between the hosts of one move, each end pinned by fingerprint.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "movers/mover.h"
#include "sys/tls.h"

namespace midstream {

struct PeerAddress {
  std::string address;  // numeric, does not move
  std::uint16_t port = 0;
  std::string fingerprint;
};

Json to_json(const std::map<std::string, PeerAddress>& peers);
Result<std::map<std::string, PeerAddress>> peers_from_json(const Json& value);

class TlsPeers final : public Peers {
 public:
  TlsPeers(std::string host, const TlsIdentity& identity) : host_(std::move(host)), identity_(identity) {}

  // Adopts `epoch` on this host unless it is adopted already, and returns the one in force. Set before the first call.
  using Raise = std::function<Result<std::uint64_t>(std::uint64_t epoch, Deadline deadline)>;
  void on_higher_epoch(Raise raise) { raise_ = std::move(raise); }
  // `epoch` is the adopted one.
  void lift(std::uint64_t epoch);
  void set(std::map<std::string, PeerAddress> peers, std::uint64_t epoch);
  // The host with this fingerprint; "" if there is none.
  std::string host_of(std::string_view fingerprint) const;

  Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args, const Task& task,
                    Deadline deadline, const std::stop_token& stop) override;
  Result<std::unique_ptr<Stream>> open(const std::string& host, std::string_view mover, const Json& hello, const Task& task,
                                       Deadline deadline, const std::stop_token& stop) override;
  Result<> level_epochs(const std::string& host, Deadline deadline, const std::stop_token& stop) override;

 private:
  struct Idle {
    std::unique_ptr<Stream> stream;
    std::chrono::nanoseconds since;
  };
  Result<std::unique_ptr<Stream>> connect(const std::string& host, Deadline deadline, const std::stop_token& stop);
  // One request and its reply's result, on a kept connection or a new one.
  Result<Json> exchange(const std::string& host, std::string_view what, const Json& request, Deadline deadline, const std::stop_token& stop);
  std::unique_ptr<Stream> take_idle(const std::string& host);
  void keep_idle(const std::string& host, std::unique_ptr<Stream> stream);

  std::string host_;
  const TlsIdentity& identity_;
  Raise raise_;
  std::atomic<std::uint64_t> epoch_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, PeerAddress> peers_;
  std::map<std::string, std::vector<Idle>> idle_;
};

}  // namespace midstream
