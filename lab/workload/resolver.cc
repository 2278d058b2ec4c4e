#include "lab/workload/resolver.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>

#include <algorithm>

#include "sys/clock.h"

namespace midstream::lab {
namespace {

bool is_numeric(const std::string& name) {
  unsigned char bytes[16];
  return ::inet_pton(AF_INET, name.c_str(), bytes) == 1 || ::inet_pton(AF_INET6, name.c_str(), bytes) == 1;
}

// One question to the servers of resolv.conf, which is read anew: it may have changed.
Result<Answer> ask(const std::string& name, int type) {
  struct __res_state state {};
  if (::res_ninit(&state) != 0) return retry("the resolver cannot be set up");
  state.retrans = 1;  // seconds for a server; the default of 5 is longer than anything that is measured here
  state.retry = 2;
  unsigned char bytes[4096];
  const int size = ::res_nquery(&state, name.c_str(), ns_c_in, type, bytes, sizeof bytes);
  const int failed = state.res_h_errno;
  ::res_nclose(&state);
  if (size < 0) {
    if (failed == HOST_NOT_FOUND || failed == NO_DATA) return Answer();
    return retry(fmt::format("no name server answered for {}", name));
  }
  return parse_dns_answer(
      std::string_view(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size)), type);
}

}  // namespace

Result<Answer> parse_dns_answer(std::string_view message, int type) {
  ns_msg parsed;
  if (::ns_initparse(reinterpret_cast<const unsigned char*>(message.data()), static_cast<int>(message.size()),
                     &parsed) != 0) {
    return corrupt("a DNS answer cannot be parsed");
  }
  Answer out;
  std::uint32_t least = 86400;
  for (int i = 0; i < ns_msg_count(parsed, ns_s_an); ++i) {
    ns_rr record;
    if (::ns_parserr(&parsed, ns_s_an, i, &record) != 0)
      return corrupt("a record of a DNS answer cannot be parsed");
    least = std::min<std::uint32_t>(least, ns_rr_ttl(record));
    if (ns_rr_type(record) != type) continue;
    const bool v6 = type == ns_t_aaaa;
    if (ns_rr_rdlen(record) != (v6 ? 16 : 4))
      return corrupt("an address in a DNS answer has the wrong length");
    char text[INET6_ADDRSTRLEN];
    ::inet_ntop(v6 ? AF_INET6 : AF_INET, ns_rr_rdata(record), text, sizeof text);
    out.addresses.emplace_back(text);
  }
  out.ttl = std::chrono::seconds(out.addresses.empty() ? 0 : least);
  return out;
}

Result<std::vector<std::string>> Resolver::lookup(const std::string& name) {
  if (is_numeric(name)) return std::vector{name};
  std::lock_guard lock(mutex_);  // others who want the same name wait for this answer
  auto& entry = entries_[name];
  if (boot_now() < entry.until) return entry.answer.addresses;
  auto v6 = TRY(ask(name, ns_t_aaaa));
  const auto v4 = TRY(ask(name, ns_t_a));
  if (v6.addresses.empty() && v4.addresses.empty()) return retry(fmt::format("{} has no address", name));
  Answer answer = v6.addresses.empty() ? v4 : v6;
  if (!v6.addresses.empty() && !v4.addresses.empty()) {
    answer.addresses.insert(answer.addresses.end(), v4.addresses.begin(), v4.addresses.end());
    answer.ttl = std::min(v6.ttl, v4.ttl);
  }
  entry = Entry{answer, boot_now() + answer.ttl};
  return answer.addresses;
}

}  // namespace midstream::lab
