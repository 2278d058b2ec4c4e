// Which path became which, as the watcher saw it: hints, so that what was only renamed need not be sent again. Thread-safe.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace midstream::files {

class Renames {
 public:
  // Of a chain of renames only its first and its last name are kept. Too many at once are all forgotten.
  void note(const std::string& from, const std::string& to);
  std::optional<std::string> to(const std::string& from) const;
  std::optional<std::string> from(const std::string& to) const;
  void forget(const std::string& from);

 private:
  void forget_locked(const std::string& from);

  mutable std::mutex mutex_;
  std::map<std::string, std::string> to_, from_;
};

}  // namespace midstream::files
