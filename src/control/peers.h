// The agents' side of the data link: TLS between the hosts of one move, each end pinned by fingerprint.
#pragma once

#include <atomic>
#include <cstdint>
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

  // `epoch` is the adopted one.
  void set(std::map<std::string, PeerAddress> peers, std::uint64_t epoch);
  // The host with this fingerprint; "" if there is none.
  std::string host_of(std::string_view fingerprint) const;

  Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args, const Task& task,
                    Deadline deadline, const std::stop_token& stop) override;
  Result<std::unique_ptr<Stream>> open(const std::string& host, std::string_view mover, const Json& hello, const Task& task,
                                       Deadline deadline, const std::stop_token& stop) override;

 private:
  struct Idle {
    std::unique_ptr<Stream> stream;
    std::chrono::nanoseconds since;
  };
  Result<std::unique_ptr<Stream>> connect(const std::string& host, Deadline deadline, const std::stop_token& stop);
  std::unique_ptr<Stream> take_idle(const std::string& host);
  void keep_idle(const std::string& host, std::unique_ptr<Stream> stream);

  std::string host_;
  const TlsIdentity& identity_;
  std::atomic<std::uint64_t> epoch_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, PeerAddress> peers_;
  std::map<std::string, std::vector<Idle>> idle_;
};

}  // namespace midstream
