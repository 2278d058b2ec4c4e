#include "movers/names/dns.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ldns/ldns.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>

#include "base/text.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream::dns {

namespace {

struct Free {
  void operator()(ldns_pkt* packet) const { ldns_pkt_free(packet); }
  void operator()(ldns_rdf* rdf) const { ldns_rdf_deep_free(rdf); }
  void operator()(ldns_rr_list* list) const { ldns_rr_list_deep_free(list); }
  void operator()(void* memory) const { std::free(memory); }
};
using Packet = std::unique_ptr<ldns_pkt, Free>;
using Rdf = std::unique_ptr<ldns_rdf, Free>;
using List = std::unique_ptr<ldns_rr_list, Free>;

constexpr std::size_t kMaxMessage = 65535;
constexpr std::uint16_t kFudgeSeconds = 300;  // RFC 8945 10
// TSIG errors, RFC 8945 3
constexpr int kBadSig = 16;
constexpr int kBadKey = 17;
constexpr int kBadTime = 18;

ldns_rr_type code(Type type) {
  switch (type) {
    case Type::a:
      return LDNS_RR_TYPE_A;
    case Type::aaaa:
      return LDNS_RR_TYPE_AAAA;
    case Type::ns:
      return LDNS_RR_TYPE_NS;
    case Type::soa:
      return LDNS_RR_TYPE_SOA;
    case Type::txt:
      return LDNS_RR_TYPE_TXT;
    case Type::cname:
      return LDNS_RR_TYPE_CNAME;
  }
  return LDNS_RR_TYPE_A;
}

std::string text_of(char* owned) {
  const std::unique_ptr<char, Free> text(owned);
  return text ? std::string(text.get()) : std::string();
}

std::string rcode_name(ldns_pkt_rcode rcode) {
  auto name = text_of(ldns_pkt_rcode2str(rcode));
  return name.empty() ? fmt::format("rcode {}", static_cast<int>(rcode)) : name;
}

std::uint16_t random_id() {
  static thread_local std::random_device source;
  return static_cast<std::uint16_t>(source());
}

std::string where(const Endpoint& server) {
  return fmt::format("name server {} port {}", server.address, server.port);
}

Result<std::string> wire_of(const ldns_pkt* packet) {
  std::uint8_t* bytes = nullptr;
  std::size_t size = 0;
  const auto status = ldns_pkt2wire(&bytes, packet, &size);
  const std::unique_ptr<std::uint8_t, Free> owned(bytes);
  if (status != LDNS_STATUS_OK)
    return refused(fmt::format("cannot write a DNS message: {}", ldns_get_errorstr_by_id(status)));
  return std::string(reinterpret_cast<const char*>(bytes), size);
}

Result<Packet> parse(std::string_view wire) {
  ldns_pkt* packet = nullptr;
  const auto status = ldns_wire2pkt(&packet, reinterpret_cast<const std::uint8_t*>(wire.data()), wire.size());
  if (status != LDNS_STATUS_OK)
    return corrupt(fmt::format("a DNS message cannot be read: {}", ldns_get_errorstr_by_id(status)));
  return Packet(packet);
}

Result<Rdf> dname(std::string_view name) {
  Rdf rdf(ldns_dname_new_frm_str(std::string(name).c_str()));
  if (!rdf) return refused(fmt::format("'{}' is not a domain name", printable(name)));
  return rdf;
}

Result<sockaddr_storage> socket_address(const Endpoint& server) {
  sockaddr_storage storage{};
  auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  if (::inet_pton(AF_INET, server.address.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(server.port);
  } else if (::inet_pton(AF_INET6, server.address.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(server.port);
  } else {
    return refused(fmt::format("'{}' is not an address", printable(server.address)));
  }
  return storage;
}

Result<Fd> connect_udp(const Endpoint& server) {
  const auto to = TRY(socket_address(server));
  Fd fd(::socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_failure(where(server), errno);
  const socklen_t size = to.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), size) != 0)
    return errno_failure(where(server), errno);
  return fd;
}

// Whether `wire` answers `asked`; a datagram from anywhere may arrive on a socket.
bool answers(const ldns_pkt* asked, std::string_view wire) {
  if (wire.size() < 12) return false;
  const auto id = static_cast<std::uint16_t>(static_cast<unsigned char>(wire[0]) << 8 |
                                             static_cast<unsigned char>(wire[1]));
  return id == ldns_pkt_id(asked) && (static_cast<unsigned char>(wire[2]) & 0x80) != 0;
}

Result<std::string> exchange_udp(const Endpoint& server, const ldns_pkt* question, const std::string& wire,
                                 Deadline deadline, const std::stop_token& stop) {
  const auto fd = TRY(connect_udp(server));
  char buffer[4096];
  while (true) {
    if (::send(fd.get(), wire.data(), wire.size(), 0) < 0 && errno != ECONNREFUSED)
      return errno_failure(where(server), errno);
    const auto patience = deadline.sooner(Millis(500));
    while (true) {
      const auto ready = wait_fd(fd.get(), POLLIN, patience, stop);
      if (!ready && ready.error().kind != ErrorKind::retry) return std::unexpected(ready.error());
      if (!ready) break;
      const auto got = ::recv(fd.get(), buffer, sizeof buffer, 0);
      if (got < 0 && errno != EAGAIN && errno != EINTR) return errno_failure(where(server), errno);
      const std::string_view reply(buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
      if (answers(question, reply)) return std::string(reply);
    }
    if (deadline.expired()) return retry(fmt::format("{} does not answer", where(server)));
  }
}

Result<std::string> exchange_tcp(const Endpoint& server, const std::string& wire, Deadline deadline,
                                 const std::stop_token& stop) {
  auto stream = make_fd_stream(TRY(connect_tcp(server.address, server.port, deadline, stop)));
  std::string framed{static_cast<char>(wire.size() >> 8), static_cast<char>(wire.size() & 0xff)};
  framed += wire;
  CHECK_OK(stream->write_all(framed, deadline, stop));
  std::string reply;
  char buffer[4096];
  auto complete = [&] {
    return reply.size() >= 2 && reply.size() - 2 >= (static_cast<unsigned char>(reply[0]) * 256u +
                                                     static_cast<unsigned char>(reply[1]));
  };
  while (!complete() && reply.size() <= kMaxMessage + 2) {
    const auto got = stream->read_some(buffer, deadline, stop);
    if (!got)
      return failure(ErrorKind::unknown,
                     fmt::format("{} did not answer: {}", where(server), got.error().what));
    if (*got == 0)
      return failure(ErrorKind::unknown,
                     fmt::format("{} closed the connection without an answer", where(server)));
    reply.append(buffer, *got);
  }
  return reply.substr(2);
}

std::string value_of(const ldns_rr* rr) {
  if (ldns_rr_get_type(rr) == LDNS_RR_TYPE_SOA)
    return std::to_string(ldns_rdf2native_int32(ldns_rr_rdf(rr, 2)));
  if (ldns_rr_get_type(rr) != LDNS_RR_TYPE_TXT) return text_of(ldns_rdf2str(ldns_rr_rdf(rr, 0)));
  std::string text;
  for (std::size_t i = 0; i < ldns_rr_rd_count(rr); ++i) {  // each a length byte and its characters
    const auto* rdf = ldns_rr_rdf(rr, i);
    if (ldns_rdf_size(rdf) > 1)
      text.append(reinterpret_cast<const char*>(ldns_rdf_data(rdf)) + 1, ldns_rdf_size(rdf) - 1);
  }
  return text;
}

bool same_name(const ldns_rdf* a, const ldns_rdf* b) {
  const Rdf left(ldns_rdf_clone(a));
  const Rdf right(ldns_rdf_clone(b));
  ldns_dname2canonical(left.get());
  ldns_dname2canonical(right.get());
  return ldns_dname_compare(left.get(), right.get()) == 0;
}

Answer read_answer(const ldns_pkt* packet, const ldns_rdf* name, Type type) {
  Answer answer;
  answer.rcode = rcode_name(ldns_pkt_get_rcode(packet));
  answer.authoritative = ldns_pkt_aa(packet);
  const auto* list = ldns_pkt_answer(packet);
  for (std::size_t i = 0; list != nullptr && i < ldns_rr_list_rr_count(list); ++i) {
    const auto* rr = ldns_rr_list_rr(list, i);
    if (!same_name(ldns_rr_owner(rr), name)) continue;
    if (ldns_rr_get_type(rr) == LDNS_RR_TYPE_CNAME) answer.cname = value_of(rr);
    if (ldns_rr_get_type(rr) != code(type)) continue;
    answer.values.push_back(value_of(rr));
    answer.ttl = ldns_rr_ttl(rr);
  }
  std::sort(answer.values.begin(), answer.values.end());
  const auto* extra = ldns_pkt_additional(packet);
  for (std::size_t i = 0; extra != nullptr && i < ldns_rr_list_rr_count(extra); ++i) {
    const auto* rr = ldns_rr_list_rr(extra, i);
    const auto kind = ldns_rr_get_type(rr);
    if (kind != LDNS_RR_TYPE_A && kind != LDNS_RR_TYPE_AAAA) continue;
    const Rdf owner(ldns_rdf_clone(ldns_rr_owner(rr)));
    ldns_dname2canonical(owner.get());
    answer.glue.push_back({text_of(ldns_rdf2str(owner.get())), value_of(rr)});
  }
  return answer;
}

Result<Rdf> rdata(Type type, const std::string& value) {
  ldns_rdf* rdf = nullptr;
  if (type == Type::txt) {
    const auto kept = value.substr(0, 255);
    const auto text = static_cast<char>(kept.size()) + kept;
    rdf = ldns_rdf_new_frm_data(LDNS_RDF_TYPE_STR, text.size(), text.data());
  } else {
    rdf = ldns_rdf_new_frm_str(type == Type::a ? LDNS_RDF_TYPE_A : LDNS_RDF_TYPE_AAAA, value.c_str());
  }
  if (rdf == nullptr)
    return refused(fmt::format("'{}' is not a value for a {} record", printable(value), to_string(type)));
  return Rdf(rdf);
}

// Pushes one record: a value of `class` with `ttl`, or, without a value, the bare set.
Result<> push(ldns_rr_list* list, const Rrset& set, const std::string* value, ldns_rr_class rr_class,
              std::int64_t ttl) {
  auto owner = TRY(dname(set.name));
  Rdf data;
  if (value != nullptr) data = TRY(rdata(set.type, *value));
  ldns_rr* rr = ldns_rr_new();
  ldns_rr_set_owner(rr, owner.release());
  ldns_rr_set_type(rr, code(set.type));
  ldns_rr_set_class(rr, rr_class);
  ldns_rr_set_ttl(rr, static_cast<std::uint32_t>(ttl));
  if (data) ldns_rr_push_rdf(rr, data.release());
  ldns_rr_list_push_rr(list, rr);
  return {};
}

// RFC 2136 2.4 and 2.5: classes carry the meaning.
Result<Packet> update_packet(const Update& update) {
  const List required(ldns_rr_list_new());
  const List changes(ldns_rr_list_new());
  for (const auto& set : update.required) {
    if (set.values.empty()) CHECK_OK(push(required.get(), set, nullptr, LDNS_RR_CLASS_NONE, 0));
    for (const auto& value : set.values) CHECK_OK(push(required.get(), set, &value, LDNS_RR_CLASS_IN, 0));
  }
  for (const auto& set : update.replaced) {
    CHECK_OK(push(changes.get(), set, nullptr, LDNS_RR_CLASS_ANY, 0));
    for (const auto& value : set.values)
      CHECK_OK(push(changes.get(), set, &value, LDNS_RR_CLASS_IN, set.ttl));
  }
  for (const auto& set : update.removed) {
    for (const auto& value : set.values) CHECK_OK(push(changes.get(), set, &value, LDNS_RR_CLASS_NONE, 0));
  }
  auto zone = TRY(dname(update.zone));
  Packet packet(
      ldns_update_pkt_new(zone.release(), LDNS_RR_CLASS_IN, required.get(), changes.get(), nullptr));
  if (!packet) return refused("cannot make a DNS update");
  ldns_pkt_set_rd(packet.get(), false);
  ldns_pkt_set_id(packet.get(), random_id());
  return packet;
}

std::uint64_t time_in(const ldns_rdf* rdf) {
  std::uint64_t seconds = 0;
  for (std::size_t i = 0; i < std::min<std::size_t>(6, ldns_rdf_size(rdf)); ++i)
    seconds = seconds << 8 | ldns_rdf_data(rdf)[i];
  return seconds;
}

Result<> tsig_error(const Endpoint& server, const ldns_rr* tsig, const TsigKey& key, int error) {
  if (error == kBadKey) {
    return refused(fmt::format("{} does not know the TSIG key '{}' (BADKEY)", where(server), key.name),
                   "use the key that the zone's update-policy names, with the name that it has there");
  }
  if (error == kBadSig) {
    return refused(
        fmt::format("{} has another secret for the TSIG key '{}' (BADSIG)", where(server), key.name),
        "copy the key file from the name server again");
  }
  if (error != kBadTime) return refused(fmt::format("{} answers TSIG error {}", where(server), error));
  std::string server_time = "another time";
  const auto* other = ldns_rr_rd_count(tsig) > 6 ? ldns_rr_rdf(tsig, 6) : nullptr;
  if (other != nullptr && ldns_rdf_size(other) == 8) {  // a length of two bytes, and 48 bits of seconds
    std::uint64_t seconds = 0;
    for (std::size_t i = 2; i < 8; ++i) seconds = seconds << 8 | ldns_rdf_data(other)[i];
    server_time = fmt::format("{}, {} s from ours", format_wall(static_cast<std::int64_t>(seconds) * 1000),
                              static_cast<std::int64_t>(seconds) - wall_now_ms() / 1000);
  }
  return refused(fmt::format("the clocks of this host and of {} differ (BADTIME): there it is {}",
                             where(server), server_time),
                 "set both by NTP; TSIG allows 300 s");
}

Result<> verify(const Endpoint& server, const ldns_pkt* reply, const std::string& wire, const TsigKey& key,
                const ldns_rdf* mac) {
  const ldns_rr* tsig = ldns_pkt_tsig(reply);
  const auto unsigned_answer = [&] {
    return failure(ErrorKind::unknown,
                   fmt::format("the answer of {} ({}) does not carry a valid signature with key '{}'",
                               where(server), rcode_name(ldns_pkt_get_rcode(reply)), key.name),
                   "somebody between here and there may answer in its name");
  };
  if (tsig == nullptr || ldns_rr_rd_count(tsig) < 6) {
    if (ldns_pkt_get_rcode(reply) == LDNS_RCODE_NOERROR) return unsigned_answer();
    return refused(fmt::format("{} answers {} without a signature", where(server),
                               rcode_name(ldns_pkt_get_rcode(reply))),
                   "does it take dynamic updates for this zone at all?");
  }
  const int error = ldns_rdf2native_int16(ldns_rr_rdf(tsig, 5));
  if (error != 0) return tsig_error(server, tsig, key, error);
  const Rdf name = TRY(dname(key.name));
  const bool same = same_name(ldns_rr_owner(tsig), name.get()) &&
                    text_of(ldns_rdf2str(ldns_rr_rdf(tsig, 0))) == key.algorithm;
  if (!same ||
      !ldns_pkt_tsig_verify(const_cast<ldns_pkt*>(reply), reinterpret_cast<const std::uint8_t*>(wire.data()),
                            wire.size(), key.name.c_str(), key.secret.c_str(), mac)) {
    return unsigned_answer();
  }
  const auto signed_at = static_cast<std::int64_t>(time_in(ldns_rr_rdf(tsig, 1)));
  if (std::abs(signed_at - wall_now_ms() / 1000) > kFudgeSeconds) return unsigned_answer();
  return {};
}

Result<std::string> judge(const Endpoint& server, const std::string& zone, ldns_pkt_rcode rcode) {
  const auto name = rcode_name(rcode);
  switch (rcode) {
    case LDNS_RCODE_NOERROR:
    case LDNS_RCODE_NXRRSET:
    case LDNS_RCODE_YXRRSET:
    case LDNS_RCODE_NXDOMAIN:
    case LDNS_RCODE_YXDOMAIN:
      return name;
    case LDNS_RCODE_REFUSED:
      return refused(fmt::format("{} refuses the update of zone {} (REFUSED)", where(server), zone),
                     "its update-policy must let this key change the name and TXT at _midstream.<name>");
    case LDNS_RCODE_NOTAUTH:
      return refused(fmt::format("{} is not authoritative for zone {} (NOTAUTH)", where(server), zone),
                     "name the zone's primary");
    case LDNS_RCODE_NOTZONE:
      return refused(fmt::format("the name is not in zone {} for {} (NOTZONE)", zone, where(server)),
                     "correct the zone in the manifest");
    case LDNS_RCODE_NOTIMPL:
      return refused(fmt::format("{} takes no dynamic updates (NOTIMPL)", where(server)));
    case LDNS_RCODE_SERVFAIL:
      return retry(fmt::format("{} failed at the update of zone {} (SERVFAIL)", where(server), zone),
                   "its log says why; often the zone's journal cannot be written");
    default:
      return refused(fmt::format("{} answers {} to the update", where(server), name));
  }
}

}  // namespace

std::string_view to_string(Type type) {
  switch (type) {
    case Type::a:
      return "A";
    case Type::aaaa:
      return "AAAA";
    case Type::ns:
      return "NS";
    case Type::soa:
      return "SOA";
    case Type::txt:
      return "TXT";
    case Type::cname:
      return "CNAME";
  }
  return "?";
}

Result<Type> address_type(std::string_view name) {
  if (name == "A") return Type::a;
  if (name == "AAAA") return Type::aaaa;
  return refused(fmt::format("records of type '{}' are not repointed", printable(name)),
                 "only A and AAAA are");
}

bool has_route(const Endpoint& server) {
  return connect_udp(server).has_value();
}

Result<std::string> canonical_name(std::string_view name) {
  const auto rdf = TRY(dname(name));
  ldns_dname2canonical(rdf.get());
  return text_of(ldns_rdf2str(rdf.get()));
}

Result<std::string> canonical_address(Type type, std::string_view address) {
  const auto rdf = TRY(rdata(type, std::string(address)));
  return text_of(ldns_rdf2str(rdf.get()));
}

Result<Answer> ask(const Endpoint& server, std::string_view name, Type type, Deadline deadline,
                   const std::stop_token& stop) {
  const auto owner = TRY(dname(name));
  const Packet question(ldns_pkt_query_new(ldns_rdf_clone(owner.get()), code(type), LDNS_RR_CLASS_IN, 0));
  ldns_pkt_set_id(question.get(), random_id());
  const auto wire = TRY(wire_of(question.get()));
  auto reply = TRY(parse(TRY(exchange_udp(server, question.get(), wire, deadline, stop))));
  if (ldns_pkt_tc(reply.get())) {
    auto whole = exchange_tcp(server, wire, deadline, stop);
    if (!whole) return retry(whole.error().what, whole.error().todo);  // a question may always be asked again
    if (!answers(question.get(), *whole))
      return corrupt(fmt::format("{} answers something that was not asked", where(server)));
    reply = TRY(parse(*whole));
  }
  const auto* asked = ldns_pkt_question(reply.get());
  if (ldns_rr_list_rr_count(asked) == 1 &&
      !same_name(ldns_rr_owner(ldns_rr_list_rr(asked, 0)), owner.get())) {
    return corrupt(fmt::format("{} answers something that was not asked", where(server)));
  }
  return read_answer(reply.get(), owner.get(), type);
}

Result<std::string> send_update(const Endpoint& server, const Update& update, const TsigKey& key,
                                Deadline deadline, const std::stop_token& stop) {
  const auto packet = TRY(update_packet(update));
  const auto status = ldns_pkt_tsig_sign(packet.get(), key.name.c_str(), key.secret.c_str(), kFudgeSeconds,
                                         key.algorithm.c_str(), nullptr);
  if (status != LDNS_STATUS_OK)
    return refused(fmt::format("cannot sign with key '{}': {}", key.name, ldns_get_errorstr_by_id(status)));
  const auto wire = TRY(exchange_tcp(server, TRY(wire_of(packet.get())), deadline, stop));
  if (!answers(packet.get(), wire))
    return failure(ErrorKind::unknown, fmt::format("{} answers something that was not asked", where(server)));
  const auto reply = TRY(parse(wire));
  CHECK_OK(verify(server, reply.get(), wire, key, ldns_rr_rdf(ldns_pkt_tsig(packet.get()), 3)));
  return judge(server, update.zone, ldns_pkt_get_rcode(reply.get()));
}

}  // namespace midstream::dns
