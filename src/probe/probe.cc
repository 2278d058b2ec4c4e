#include "probe/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "probe/echo.h"
#include "probe/lane.h"
#include "probe/outcome.h"
#include "probe/probe_log.h"
#include "sys/clock.h"

namespace midstream {

namespace {

constexpr std::int64_t kMostInFlight = 64;

// Waits until `at` on the boot clock; false when stopped.
bool wait_until(Nanos at, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  while (!stop.stop_requested()) {
    const auto left = at - boot_now();
    if (left <= Nanos(0)) return true;
    wake.wait_for(lock, stop, left, [] { return false; });
  }
  return false;
}

class ServiceRunner {
 public:
  ServiceRunner(const ServiceProbe& service, int target, std::unique_ptr<Prober> prober, std::int64_t first_seq, Nanos base, ProbeLog& log)
      : service_(service), target_(target), prober_(std::move(prober)),
        lane_(base, service.every, first_seq, [&log](const RunLine& run) { log.append(run); }) {}

  // As many threads as probes can overlap: one that waits for its slot, and those that may hang until their timeout.
  void start(std::vector<std::jthread>& threads, const std::stop_token& stop) {
    const auto overlap = service_.timeout / service_.every + 2;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(overlap, kMostInFlight); ++i) {
      threads.emplace_back([this, stop] { work(stop); });
    }
  }

 private:
  void work(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const auto slot = lane_.take(boot_now());
      lane_.end(slot.seq, wait_until(slot.due, stop) ? measure(slot, stop) : std::nullopt);
    }
  }

  std::optional<RunLine> measure(const Lane::Slot& slot, const std::stop_token& stop) {
    // Our own lateness must not become the service's.
    if (boot_now() - slot.due > std::min<Nanos>(service_.every, service_.timeout / 4)) return std::nullopt;
    const auto left = std::chrono::ceil<Millis>(slot.due + service_.timeout - boot_now());
    auto finding = prober_->probe(Deadline::in(left), stop);
    const auto took = std::max(Nanos(0), boot_now() - slot.due);
    // Cut off by our end: nothing was found.
    if (stop.stop_requested() && finding.outcome != ProbeOutcome::ok) return std::nullopt;
    if (finding.outcome == ProbeOutcome::ok && took > service_.timeout) finding = {ProbeOutcome::timeout, "timeout", finding.host};
    if (finding.outcome == ProbeOutcome::ok && took > service_.slow) finding.outcome = ProbeOutcome::slow;
    const auto latency = std::chrono::duration_cast<std::chrono::microseconds>(took);
    return RunLine{.target = target_, .first_seq = slot.seq, .last_seq = slot.seq, .first_start = slot.due,
                   .last_start = slot.due, .first_latency = latency, .worst_latency = latency,
                   .outcome = finding.outcome, .error = finding.error, .host = finding.host};
  }

  const ServiceProbe service_;
  const int target_;
  const std::unique_ptr<Prober> prober_;
  Lane lane_;
};

Result<std::unique_ptr<Prober>> make_prober(const ServiceProbe& service, Resolver& resolver) {
  if (service.kind == "http") return make_http_prober(TRY(parse_http_target(service.target)), resolver);
  if (service.kind == "tcp") return make_tcp_prober(TRY(parse_tcp_target(service.target)), resolver);
  if (service.kind == "mail") return make_mail_prober(service, resolver);
  return make_postgres_prober(service, resolver);
}

SessionLine session_of(const ProbeConfig& config) {
  SessionLine session{.boot_id = boot_id(), .boot = boot_now(), .wall_ms = wall_now_ms()};
  for (const auto& s : config.services) session.targets.push_back({s.name, false, s.every, s.timeout});
  for (const auto& a : config.addresses) session.targets.push_back({a.address, true, a.every, a.timeout});
  return session;
}

// Everything that one run needs, opened before anything is probed.
class Probe {
 public:
  Result<> open(const ProbeConfig& config);
  Result<> run(const std::stop_token& outer);

 private:
  std::unique_ptr<ProbeLog> log_;
  SessionLine session_;
  Resolver resolver_;
  std::vector<std::unique_ptr<ServiceRunner>> services_;
  std::unique_ptr<EchoProbe> echo_;
};

Result<> Probe::open(const ProbeConfig& config) {
  log_ = TRY(ProbeLog::open(config.log));
  session_ = session_of(config);
  const auto count = static_cast<std::int64_t>(config.services.size());
  for (std::size_t i = 0; i < config.services.size(); ++i) {
    const auto& service = config.services[i];
    const auto base = session_.boot + Nanos(service.every) * static_cast<std::int64_t>(i) / count;
    services_.push_back(std::make_unique<ServiceRunner>(service, static_cast<int>(i), TRY(make_prober(service, resolver_)),
                                                        log_->last_seq(service.name) + 1, base, *log_));
  }
  std::vector<std::int64_t> first_seq;
  for (const auto& address : config.addresses) first_seq.push_back(log_->last_seq(address.address) + 1);
  if (!config.addresses.empty()) echo_ = TRY(EchoProbe::open(config.addresses, first_seq));
  return {};
}

Result<> Probe::run(const std::stop_token& outer) {
  log_->append(session_);
  CHECK_OK(log_->flush());
  std::stop_source source;
  const std::stop_callback forward(outer, [&source] { source.request_stop(); });
  Result<> echoed;
  Result<> health;
  {
    std::vector<std::jthread> threads;
    for (auto& service : services_) service->start(threads, source.get_token());
    if (echo_) {
      threads.emplace_back([&] {
        const auto offset = static_cast<int>(services_.size());
        echoed = echo_->run([&](RunLine run) {
          run.target += offset;
          log_->append(run);
        }, source.get_token());
        if (!echoed) source.request_stop();
      });
    }
    while (health && pause_for(Millis(200), source.get_token())) health = log_->health();
    source.request_stop();
  }
  CHECK_OK(echoed);
  CHECK_OK(health);
  log_->append(EndLine{boot_now()});
  return log_->flush();
}

}  // namespace

Result<> run_probe(const ProbeConfig& config, std::stop_token stop) {
  Probe probe;
  CHECK_OK(probe.open(config));
  return probe.run(stop);
}

}  // namespace midstream
