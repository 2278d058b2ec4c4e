// One measurement of one service, and what it needs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "probe/config.h"
#include "probe/records.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

// What one probe found. A probe that could not be made for our own reasons is no finding: nothing is claimed.
struct Finding {
  ProbeOutcome outcome = ProbeOutcome::failed;  // ok, failed or timeout; who knows the start makes a late ok slow
  std::string error;                  // class in one word
  std::string host;                   // who answered, where the answer says so
};

// Names to numeric addresses, so that a slow name server costs a probe its deadline and not the schedule. One thread a
// name; an answer holds for one second, a failure for nobody but those who waited for it. Thread-safe.
class Resolver {
 public:
  Resolver();
  ~Resolver();
  // In getaddrinfo's order. A numeric host is its own answer.
  Result<std::vector<std::string>> lookup(const std::string& host, Deadline deadline, const std::stop_token& stop);

 private:
  struct Entry;
  Entry& entry(const std::string& host);

  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Entry>> entries_;
};

// Measures. Thread-safe: probes of one service overlap.
class Prober {
 public:
  virtual ~Prober() = default;
  virtual Finding probe(Deadline deadline, const std::stop_token& stop) = 0;
};

std::unique_ptr<Prober> make_tcp_prober(const TcpTarget& target, Resolver& resolver);
// GET; ok is any 2xx that came whole. An X-Host field says who answered.
Result<std::unique_ptr<Prober>> make_http_prober(const HttpTarget& target, Resolver& resolver);
// Over kept connections, as pools have them: one that turns out to be dead is replaced within the same probe, for as
// long as the deadline allows, and the success is then "reconnected". An error that the server reports about the
// statement is the finding at once. libpq is loaded when this is called; refused where the host has none.
Result<std::unique_ptr<Prober>> make_postgres_prober(const ServiceProbe& service, Resolver& resolver);

// A dialog with every door of the target, on new connections, up to the point where a user would be served. Being told
// to come back (4xx, BYE) or hung up on is answered by coming back within the same probe, for as long as the deadline
// allows: the success is then "deferred" or "reconnected", and its latency is the pause. A permanent refusal (5xx), a
// failed login and a connection that nobody takes are the finding at once. Refused without a password file that can be
// read, where one is named.
Result<std::unique_ptr<Prober>> make_mail_prober(const ServiceProbe& service, Resolver& resolver);

// A connected socket to the first of `addresses` that takes the connection; each has its share of the time.
std::expected<Fd, Finding> connect_any(const std::vector<std::string>& addresses, std::uint16_t port, Deadline deadline,
                                       const std::stop_token& stop);
// The finding for a failed lookup, or for an errno; past the deadline it is a timeout.
Finding failed_finding(std::string_view error, Deadline deadline);
std::string errno_class(int code);

}  // namespace midstream
