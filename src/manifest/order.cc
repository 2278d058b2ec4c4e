// Checks that concern the manifest as a whole: the order of services, and what rides on a subnet that moves.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/text.h"
#include "manifest/build.h"
#include "manifest/values.h"

namespace midstream {

namespace {

class Orderer {
 public:
  Orderer(std::vector<ServiceSpec> services, const YamlNode& node, std::vector<Problem>& problems)
      : services_(std::move(services)), node_(node), problems_(problems), state_(services_.size()) {
    for (const auto& service : services_) names_.push_back(service.name);
  }

  std::vector<ServiceSpec> run() {
    for (std::size_t i = 0; i < services_.size(); ++i) {
      if (state_[i] == State::fresh) visit(i);
    }
    std::vector<ServiceSpec> ordered;
    for (const auto i : order_) ordered.push_back(std::move(services_[i]));
    return ordered;
  }

 private:
  enum class State { fresh, open, done };

  // Depth-first, needed services first. Recursion is as deep as the chain of needs, which the visit limit bounds.
  void visit(std::size_t i) {
    state_[i] = State::open;
    path_.push_back(names_[i]);
    for (const auto* need : MapReader(*node_.entries[i].value, "").scalars("needs")) follow(i, *need);
    path_.pop_back();
    state_[i] = State::done;
    order_.push_back(i);
  }

  void follow(std::size_t i, const YamlNode& need) {
    const auto path = fmt::format("services.{}.needs", names_[i]);
    const auto found = std::ranges::find(names_, need.text);
    if (found == names_.end()) {
      problems_.push_back({need.at, fmt::format("{}: {}", path, found_expected(need.text, fmt::format("a service ({})", join(names_, ", ")), names_))});
      return;
    }
    const auto other = static_cast<std::size_t>(found - names_.begin());
    if (state_[other] == State::open) {
      auto cycle = std::vector<std::string>(std::ranges::find(path_, need.text), path_.end());
      cycle.push_back(need.text);
      problems_.push_back({need.at, fmt::format("{}: found the cycle {}, expected none", path, join(cycle, " -> "))});
    } else if (state_[other] == State::fresh) {
      visit(other);
    }
  }

  std::vector<ServiceSpec> services_;
  const YamlNode& node_;
  std::vector<Problem>& problems_;
  std::vector<State> state_;
  std::vector<std::string> names_;
  std::vector<std::string> path_;
  std::vector<std::size_t> order_;
};

struct Range {
  Prefix prefix;
  std::string text;
  MapReader from;
  bool moves;
};

void check_members(const Range& range, std::vector<Problem>& problems) {
  const auto check = [&](const YamlNode& value, const std::string& path) {
    const auto address = parse_address(value.text).value_or(Address());
    if (!range.prefix.contains(address) || range.prefix.is_reserved(address)) {
      problems.push_back({value.at, fmt::format("{}: {}", path, found_expected(value.text, "an address of a host in " + range.text, {}))});
    }
  };
  std::map<Address, bool> seen;
  for (const auto* value : range.from.scalars("addresses")) {
    check(*value, range.from.path("addresses"));
    if (!seen.emplace(parse_address(value->text).value_or(Address()), true).second) {
      problems.push_back({value->at, fmt::format("{}: found {} a second time, expected it once", range.from.path("addresses"), in_quotes(value->text))});
    }
  }
  const auto* gateway = range.from.find("gateway");
  if (gateway == nullptr) return;
  check(*gateway, range.from.path("gateway"));
  if (seen.contains(parse_address(gateway->text).value_or(Address()))) {
    problems.push_back({gateway->at, fmt::format("{}: {}", range.from.path("gateway"), found_expected(gateway->text, "an address that does not move", {}))});
  }
}

std::vector<Range> ranges_of(const YamlNode& root, std::vector<Problem>& problems) {
  std::vector<Range> ranges;
  for (const auto& from : MapReader(root, "").maps("addresses")) {
    const std::string_view key = from.has("subnet") ? "subnet" : "pool";
    const auto prefix = parse_prefix(from.text(key));
    if (!prefix) continue;
    const Range range{*prefix, from.text(key), from, key == "subnet"};
    if (!prefix->is_network()) {
      problems.push_back({from.at(key), fmt::format("{}: {}", from.path(key), found_expected(range.text, "a prefix whose host bits are 0", {}))});
    }
    for (const auto& other : ranges) {
      if (!prefix->overlaps(other.prefix)) continue;
      problems.push_back({from.at(key), fmt::format("{}: {}", from.path(key), found_expected(range.text, "a prefix apart from " + other.text, {}))});
    }
    ranges.push_back(range);
  }
  return ranges;
}

}  // namespace

std::vector<ServiceSpec> order_services(std::vector<ServiceSpec> services, const YamlNode& node,
                                        std::vector<Problem>& problems) {
  return Orderer(std::move(services), node, problems).run();
}

void check_addresses(const Manifest& manifest, const YamlNode& root, std::vector<Problem>& problems) {
  const auto ranges = ranges_of(root, problems);
  for (const auto& range : ranges) check_members(range, problems);
  const auto rides = [&](const std::string& text, Position at, const std::string& path) {
    const auto address = parse_address(text);
    for (const auto& range : ranges) {
      if (!address || !range.moves || !range.prefix.contains(*address)) continue;
      problems.push_back({at, fmt::format("{}: {}", path, found_expected(text, fmt::format("an address that does not move ({} does)", range.text), {}))});
    }
  };
  const MapReader top(root, "");
  for (const auto& host : manifest.hosts) {
    const auto from = top.map("hosts").map(host.name);
    rides(host.ssh.substr(host.ssh.find('@') + 1), from.at("ssh"), from.path("ssh"));
    if (from.has("data")) rides(host.data, from.at("data"), from.path("data"));
  }
  for (const auto& entry : root.find("services")->entries) {
    for (const auto& name : MapReader(*entry.value, path_to("services", entry.key)).maps("names")) {
      rides(name.text("server"), name.at("server"), name.path("server"));
    }
  }
}

}  // namespace midstream
