// ICMP and ICMPv6 echo (RFC 792, RFC 4443) to many addresses at a fixed rate, from one thread.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <vector>

#include "base/result.h"
#include "probe/config.h"
#include "probe/records.h"

namespace midstream {

// Takes one row of consecutive probes with the same outcome. `target` is the address's index.
using RunSink = std::function<void(RunLine run)>;

class EchoProbe {
 public:
  // Opens the raw sockets: refused without the right to (root, or CAP_NET_RAW). `first_seq` has, for each address,
  // the number of its first probe.
  static Result<std::unique_ptr<EchoProbe>> open(const std::vector<AddressProbe>& addresses,
                                                 const std::vector<std::int64_t>& first_seq);
  virtual ~EchoProbe() = default;

  // Probes until stopped. Rows are given to `sink` in order, when the outcome changes and once a second. A probe is
  // due every interval; one that this host makes more than an interval late is left out, and shows as missing.
  virtual Result<> run(const RunSink& sink, const std::stop_token& stop) = 0;
};

}  // namespace midstream
