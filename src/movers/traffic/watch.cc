#include "movers/traffic/watch.h"

#include <fmt/format.h>

#include <atomic>

#include "base/http.h"
#include "movers/traffic/record.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream::haproxy {

namespace {

constexpr std::int64_t kMostRate = 1'000;

// What is sent to every server; `request` is "" where a connection is all that can be asked for.
struct ProbePlan {
  std::string request;
  std::int64_t rate = 0;  // a second, to each side
  Millis timeout{1'000};
};

Result<ProbePlan> read_probe(const Json& desired) {
  ProbePlan plan;
  plan.rate = TRY(get_int(desired, "rate"));
  plan.timeout = Millis(TRY(get_int(desired, "timeout_ms")));
  if (plan.rate < 1 || plan.rate > kMostRate)
    return refused(fmt::format("a rate of {} probes a second is not within 1 to {}", plan.rate, kMostRate));
  if (plan.timeout.count() < 1) return refused("timeout_ms is to be 1 or more");
  const auto path = TRY(get_string(desired, "path"));
  const auto authority = TRY(get_string(desired, "authority"));
  for (const char c : path + authority) {
    if (c <= ' ' || c == 0x7f)
      return refused("path and authority of the guard's requests hold no blanks or control characters");
  }
  if (!path.empty()) {
    plan.request = fmt::format(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: midstream-guard\r\nAccept: */*\r\nConnection: close\r\n\r\n", path,
        authority);
  }
  return plan;
}

bool exchange(const Server& server, const ProbePlan& plan, Deadline deadline, const std::stop_token& stop) {
  auto fd = connect_tcp(server.address, server.port, deadline, stop);
  if (!fd) return false;
  if (plan.request.empty()) return true;
  const auto stream = make_fd_stream(*std::move(fd));
  if (!stream->write_all(plan.request, deadline, stop)) return false;
  HttpAnswer answer;
  auto state = HttpAnswer::State::reading;
  char buffer[16384];
  while (state == HttpAnswer::State::reading) {
    const auto got = stream->read_some(buffer, deadline, stop);
    if (!got) return false;
    state = *got == 0 ? answer.close() : answer.feed({buffer, *got});
  }
  return state == HttpAnswer::State::whole && answer.status() < 500;
}

}  // namespace

Json Tally::to_json() const { return {{"requests", requests}, {"failed", failed}, {"latency", latency.to_json()}}; }

void CounterSum::read(const std::string& instance, const std::string& server, std::uint64_t requests,
                      std::uint64_t failed) {
  auto [known, first] = last_.try_emplace(server, Last{instance, requests, failed});
  if (first) return;
  auto& last = known->second;
  const bool anew = last.instance != instance || requests < last.requests || failed < last.failed;
  requests_ += requests - (anew ? 0 : last.requests);
  failed_ += failed - (anew ? 0 : last.failed);
  last = {instance, requests, failed};
}

// One backend: the sums of HAProxy's counters, and a thread for each server that keeps asking it.
class Watches::Watch {
 public:
  Watch(const Json& desired, Target target, ProbePlan plan, Millis forgotten)
      : desired_(desired), target_(std::move(target)), plan_(std::move(plan)), forgotten_(forgotten) {}

  bool is_for(const Json& desired) const { return desired_ == desired; }
  bool forgotten() const { return boot_now() - asked_.load() > forgotten_; }

  Result<Json> observe(const Context& context) {
    const std::lock_guard lock(mutex_);
    asked_ = boot_now();
    const Socket socket(target_.socket, context.deadline, context.stop);
    const auto info = TRY(socket.info());
    const auto servers = TRY(socket.servers(target_.backend));
    const auto rows = TRY(socket.stat(target_.backend));
    Json answer = observation(true, "");
    answer["watch"] = started_.count();
    answer["old"] = TRY(side(old_side_, target_.old_servers, info, servers, rows));
    answer["new"] = TRY(side(new_side_, target_.new_servers, info, servers, rows));
    return answer;
  }

 private:
  struct Side {
    CounterSum users;
    std::mutex mutex;  // of probes
    Tally probes;
    std::map<std::string, std::jthread> threads;
  };

  Result<Json> side(Side& side, const std::vector<std::string>& names, const Info& info,
                    const std::vector<Server>& servers, const std::map<std::string, StatRow>& rows) {
    const auto instance = fmt::format("{} {}", info.pid, info.start_s);
    for (const auto& name : names) {
      const auto server = TRY(find_server(servers, target_.backend, name));
      if (const auto row = rows.find(name); row != rows.end()) {
        const auto failed =
            stat_number(row->second, "econ") + stat_number(row->second, "eresp") + stat_number(row->second, "hrsp_5xx");
        side.users.read(instance, name, static_cast<std::uint64_t>(stat_number(row->second, "stot")),
                        static_cast<std::uint64_t>(failed));
      }
      if (side.threads.contains(name) || server.address.empty() || server.tls) continue;
      const auto every = std::chrono::microseconds(1'000'000 * static_cast<std::int64_t>(names.size()) / plan_.rate);
      side.threads[name] = std::jthread(
          [this, &side, server, every](const std::stop_token& stop) { keep_probing(side, server, every, stop); });
    }
    const std::lock_guard lock(side.mutex);
    Tally all = side.probes;
    all.requests += side.users.requests();
    all.failed += side.users.failed();
    Json out = all.to_json();
    out["probes"] = side.probes.requests;
    return out;
  }

  // At a fixed rate; a server that takes longer than the interval is asked again as soon as it has answered.
  void keep_probing(Side& side, const Server& server, std::chrono::microseconds every, const std::stop_token& stop) {
    auto due = boot_now();
    while (!stop.stop_requested() && !forgotten()) {
      const auto begun = boot_now();
      const bool good = exchange(server, plan_, Deadline::in(plan_.timeout), stop);
      const auto took = boot_now() - begun;
      if (stop.stop_requested()) return;
      {
        const std::lock_guard lock(side.mutex);
        ++side.probes.requests;
        side.probes.failed += good ? 0 : 1;
        side.probes.latency.add(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
      }
      due = std::max(due + every, boot_now() - every);
      if (due > boot_now() && !pause_for(std::chrono::duration_cast<Millis>(due - boot_now()), stop)) return;
    }
  }

  const Json desired_;
  const Target target_;
  const ProbePlan plan_;
  const Millis forgotten_;
  const std::chrono::nanoseconds started_ = boot_now();
  std::atomic<std::chrono::nanoseconds> asked_ = boot_now();
  std::mutex mutex_;
  // Last: their threads use all the rest.
  Side old_side_;
  Side new_side_;
};

Watches::Watches(Millis forgotten) : forgotten_(forgotten) {}
Watches::~Watches() = default;

Result<Json> Watches::observe(const Context& context, const Json& desired) {
  const auto target = TRY(read_target(desired));
  const auto plan = TRY(read_probe(desired));
  const auto key = fmt::format("{} {} {}", context.task.move, target.socket.string(), target.backend);
  std::shared_ptr<Watch> watch;
  std::map<std::string, std::shared_ptr<Watch>> ended;  // their threads are joined without the lock
  {
    const std::lock_guard lock(mutex_);
    for (auto it = watches_.begin(); it != watches_.end();) {
      const bool over = it->second->forgotten() || (it->first == key && !it->second->is_for(desired));
      if (over) ended.insert(*it);
      it = over ? watches_.erase(it) : std::next(it);
    }
    auto& known = watches_[key];
    if (!known) known = std::make_shared<Watch>(desired, target, plan, forgotten_);
    watch = known;
  }
  return watch->observe(context);
}

}  // namespace midstream::haproxy
