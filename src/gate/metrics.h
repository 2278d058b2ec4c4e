// What a gate counts as others read it: Prometheus' text format 0.0.4, and the same as JSON. The names are a contract:
// docs/formats/gate.md. No label comes from a client: how many lines there are is the configuration's. Pure but for Switches.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "gate/tally.h"

namespace midstream::gate {

// Why a switch that had begun to hold came to nothing.
enum class Failed {
  pinned,     // a session has what cannot be carried
  busy,       // a session did not come to rest in time
  late,       // the hold was over before it was kept
  withdrawn,  // whoever asked for it took it back, or fell silent, and the title says that nothing has moved
  again,      // it was asked for anew
};
inline constexpr std::array<std::string_view, 5> kFailed{"pinned", "busy", "late", "withdrawn", "asked_again"};

// How the switches of each database fared. Thread-safe.
class Switches {
 public:
  struct Key {
    std::string database, to;
    auto operator<=>(const Key&) const = default;
  };
  struct Count {
    std::uint64_t tried = 0, done = 0;
    std::array<std::uint64_t, kFailed.size()> failed{};
  };
  struct Counts {
    std::map<Key, Count> of;
    Spans done, failed;  // how long everything was held
    std::uint64_t holding = 0;
  };
  void known(const Key& key);  // it is there from now on, with nothing counted
  // The hold has begun at that moment; it ends by done() or failed(). One that was there is over.
  void begun(const Key& key, std::chrono::nanoseconds now);
  void done(const Key& key, std::chrono::nanoseconds now);
  void failed(const Key& key, Failed why, std::chrono::nanoseconds now);
  Counts counts() const;

 private:
  void end(const Key& key, Failed why, std::chrono::nanoseconds now);
  mutable std::mutex mutex_;
  Counts counts_;
  std::map<Key, std::chrono::nanoseconds> holding_;  // since when
};

struct Family {
  std::string name;
  std::string_view type;  // counter, gauge, histogram
  std::string_view help;
  using Labels = std::vector<std::pair<std::string, std::string>>;
  struct Sample {
    Labels labels;
    double value = 0;
  };
  std::vector<Sample> samples;
  struct Distribution {
    Labels labels;
    Spans spans;
  };
  std::vector<Distribution> distributions;  // of a histogram
};

struct Metrics {
  Totals totals;
  Switches::Counts switches;
  std::vector<std::string> servers;  // their labels, in their order
  double start_seconds = 0;          // since 1970
};
std::vector<Family> families(const Metrics& metrics);
std::string prometheus_text(const std::vector<Family>& families);
Json to_json(const std::vector<Family>& families);

}  // namespace midstream::gate
