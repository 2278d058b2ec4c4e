#include "movers/hosts/hosts.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/hosts/host_questions.h"
#include "movers/hosts/units.h"

namespace midstream {

namespace {

bool of_unit(std::string_view kind) { return kind == "unit" || kind == "unit-ready" || kind == "unit-end"; }

std::unexpected<Error> unknown_kind(std::string_view kind) {
  return refused(fmt::format("hosts: there is no kind '{}'", printable(kind)));
}

class HostsMover final : public Mover {
 public:
  explicit HostsMover(HostsOptions options) : options_(std::move(options)), units_(options_) {}

  std::string_view name() const override { return "hosts"; }

  Result<> start(const Context& base) override {
    units_.start(base);
    return {};
  }

  Result<Json> observe(const Context& context, const Json& desired) override {
    const auto kind = TRY(get_string(desired, "kind"));
    if (!of_unit(kind)) return unknown_kind(kind);
    return units_.observe(context, TRY(parse_unit_move(desired)), kind);
  }

  Result<Json> apply(const Context& context, const Json& desired) override {
    const auto kind = TRY(get_string(desired, "kind"));
    if (!of_unit(kind)) return unknown_kind(kind);
    return units_.apply(context, TRY(parse_unit_move(desired)), kind);
  }

  Result<Json> undo(const Context& context, const Json& desired) override {
    const auto kind = TRY(get_string(desired, "kind"));
    if (!of_unit(kind)) return unknown_kind(kind);
    return units_.undo(context, TRY(parse_unit_move(desired)), kind);
  }

  Result<Json> observe_undo(const Context& context, const Json& desired) override {
    const auto kind = TRY(get_string(desired, "kind"));
    if (!of_unit(kind)) return unknown_kind(kind);
    return units_.observe_undo(context, TRY(parse_unit_move(desired)), kind);
  }

  Result<Json> check(const Context& context, const Json& desired) override {
    const auto kind = TRY(get_string(desired, "kind"));
    if (kind == "inventory") return check_inventory(options_, context, desired);
    if (kind == "size") return check_size(options_, context, desired);
    if (kind == "unit-ready") return units_.check(context, TRY(parse_unit_move(desired)));
    if (of_unit(kind)) return Json::array();  // the same unit's preparation says it
    return unknown_kind(kind);
  }

  std::string describe(const Json& desired) const override {
    const auto kind = get_string_or(desired, "kind", "");
    const auto unit = parse_unit_move(desired);
    if (!unit) return "hosts: " + unit.error().text();
    if (kind == "unit-ready") return fmt::format("hold {} on {} until the switch", unit->name, unit->to);
    if (kind == "unit-end") return fmt::format("forget where {} may run; where it is held it stays so", unit->name);
    return fmt::format("stop {} on {}, see that nothing of it is left, and start it on {}", unit->name, unit->from,
                       unit->to);
  }

  Result<Json> peer(const Context& context, std::string_view verb, const Json& args) override {
    if (!args.contains("unit")) return answer_question(options_, context, verb, args);
    return units_.peer(context, verb, args);
  }

 private:
  HostsOptions options_;
  Units units_;
};

}  // namespace

std::unique_ptr<Mover> make_hosts_mover(HostsOptions options) {
  return std::make_unique<HostsMover>(std::move(options));
}

}  // namespace midstream
