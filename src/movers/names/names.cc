#include "movers/names/names.h"

#include <fmt/format.h>

#include <mutex>

#include "base/text.h"
#include "movers/names/change.h"
#include "movers/names/check.h"

namespace midstream {

namespace {

using namespace dns;

constexpr Millis kLook{2'000};  // for an observation of one server

enum class Kind { ttl, repoint, expired, end };

Result<Kind> kind_of(const Json& desired) {
  const auto kind = TRY(get_string(desired, "kind"));
  if (kind == "ttl") return Kind::ttl;
  if (kind == "repoint") return Kind::repoint;
  if (kind == "expired") return Kind::expired;
  if (kind == "end") return Kind::end;
  return refused(fmt::format("mover names knows no kind '{}'", printable(kind)),
                 "it knows ttl, repoint, expired and end");
}

// DNS counts whole seconds.
Result<std::int64_t> seconds(const Json& desired, std::string_view field) {
  const auto ms = TRY(get_int(desired, field));
  if (ms < 0 || ms % 1000 != 0 || ms / 1000 > 0x7fffffff)
    return refused(fmt::format("a {} of {} ms is no TTL", field, ms), "give whole seconds");
  return ms / 1000;
}

Result<std::string> address(const Json& desired, std::string_view field, Type type) {
  return canonical_address(type, TRY(get_string(desired, field)));
}

// What apply changes; undo is the mirrored change.
Result<Change> change_of(Kind kind, const Json& desired, Type type, bool back) {
  if (kind == Kind::ttl) {
    const auto value = TRY(address(desired, "value", type));
    return Change{value, value, TRY(seconds(desired, back ? "from_ttl" : "ttl"))};
  }
  return Change{TRY(address(desired, back ? "to" : "from", type)),
                TRY(address(desired, back ? "from" : "to", type)), TRY(seconds(desired, "ttl"))};
}

class NamesMover final : public Mover {
 public:
  std::string_view name() const override { return "names"; }

  // Nothing to go on with: records have no lease, and clocks are read from disk when they are asked for.
  Result<> start(const Context&) override { return {}; }

  Result<Json> observe(const Context& context, const Json& desired) override {
    const auto kind = TRY(kind_of(desired));
    const auto record = TRY(read_record(context, desired));
    if (kind == Kind::expired) return observe_clock(context, record, desired);
    if (kind == Kind::end) return observe_end(context, record);
    const auto change = TRY(change_of(kind, desired, record.type, false));
    const auto servers = TRY(name_servers(context, record));
    const auto seen = ask_all(context, record, servers, kLook);
    const auto why = disagreement(seen, change.to, change.ttl);
    Json answer = observation(why.empty(), why);
    answer["servers"] = dns::to_json(seen, servers);
    answer["ttl_ms"] = seen.front().ttl * 1000;  // the primary's
    return answer;
  }

  Result<Json> apply(const Context& context, const Json& desired) override {
    const auto kind = TRY(kind_of(desired));
    const auto lock = TRY(serialise(context));
    const auto record = TRY(read_record(context, desired));
    if (kind == Kind::expired) return begin_clock(context, record, desired);
    if (kind == Kind::end) return release(context, record);
    return make_change(context, record, TRY(change_of(kind, desired, record.type, false)));
  }

  Result<Json> undo(const Context& context, const Json& desired) override {
    const auto kind = TRY(kind_of(desired));
    if (kind == Kind::end) return refused("the end of a move of names is not taken back", "start a new move");
    const auto lock = TRY(serialise(context));
    const auto record = TRY(read_record(context, desired));
    if (kind == Kind::expired) {
      CHECK_OK(stop_clock(context, record));
      return Json::object();
    }
    const auto applied = TRY(change_of(kind, desired, record.type, false));
    const auto back = TRY(change_of(kind, desired, record.type, true));
    if (!TRY(load_found(context, record.name, record.type))) {
      // Never changed by this move, or all put back. Where the state was lost, what is there still tells.
      const auto now =
          TRY(ask(record.primary, record.name, record.type, context.deadline.sooner(kLook), context.stop));
      const auto epoch = TRY(
          ask(record.primary, record.epoch_name(), Type::txt, context.deadline.sooner(kLook), context.stop));
      const bool ours =
          !epoch.values.empty() && now.values == std::vector{applied.to} && now.ttl == applied.ttl;
      if (!ours) return Json::object();
    }
    return make_change(context, record, back);
  }

  // The primary must be there for the mirrored update; what others answer is verified then.
  Result<Json> observe_undo(const Context& context, const Json& desired) override {
    const auto kind = TRY(kind_of(desired));
    if (kind == Kind::end) return undo_outlook("the end of a move of names is not taken back");
    if (kind == Kind::expired) return undo_outlook("");
    const auto record = read_record(context, desired);
    if (!record) return undo_outlook(record.error().what);
    const auto seen = ask(record->primary, record->name, record->type, context.deadline.sooner(kLook), context.stop);
    if (!seen) return undo_outlook(fmt::format("the primary for {} does not answer: {}", record->text(), seen.error().what));
    return undo_outlook(seen->authoritative ? "" : fmt::format("the primary has no authority for {} now", record->text()));
  }

  Result<Json> check(const Context& context, const Json& desired) override {
    const auto kind = TRY(kind_of(desired));
    if (kind == Kind::end) return Json::array();
    const auto expected = TRY(get_string(desired, kind == Kind::repoint ? "from" : "value"));
    return check_record(context, desired, expected,
                        kind == Kind::ttl ? TRY(seconds(desired, "from_ttl")) : -1);
  }

  std::string describe(const Json& desired) const override {
    const auto what =
        fmt::format("{} {}", get_string_or(desired, "type", "?"), get_string_or(desired, "name", "?"));
    auto in_seconds = [&](std::string_view field) {
      return static_cast<double>(get_int_or(desired, field, 0)) / 1000;
    };
    const auto kind = kind_of(desired);
    if (!kind) return fmt::format("names: {}", what);
    switch (*kind) {
      case Kind::ttl:
        return fmt::format("{} gets a TTL of {} s (before: {} s)", what, in_seconds("ttl"),
                           in_seconds("from_ttl"));
      case Kind::repoint:
        return fmt::format("{} goes from {} to {} on every name server", what,
                           get_string_or(desired, "from", "?"), get_string_or(desired, "to", "?"));
      case Kind::expired:
        return fmt::format("waits {} s, until no cache holds another {} than {}", in_seconds("ttl"), what,
                           get_string_or(desired, "value", "?"));
      case Kind::end:
        return fmt::format("the epoch record beside {} is removed", what);
    }
    return what;
  }

 private:
  static Result<Json> observe_clock(const Context& context, const Record& record, const Json& desired) {
    const auto value = TRY(address(desired, "value", record.type));
    const auto ttl = TRY(get_int(desired, "ttl"));
    const auto servers = TRY(name_servers(context, record));
    const auto seen = ask_all(context, record, servers, kLook);
    const auto elapsed = TRY(clock_elapsed_ms(context, record, value));
    const auto left = elapsed ? std::max<std::int64_t>(0, ttl - *elapsed) : ttl;
    auto why = disagreement(seen, value, -1);
    if (why.empty() && !elapsed)
      why = fmt::format("the clock for {} has not been started", record.text());
    else if (why.empty() && left > 0)
      why = fmt::format("caches may hold the former {} for another {} ms", record.text(), left);
    Json answer = observation(why.empty(), why);
    answer["left_ms"] = left;
    answer["servers"] = dns::to_json(seen, servers);
    return answer;
  }

  static Result<Json> begin_clock(const Context& context, const Record& record, const Json& desired) {
    const auto value = TRY(address(desired, "value", record.type));
    const auto servers = TRY(name_servers(context, record));
    const auto seen = ask_all(context, record, servers, kLook);
    const auto why = disagreement(seen, value, -1);
    if (!why.empty()) {
      CHECK_OK(stop_clock(context, record));  // somebody was seen to hand out another value: from the start
      return retry(fmt::format("the clock for {} cannot start: {}", record.text(), why),
                   "every name server must say the same");
    }
    if (!TRY(clock_elapsed_ms(context, record, value))) CHECK_OK(start_clock(context, record, value));
    return Json{{"left_ms",
                 std::max<std::int64_t>(0, TRY(get_int(desired, "ttl")) -
                                               TRY(clock_elapsed_ms(context, record, value)).value_or(0))}};
  }

  static Result<Json> observe_end(const Context& context, const Record& record) {
    const auto epoch = TRY(
        ask(record.primary, record.epoch_name(), Type::txt, context.deadline.sooner(kLook), context.stop));
    return observation(epoch.values.empty(),
                       epoch.values.empty() ? "" : fmt::format("{} is still there", record.epoch_name()));
  }

  // Look, change, look again is one act: A and AAAA of a name share its epoch record.
  Result<std::unique_lock<std::timed_mutex>> serialise(const Context& context) {
    std::unique_lock lock(effects_, std::defer_lock);
    while (!lock.try_lock_for(Millis(20))) {
      if (context.stop.stop_requested())
        return failure(ErrorKind::cancelled, "stopped while another name was being changed");
      if (context.deadline.expired())
        return failure(ErrorKind::cancelled, "another change of names took too long");
    }
    return lock;
  }

  std::timed_mutex effects_;
};

}  // namespace

std::unique_ptr<Mover> make_names_mover() {
  return std::make_unique<NamesMover>();
}

}  // namespace midstream
