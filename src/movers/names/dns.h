// DNS messages to one server: questions without recursion, and signed updates. Reference: RFC 1035, 2136,
// 8945.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "movers/names/key_file.h"
#include "sys/clock.h"

namespace midstream::dns {

enum class Type { a, aaaa, ns, soa, txt, cname };
std::string_view to_string(Type type);
// A or AAAA; refused otherwise.
Result<Type> address_type(std::string_view name);

struct Endpoint {
  std::string address;  // numeric
  std::uint16_t port = 53;
};
// Whether this host has a route there; asks only the own kernel.
bool has_route(const Endpoint& server);

// An absolute name in lower case; refused where `name` is not one.
Result<std::string> canonical_name(std::string_view name);
// An address in the one spelling that answers use; refused where it is not of `type`.
Result<std::string> canonical_address(Type type, std::string_view address);

struct Answer {
  std::string rcode;  // "NOERROR", "NXDOMAIN", "REFUSED" ...
  bool authoritative = false;
  std::vector<std::string> values;  // of the type asked, at the name asked, sorted; SOA: its serial
  std::int64_t ttl = 0;             // of those, in seconds
  std::string cname;                // where the name is an alias
  struct Glue {
    std::string name;
    std::string address;
  };
  std::vector<Glue> glue;  // addresses in the additional section
};

// Asks with RD=0 over UDP, again each half second until the deadline, and over TCP where the answer was cut.
// A server that does not answer is `retry`. Only answers with our id and question count.
Result<Answer> ask(const Endpoint& server, std::string_view name, Type type, Deadline deadline,
                   const std::stop_token& stop);

struct Rrset {
  std::string name;
  Type type = Type::a;
  std::vector<std::string> values;
  std::int64_t ttl = 0;  // seconds; ignored in prerequisites
};

// One atomic message. It takes effect as a whole or not at all.
struct Update {
  std::string zone;
  std::vector<Rrset> required;  // prerequisite: exactly these values, or no such set where values is empty
  std::vector<Rrset> replaced;  // the set becomes these; gone where values is empty
  std::vector<Rrset> removed;  // single values taken out; none that is not there does harm (RFC 2136 3.4.2.4)
};

// Sends it over TCP, so that no duplicate of it can arrive later, and verifies the answer's TSIG. The value
// is the rcode, for NOERROR, NXRRSET, YXRRSET and NXDOMAIN / YXDOMAIN; all others are errors with what to do.
// Nobody answers after it has left: `unknown`.
Result<std::string> send_update(const Endpoint& server, const Update& update, const TsigKey& key,
                                Deadline deadline, const std::stop_token& stop);

}  // namespace midstream::dns
