// One device's link layer: asks and announces who has an address, through a packet socket (packet(7),
// CAP_NET_RAW).
#pragma once

#include <chrono>
#include <map>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "movers/addresses/frames.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

// How often and how long to ask: `rounds` probes for each address, `gap` apart, and `tail` after the last.
struct Asking {
  int rounds = 2;
  Millis gap{20};
  Millis tail{10};
};

class Wire {
 public:
  // In the calling thread's network namespace. Hears from here on.
  static Result<Wire> open(const std::string& dev);

  const Mac& mac() const { return mac_; }
  // Probes for all `addresses` and returns what others claimed about them meanwhile, each claim once, sorted.
  Result<std::vector<Claim>> ask(std::span<const IpAddress> addresses, Asking asking,
                                 const std::stop_token& stop);

  // Announces `addresses` as ours, one each millisecond, to everybody and to each of `neighbours` in person.
  // Returns when (boot_now) each was said.
  Result<std::vector<std::chrono::nanoseconds>> announce(std::span<const IpAddress> addresses, bool router,
                                                         std::span<const Claim> neighbours,
                                                         const std::stop_token& stop);

 private:
  Wire(Fd fd, Mac mac) : fd_(std::move(fd)), mac_(mac) {}
  Result<> send(std::string_view frame);
  void hear(Millis span, std::span<const IpAddress> addresses, std::vector<Claim>& claims,
            const std::stop_token& stop);
  Fd fd_;
  Mac mac_;
};

}  // namespace midstream
