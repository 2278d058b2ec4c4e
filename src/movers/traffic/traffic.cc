#include "movers/traffic/traffic.h"

#include <fmt/format.h>

#include <mutex>

#include "base/text.h"
#include "movers/traffic/kinds.h"
#include "movers/traffic/watch.h"

namespace midstream {

namespace {

class TrafficMover final : public Mover {
 public:
  std::string_view name() const override { return "traffic"; }

  // Nothing to go on with: weights and drain states live in HAProxy and its file, and have no lease.
  Result<> start(const Context&) override { return {}; }

  Result<Json> observe(const Context& context, const Json& desired) override {
    if (is_watch(desired)) return watches_.observe(context, desired);
    if (is_silent(desired)) return silences_.observe(context, desired);
    return TRY(is_weights(desired)) ? haproxy::observe_weights(context, desired)
                                    : haproxy::observe_drain(context, desired);
  }

  Result<Json> apply(const Context& context, const Json& desired) override {
    if (is_watch(desired)) return Json::object();  // observing is all there is to it
    const bool weights = TRY(is_weights(desired));
    const auto lock = TRY(serialise(context));
    return weights ? haproxy::apply_weights(context, desired) : haproxy::apply_drain(context, desired);
  }

  Result<Json> undo(const Context& context, const Json& desired) override {
    if (is_watch(desired)) return Json::object();  // observing is all there is to it
    const bool weights = TRY(is_weights(desired));
    const auto lock = TRY(serialise(context));
    return weights ? haproxy::undo_weights(context, desired) : haproxy::undo_drain(context, desired);
  }

  Result<Json> observe_undo(const Context& context, const Json& desired) override {
    if (is_watch(desired) || is_silent(desired)) return undo_outlook("");  // only looked at
    return haproxy::observe_way_back(context, desired);
  }

  Result<Json> check(const Context& context, const Json& desired) override {
    if (is_silent(desired)) return Json::array();  // as for the watch
    if (is_watch(desired)) return Json::array();  // what it asks for, the weights' own check asks for too
    return haproxy::check_backend(context, desired, TRY(is_weights(desired)));
  }

  std::string describe(const Json& desired) const override {
    const auto backend = get_string_or(desired, "backend", "?");
    if (get_string_or(desired, "kind", "") == "weights") {
      return fmt::format("HAProxy's backend {} sends {} % to new (before: {} %)", backend,
                         get_int_or(desired, "percent", -1), get_int_or(desired, "from", -1));
    }
    if (is_silent(desired)) {
      return fmt::format("waits until HAProxy's backend {} has given {} no session for {} s", backend,
                         join(get_strings(desired, "servers").value_or(std::vector<std::string>{}), ", "),
                         static_cast<double>(get_int_or(desired, "silence_ms", 0)) / 1000);
    }
    if (is_watch(desired)) return fmt::format("compares new with old in HAProxy's backend {}", backend);
    const auto servers = get_strings(desired, "servers");
    return fmt::format("HAProxy's backend {} drains {}", backend, servers ? join(*servers, ", ") : "?");
  }

 private:
  static bool is_watch(const Json& desired) { return get_string_or(desired, "kind", "") == "watch"; }
  static bool is_silent(const Json& desired) { return get_string_or(desired, "kind", "") == "silent"; }
  static Result<bool> is_weights(const Json& desired) {
    const auto kind = TRY(get_string(desired, "kind"));
    if (kind != "weights" && kind != "drain") {
      return refused(fmt::format("mover traffic knows no kind '{}'", printable(kind)),
                     "it knows weights, drain, watch and silent");
    }
    return kind == "weights";
  }

  // Read, change, read back is one act: two backends may share one configuration file.
  Result<std::unique_lock<std::timed_mutex>> serialise(const Context& context) {
    std::unique_lock lock(effects_, std::defer_lock);
    while (!lock.try_lock_for(Millis(20))) {
      if (context.stop.stop_requested())
        return failure(ErrorKind::cancelled, "stopped while another change of HAProxy was under way");
      if (context.deadline.expired()) return failure(ErrorKind::cancelled, "another change of HAProxy took too long");
    }
    return lock;
  }

  std::timed_mutex effects_;
  haproxy::Watches watches_;
  haproxy::Silences silences_;
};

}  // namespace

std::unique_ptr<Mover> make_traffic_mover() { return std::make_unique<TrafficMover>(); }

}  // namespace midstream
