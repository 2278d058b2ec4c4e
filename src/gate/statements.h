// What a session has prepared by protocol messages, as far as the wire shows it: enough to prepare it again elsewhere. SQL
// may change it unseen (PREPARE in a function, DEALLOCATE of one name): `doubtful()` says that the server must be asked.
// Pure.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>

namespace midstream::gate {

class Statements {
 public:
  // PostgreSQL tells names apart by their first 63 bytes.
  static std::string key(std::string_view name) { return std::string(name.substr(0, 63)); }

  // A Parse that the server has taken: its body, or nothing if it was too long to be kept.
  void prepared(const std::string& key, std::string body);
  void closed(const std::string& key);
  void unnamed_gone() { closed(""); }
  // What a command's tag tells of statements and of session state.
  void command(std::string_view tag);

  // Parse bodies by name; "" is the unnamed one. An empty body: it exists, and was too long.
  const std::map<std::string, std::string>& all() const { return by_name_; }
  bool doubtful() const { return doubtful_; }
  // Grows when everything with a name was dropped, as far as the tags of commands tell.
  std::uint64_t resets() const { return resets_; }
  // Statements of which not everything is known that it takes to prepare them again.
  bool complete() const { return missing_ == 0 && !overflown_; }

 private:
  // Of all bodies together; beyond it they are no longer kept.
  static constexpr std::size_t kMostBytes = 4u << 20;
  static constexpr std::size_t kMost = 20'000;
  void erase(std::map<std::string, std::string>::iterator it);
  std::map<std::string, std::string> by_name_;
  std::size_t bytes_ = 0;
  std::uint64_t resets_ = 0;
  std::size_t missing_ = 0;
  bool doubtful_ = false;
  bool overflown_ = false;
};

}  // namespace midstream::gate
