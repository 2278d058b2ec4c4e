// What steps cost, kept on the controller over all its moves: rehearsals and earlier moves tell later plans what to expect.
// history.json beside the moves' directories; docs/formats/journal.md. Values and their file; no clock.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/plan.h"

namespace midstream {

// "postgres/switch": steps of one key are expected to cost alike.
std::string history_key(const Step& step);

class History {
 public:
  struct Entry {
    std::string move;
    std::string step;
    std::int64_t at_ms = 0;
    std::optional<std::int64_t> blackout_ms;  // upper bound of what its service lost; nothing where it was not measured
    std::optional<std::int64_t> took_ms;
  };
  // Of the latest entries of a key, the worst of each.
  struct Cost {
    std::optional<std::int64_t> blackout_ms;
    std::optional<std::int64_t> took_ms;
    int times = 0;  // that a blackout was measured
  };

  // Forgets the oldest of the key beyond what is kept.
  void add(const std::string& key, Entry entry);
  std::optional<Cost> cost(const std::string& key) const;

  Json to_json() const;
  static Result<History> from_json(const Json& value);
  // Empty where there is no file; corrupt, naming it, where it cannot be read.
  static Result<History> load(const std::filesystem::path& file);
  Result<> save(const std::filesystem::path& file) const;

 private:
  std::map<std::string, std::vector<Entry>> entries_;
};

}  // namespace midstream
