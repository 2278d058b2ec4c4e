#include "gate/statements.h"

#include <algorithm>

namespace midstream::gate {

void Statements::erase(std::map<std::string, std::string>::iterator it) {
  bytes_ -= it->second.size();
  missing_ -= it->second.empty() ? 1 : 0;
  by_name_.erase(it);
}

void Statements::prepared(const std::string& key, std::string body) {
  closed(key);
  if (by_name_.size() >= kMost) {
    overflown_ = true;
    return;
  }
  if (bytes_ + body.size() > kMostBytes) body.clear();
  bytes_ += body.size();
  missing_ += body.empty() ? 1 : 0;
  by_name_.emplace(key, std::move(body));
}

void Statements::closed(const std::string& key) {
  if (const auto it = by_name_.find(key); it != by_name_.end()) erase(it);
}

void Statements::command(std::string_view tag) {
  if (tag == "DEALLOCATE ALL" || tag == "DISCARD ALL") {
    for (auto it = by_name_.begin(); it != by_name_.end();) {
      const auto here = it++;
      if (!here->first.empty()) erase(here);
    }
    doubtful_ = false;
    ++resets_;
  } else if (tag == "DEALLOCATE" || tag == "PREPARE") {
    doubtful_ = true;
  }
}

}  // namespace midstream::gate
