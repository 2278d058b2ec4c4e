// A client's resolver as it should be: it asks the servers of /etc/resolv.conf, and keeps an answer for its
// TTL and no longer. libc's getaddrinfo does not tell the TTL, so the question is asked with libresolv.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace midstream::lab {

struct Answer {
  std::vector<std::string> addresses;  // numeric; AAAA first, as RFC 6724 has it for global addresses
  std::chrono::seconds ttl{0};         // the least of all records
};

// Pure: the addresses of `type` (A or AAAA) in a DNS message. Records of other types (a CNAME on the way)
// only lower the TTL. No such name, and a name without the type, are empty answers.
Result<Answer> parse_dns_answer(std::string_view message, int type);

// Thread-safe. An expired answer is never given out: where the servers are silent the lookup fails, as it
// would for a user.
class Resolver {
 public:
  // Numeric names are answered at once. Blocks for at most about 4 s.
  Result<std::vector<std::string>> lookup(const std::string& name);

 private:
  struct Entry {
    Answer answer;
    std::chrono::nanoseconds until{0};
  };
  std::mutex mutex_;
  std::map<std::string, Entry> entries_;
};

}  // namespace midstream::lab
